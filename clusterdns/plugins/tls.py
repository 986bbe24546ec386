"""tls - the certificate of a server block whose keys begin with `tls://`.

Syntax:

    tls CERT KEY [CA] {
        client_auth nocert|verify_if_given|require_and_verify
    }

Keys such as `tls://example.org` or `tls://.:8853` are served over TLS (RFC 7858), on port 853 where
they name none. CERT is a PEM file with the server's certificate and those it is issued by, KEY has
its private key without a password, and CA the authorities of clients' certificates, by default the
system's. Paths are relative to `root`. TLS 1.2 is the least. `client_auth` says whether clients
have to show a certificate: never, by default; or only a valid one, if any; or always.

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
`dns://`: CoreDNS lets the kernel choose for each connection. Certificates are read at the start,
and when the Corefile has changed.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Passive
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host import encryption


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
        try:
            block.encryption = encryption.load(certificate, key, authority, client_auth)
        except ValueError as error:
            raise directive.error(str(error)) from error


def _client_auth(line: Directive) -> str:
    text = arguments.one(line)
    if text in ("request", "require"):
        raise line.error(f"{text!r} verifies no certificate: use verify_if_given or "
                         "require_and_verify")  # fmt: skip
    if text not in encryption.CLIENT_AUTH:
        raise line.error(f"wants one of {', '.join(encryption.CLIENT_AUTH)}, got {text!r}")
    return text
