"""The servers of a ``forward``: the words of its TO, parsed and looked up.

A word is an address (``dns://``, ``tls://`` or ``https://``), a host name, which is looked up once,
or a file like ``/etc/resolv.conf``, whose name servers are read, and read again when it changes.
(CoreDNS: plugin/forward/setup.go, resolve.go, plugin/pkg/parse)
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding import lookup
from clusterdns.host import interfaces, resolvconf
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp, read_regular

MAX_WORDS = 15
MAX_FILE_OCTETS = 65_536
MAX_FILE_SERVERS = 64  # CoreDNS has no limit; resolvers use three
DNS, TLS, HTTPS = "dns", "tls", "https"
_PORTS = {DNS: 53, TLS: 853, HTTPS: 443}
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_SERVER_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_log = plugin_logger("forward")


class Destination(NamedTuple):
    """An upstream server; ``server_name`` is the name in its certificate, "" for its address."""

    host: str
    port: int
    scheme: str = DNS
    server_name: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether it is asked over TLS, or over HTTPS."""
        return self.scheme != DNS


class ServerFile:
    """A file that names servers, in the syntax of resolv.conf(5)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: tuple[Destination, ...] = ()
        self._stamp: Stamp | None = None

    def refresh(self) -> bool:
        """Read the file if it has changed; tell whether its servers have changed.

        The last good servers stay in force if it names none or cannot be read.
        """
        try:
            read = read_regular(self.path, MAX_FILE_OCTETS, self._stamp)
        except OSError as error:
            self._keep(error.strerror or str(error), Stamp())
            return False
        if read is None:
            return False
        stamp, text = read[0], read[1].decode("utf-8", "replace")
        found = tuple(Destination(host, _PORTS[DNS]) for host in _name_servers(text, self.path))
        if not found:
            self._keep("names no server", stamp)
            return False
        self._stamp = stamp
        is_other, self.found = found != self.found, found
        return is_other

    def _keep(self, reason: str, stamp: Stamp) -> None:
        if stamp != self._stamp:
            kept = "; the servers it named are kept" if self.found else ""
            _log.warning("%s: %s%s", self.path, reason, kept)
        self._stamp = stamp


Servers = tuple[Destination, ...] | ServerFile  # of one word of TO


def read_words(directive: Directive, resolvers: tuple[str, ...]) -> list[Servers]:
    """Return the servers of the words of TO; ``resolvers``, if any, look up host names.

    Raises:
        ConfigError: a word is invalid, or there is no server.
    """
    found: list[Servers] = []
    for text in directive.args[1:]:
        scheme, _, rest = text.rpartition("://")
        scheme = scheme or DNS
        if scheme not in _PORTS:
            raise directive.error(f"{text}: {scheme}:// is not supported by clusterdns yet")
        if scheme == HTTPS and "/" in rest:
            raise directive.error(f"{text}: a path is not allowed, it is /dns-query")
        path = Path(rest)
        if _is_file(path):
            file = ServerFile(path)
            file.refresh()
            found.append(file)
        else:
            found.append(_resolve(rest, scheme, directive, resolvers))
    if len(found) > MAX_WORDS:
        raise directive.error(f"more than {MAX_WORDS} upstream servers")
    if not any(isinstance(entry, ServerFile) or entry for entry in found):
        raise directive.error("no upstream server")
    return found


def all_of(entries: Iterable[Servers]) -> list[Destination]:
    """Return the servers of all entries; of equal ones the first.

    Equal servers have the same transport, address, port, and server name in any letter case.
    """
    found: dict[Destination, Destination] = {}
    for entry in entries:
        for one in entry.found if isinstance(entry, ServerFile) else entry:
            found.setdefault(one._replace(server_name=one.server_name.lower()), one)
    return list(found.values())


def is_ourselves(destination: Destination, hosts: Sequence[str], ports: Collection[int]) -> bool:
    """Tell whether a destination is a listener on ``hosts`` (empty: all addresses)."""
    if destination.port not in ports:
        return False
    try:
        address = ipaddress.ip_address(destination.host)
    except ValueError:
        return False
    if not hosts or any(ipaddress.ip_address(host).is_unspecified for host in hosts):
        if address.is_loopback or address.is_unspecified:
            return True
        return str(address) in interfaces.non_loopback()
    return str(address) in hosts


def read_server_name(text: str, line: Directive) -> str:
    """Return the name or address that a TLS server's certificate must have, without last dot.

    A name in a certificate has no last dot (RFC 9525 section 2); one in a Corefile may.

    Raises:
        ConfigError: no certificate can have it.
    """
    found = text.removesuffix(".")
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(found))
    if not _SERVER_NAME.fullmatch(found):
        raise line.error(f"{text!r} is no TLS server name")
    return found


def check_resolvers(line: Directive) -> tuple[str, ...]:
    """Return the arguments of `resolver`, addresses with an optional port. Raises ConfigError."""
    for text in arguments.some(line):
        host, _ = lookup.host_and_port(text, _PORTS[DNS], line)
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise line.error(f"resolver must be an IP address or IP:port: {text!r}") from error
    return line.args


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a path
        return False


def _name_servers(text: str, path: Path) -> list[str]:
    found = []
    for word in resolvconf.nameservers(text):
        try:
            found.append(str(ipaddress.ip_address(word)))
        except ValueError:  # who starts a server in a Pod cannot repair the node's file
            _log.warning("%s: nameserver %.50s is no address and is not asked", path, word)
    if len(found) > MAX_FILE_SERVERS:
        _log.warning("%s: only the first %d servers are asked", path, MAX_FILE_SERVERS)
    return found[:MAX_FILE_SERVERS]


def _resolve(
    text: str, scheme: str, directive: Directive, resolvers: tuple[str, ...]
) -> tuple[Destination, ...]:
    """Return the servers of one word; a host name is looked up."""
    server_name = ""
    plain = text
    if scheme != DNS and "%" in text:  # 192.0.2.1%dns.test:853, [2001:db8::1%dns.test]:853
        before, _, after = text.rpartition("%")
        server_name, colon, port_text = after.partition(":")
        server_name = server_name.removesuffix("]")
        plain = before + ("]" if before.startswith("[") else "") + colon + port_text
        if not server_name:
            raise directive.error(f"{text!r} has no server name")
        server_name = read_server_name(server_name, directive)
    host, port = lookup.host_and_port(plain, _PORTS[scheme], directive)
    try:
        hosts = [str(ipaddress.ip_address(host))]
    except ValueError:
        hosts = lookup.addresses_of(host, directive, resolvers)
    return tuple(Destination(each, port, scheme, server_name) for each in hosts)
