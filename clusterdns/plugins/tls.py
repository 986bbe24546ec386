"""tls - the certificate of a server block whose keys begin with `tls://`.

Syntax:

    tls CERT KEY [CA] {
        client_auth nocert|verify_if_given|require_and_verify
    }

Keys such as `tls://example.org` or `tls://.:8853` are served over TLS (RFC 7858), on port 853 by
default. CERT is a PEM file with the server's certificate and its intermediate certificates, KEY has
its private key without a password, and CA has the CAs of client certificates, by default the
system's. Paths are relative to `root`. TLS 1.2 is required. `client_auth` sets whether clients need
a certificate: never, the default; a valid one if they have one; or always.

Files that change are read again within 5 s, for new connections. If they cannot be used, the last
good ones stay in force, and the log says why.

A client has 3s, or `read` of `timeouts`, for the handshake and its first query; then it is a TCP
connection like any other. Server blocks of one port must have the same certificate, CA and
`client_auth`. Without `tls`, a port of `tls://` is served unencrypted, as in CoreDNS: for a proxy
in front that has taken off the TLS.

Examples:

    tls://. {
        tls tls.crt tls.key
        forward . /etc/resolv.conf
    }

Differences from CoreDNS: `client_auth request` and `require`, which look at no certificate they
get, `keylog`, and ACME (`tls` without files) are refused. One port cannot have both `tls://` and
`dns://`: CoreDNS lets the kernel choose for each connection. CoreDNS reads the files at the start,
and when the Corefile has changed.
"""

from __future__ import annotations

import asyncio

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive, Worker
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.encryption import CLIENT_AUTH, Encryption
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp
from clusterdns.host.tasks import end

RECHECK_S = 5.0
_log = plugin_logger("tls")


class Tls(Passive):
    """Reads the certificates of its server block."""

    def __init__(self, directive: Directive, block: Block) -> None:
        if not directive.args:
            raise directive.error("clusterdns obtains no certificates: wants CERT KEY [CA]")
        if not 2 <= len(directive.args) <= 3:
            raise directive.error("wants CERT KEY [CA]")
        client_auth = "nocert"
        for line in directive.block:
            match line.name:
                case "client_auth":
                    client_auth = _client_auth(line)
                case "keylog":
                    raise line.error("clusterdns writes no keys to files")
                case _:
                    raise line.unknown("client_auth")
        certificate, key, *authorities = [block.path(each) for each in directive.args]
        authority = authorities[0] if authorities else None
        self._files = (certificate, key, *authorities)
        self._stamps = self._look()
        try:
            self._encryption = Encryption(certificate, key, authority, client_auth)
        except ValueError as error:
            raise directive.error(str(error)) from error
        block.encryption = self._encryption
        self._polling: asyncio.Task[None] | None = None

    async def start(self, worker: Worker) -> None:
        """Check the files now, since they may be newer than this worker, and poll them."""
        self._refresh()
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Look at the files no more."""
        await end(self._polling)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            self._refresh()

    def _refresh(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._encryption.refresh()
            _log.info("certificates have changed and are in force")
        except ValueError as error:
            _log.error("certificates have changed, the last good ones stay in force: %s", error)

    def _look(self) -> list[Stamp | None]:
        return [Stamp.at(file) for file in self._files]


def _client_auth(line: Directive) -> str:
    text = arguments.one(line)
    if text in ("request", "require"):
        raise line.error(f"{text!r} verifies no certificate: use verify_if_given or "
                         "require_and_verify")  # fmt: skip
    if text not in CLIENT_AUTH:
        raise line.error(f"wants one of {', '.join(CLIENT_AUTH)}, got {text!r}")
    return text
