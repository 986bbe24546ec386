"""Where a ``forward`` sends queries: the words of its TO, read and looked up.

A word is an address (``dns://`` or ``tls://``), a host name, which is looked up once, or a file
such as ``/etc/resolv.conf``, whose name servers are taken and taken anew when it changes. (CoreDNS:
plugin/forward/setup.go, resolve.go, plugin/pkg/parse)
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.forwarding.exchange import Exchange
from clusterdns.host import interfaces
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Question, Reply

MAX_WORDS = 15
MAX_FILE_OCTETS = 65_536
MAX_FILE_SERVERS = 64  # CoreDNS knows no bound; a resolver takes three
LOOKUP_TIMEOUT_S = 2.0  # of one query to one resolver
DNS, TLS = "dns", "tls"
_PORTS = {DNS: 53, TLS: 853}
_log = plugin_logger("forward")


class Destination(NamedTuple):
    """An upstream server; ``server_name`` is what it proves to be, if not its address."""

    host: str
    port: int
    is_tls: bool = False
    server_name: str = ""


class ServerFile:
    """A file that names servers, in the syntax of resolv.conf(5)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: tuple[Destination, ...] = ()
        self._stamp: tuple[int, ...] = ()

    def refresh(self) -> bool:
        """Read the file if it has changed; tell whether it names other servers now.

        The last good ones stay if it names none, or cannot be read.
        """
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)
            if stamp == self._stamp:
                return False
            with self.path.open("rb") as file:
                text = file.read(MAX_FILE_OCTETS).decode("utf-8", "replace")
        except OSError as error:
            self._keep(error.strerror or "cannot be read", (-1,))
            return False
        found = tuple(Destination(host, _PORTS[DNS]) for host in _name_servers(text, self.path))
        if not found:
            self._keep("names no server", stamp)
            return False
        self._stamp = stamp
        is_other, self.found = found != self.found, found
        return is_other

    def _keep(self, reason: str, stamp: tuple[int, ...]) -> None:
        if stamp != self._stamp:
            kept = "; the servers it named are kept" if self.found else ""
            _log.warning("%s: %s%s", self.path, reason, kept)
        self._stamp = stamp


Entry = tuple[Destination, ...] | ServerFile


def read_words(directive: Directive, resolvers: tuple[str, ...]) -> list[Entry]:
    """Return what the words of TO stand for, host names asked of ``resolvers``, if any.

    Raises:
        ConfigError: a word is none of what it may be, or no server comes of them.
    """
    found: list[Entry] = []
    for text in directive.args[1:]:
        scheme, _, rest = text.rpartition("://")
        scheme = scheme or DNS
        if scheme not in _PORTS:
            raise directive.error(f"{text}: {scheme}:// is not supported by clusterdns yet")
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


def all_of(entries: Iterable[Entry]) -> list[Destination]:
    """Return the servers of all entries, each address once; the first one counts."""
    found: dict[tuple[str, int], Destination] = {}
    for entry in entries:
        for one in entry.found if isinstance(entry, ServerFile) else entry:
            found.setdefault((one.host, one.port), one)
    return list(found.values())


def is_ourselves(destination: Destination, hosts: Sequence[str], ports: Collection[int]) -> bool:
    """Tell whether what is sent there comes to who listens on ``hosts`` (none: all of them)."""
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


def tls_context(files: tuple[str, ...], line: Directive, root: Path) -> ssl.SSLContext:
    """Return how servers are verified: ``[CA]`` or ``CERT KEY [CA]``, the system's CAs otherwise.

    TLS 1.2 is the least. (CoreDNS: plugin/pkg/tls) Raises ConfigError.
    """
    if len(files) > 3:
        raise line.error("wants [CA] or CERT KEY [CA]")
    paths = [str(root / file) for file in files]
    authority = paths[-1] if len(paths) in (1, 3) else ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
        if len(paths) > 1:
            context.load_cert_chain(paths[0], paths[1], password=lambda: "")
    except ssl.SSLError as error:
        raise line.error(f"{' '.join(files)}: {error.reason or error}") from error
    except (OSError, ValueError) as error:
        raise line.error(f"{' '.join(files)}: {error}") from error
    return context


def check_resolvers(line: Directive) -> tuple[str, ...]:
    """Return the arguments of `resolver`, addresses with an optional port. Raises ConfigError."""
    for text in arguments.some(line):
        host, _ = _host_and_port(text, _PORTS[DNS], line)
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise line.error(f"resolver must be an IP address or IP:port: {text!r}") from error
    return line.args


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for one
        return False


def _name_servers(text: str, path: Path) -> list[str]:
    found = []
    for words in map(str.split, text.splitlines()):
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            found.append(str(ipaddress.ip_address(words[1])))
        except ValueError:  # nobody who starts a server in a Pod can mend the node's file
            _log.warning("%s: nameserver %.50s is no address and is not asked", path, words[1])
    if len(found) > MAX_FILE_SERVERS:
        _log.warning("%s: only the first %d servers are asked", path, MAX_FILE_SERVERS)
    return found[:MAX_FILE_SERVERS]


def _host_and_port(text: str, port: int, directive: Directive) -> tuple[str, int]:
    """Return the parts of ``host[:port]``; an IPv6 address with a port is in brackets."""
    host, given = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        given = rest.removeprefix(":")
        if rest == ":" or (rest and not rest.startswith(":")):
            given = "none"
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
        given = given or "none"
    if not given:
        return host, port
    if not (given.isascii() and given.isdigit()) or not 1 <= int(given[:6]) <= 65535:
        raise directive.error(f"{text!r} has no valid port")
    return host, int(given)


def _resolve(
    text: str, scheme: str, directive: Directive, resolvers: tuple[str, ...]
) -> tuple[Destination, ...]:
    """Return the servers that one word stands for; a host name is looked up."""
    is_tls, server_name = scheme == TLS, ""
    plain = text
    if is_tls and "%" in text:  # 192.0.2.1%dns.test:853, [2001:db8::1%dns.test]:853
        before, _, after = text.rpartition("%")
        server_name, colon, port_text = after.partition(":")
        server_name = server_name.removesuffix("]")
        plain = before + ("]" if before.startswith("[") else "") + colon + port_text
        if not server_name:
            raise directive.error(f"{text!r} has no server name")
    host, port = _host_and_port(plain, _PORTS[scheme], directive)
    try:
        hosts = [str(ipaddress.ip_address(host))]
    except ValueError:
        hosts = _look_up(host, directive, resolvers)
    return tuple(Destination(each, port, is_tls, server_name) for each in hosts)


def _look_up(host: str, directive: Directive, resolvers: tuple[str, ...]) -> list[str]:
    """Return the addresses of a host name. Raises ConfigError."""
    reason = "it has no address"
    try:
        wire = name.parse(host if host.endswith(".") else f"{host}.")
        if not resolvers:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
            return list(dict.fromkeys(str(info[4][0]) for info in infos))
        for resolver in resolvers:
            address = _host_and_port(resolver, _PORTS[DNS], directive)
            found = []
            try:
                for rtype in (rr.A, rr.AAAA):
                    question = Question(wire, name.fold(wire), rtype)
                    out = Exchange.begin(secrets.randbits(16), question, message.RD, None)
                    found += _addresses_in(ask(address, out, LOOKUP_TIMEOUT_S), rtype)
            except OSError as error:
                reason = f"{resolver}: {error.strerror or 'i/o timeout'}"
            if found:
                return found
    except (OSError, UnicodeError, FormError) as error:
        reason = str(error)
    raise directive.error(f"{host!r} is no address or file, and cannot be looked up: {reason}")


def ask(address: tuple[str, int], out: Exchange, timeout_s: float) -> Reply:
    """Return a name server's reply over UDP, waiting for it: at the start, not on the packet path.

    Raises:
        OSError: there is none in time, or the network says why.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.send(out.packet)
        deadline = time.monotonic() + timeout_s
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            reply = out.read(sock.recv(message.MAX_OCTETS))
            if reply is not None and out.is_answered_by(reply):
                return reply


def _addresses_in(reply: Reply, rtype: int) -> list[str]:
    return [
        str(ipaddress.ip_address(record.rdata)) for record in reply.answer if record.rtype == rtype
    ]
