"""kube-dns's ConfigMap in a mounted directory, polled for changes.

``ConfigDir`` is a ``Loader`` for the supervisor. ``read`` returns the content of the directory, and
the addresses of the host names in it, as one text; the supervisor compiles it when it has changed.
A mistake is reported once, and the last good configuration stays in force.

Host names of stub domains' servers (kube-dns: pkg/dnsmasq/nanny.go): a name of the cluster is
looked up in ourselves, once we serve, and again when it changes; another name is looked up by the
node's resolver, until it is known.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from clusterdns.config import configmap, kubedns
from clusterdns.errors import ClusterDNSError, ConfigError
from clusterdns.forwarding import lookup
from clusterdns.forwarding.exchange import Exchange
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Question

ASK_TIMEOUT_S = 1.0
ASK_ALL_TIMEOUT_S = 10.0
_LOOPBACK = "127.0.0.1"
_EDNS = message.Edns(4096, 0, 0)  # a headless Service has many addresses


class ConfigDir:
    """The configuration of a directory; ``own`` reads the operator's Corefile."""

    def __init__(
        self,
        directory: Path,
        *,
        zone: str,
        port: int,
        warn: kubedns.Warn,
        own: Callable[[], str] | None = None,
    ) -> None:
        self._directory = directory
        self._zone = zone
        self._port = port
        self._warn = warn
        self._own = own
        self._addresses: dict[str, list[str]] = {}
        self._is_first = True

    def read(self) -> str:
        """Return all parts of the configuration as JSON text. Raises OSError."""
        own = self._own() if self._own else ""
        try:
            entries = {
                key: entry.value for key, entry in configmap.from_directory(self._directory).items()
            }
        except OSError as error:  # `corefile` reports it, once
            return json.dumps({"error": f"{self._directory}: {error.strerror or error}"})
        with contextlib.suppress(ConfigError):  # reported by `corefile`
            self._look_up(self._settings(entries, lambda _: None).names())
        self._is_first = False
        return json.dumps({"own": own, "entries": entries, "addresses": self._addresses})

    def corefile(self, text: str) -> str:
        """Return the Corefile of a text from ``read``.

        Raises:
            ClusterDNSError: the directory cannot be read, or an entry has a mistake.
        """
        found = json.loads(text)
        if "error" in found:
            raise ClusterDNSError(found["error"])
        settings = self._settings(found["entries"], self._warn)
        return self._translate(settings, found["own"], found["addresses"])

    def defaults(self, text: str) -> str:
        """Return the Corefile of an empty directory and the ``own`` of ``text``."""
        return self._translate(kubedns.KubeDnsSettings({}, ()), json.loads(text).get("own", ""), {})

    def _settings(self, entries: Mapping[str, str], warn: kubedns.Warn) -> kubedns.KubeDnsSettings:
        known = {
            key: configmap.mounted_entry(self._directory, key, value)
            for key, value in entries.items()
        }
        return kubedns.read(known, zone=self._zone, warn=warn)

    def _translate(
        self, settings: kubedns.KubeDnsSettings, own: str, addresses: Mapping[str, list[str]]
    ) -> str:
        return kubedns.translate(
            settings, zone=self._zone, port=self._port, warn=self._warn, own=own,
            addresses=addresses,
        )  # fmt: skip

    def _look_up(self, names: list[str]) -> None:
        """Update the addresses of ``names``; keep those that cannot be looked up."""
        deadline = time.monotonic() + ASK_ALL_TIMEOUT_S
        known, self._addresses = self._addresses, {}
        for host in names:
            found: list[str] | None = known.get(host)
            if time.monotonic() < deadline:
                if kubedns.is_within(host, self._zone):
                    told = None if self._is_first else ask((_LOOPBACK, self._port), host)
                    found = found if told is None else told
                elif not found:
                    found = _system_addresses(host)
            if found:
                self._addresses[host] = found


def ask(server: tuple[str, int], host: str) -> list[str] | None:
    """Return the addresses of ``host`` by a name server, sorted; None without a reply."""
    found: list[str] = []
    for qtype, family in ((rr.A, socket.AF_INET), (rr.AAAA, socket.AF_INET6)):
        wire = name.parse(host)
        question = Question(wire, name.fold(wire), qtype)
        try:
            out = Exchange.begin(secrets.randbits(16), question, message.RD, _EDNS)
            reply = lookup.ask(server, out, ASK_TIMEOUT_S)
            is_unread = reply.flags & message.TC and not reply.answer  # truncated or malformed
            if is_unread or reply.rcode not in (rr.NOERROR, rr.NXDOMAIN):
                return None
            rdata = [record.rdata for record in reply.answer if record.rtype == qtype]
            found += [socket.inet_ntop(family, octets) for octets in rdata]
        except (OSError, ValueError):  # no reply, or RDATA that is not an address
            return None
    return sorted(found)


def _system_addresses(host: str) -> list[str] | None:
    """Return the addresses of ``host`` by the node's resolver, sorted; None if it has none."""
    try:
        found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    return sorted({str(item[4][0]) for item in found})
