"""Lookup of upstream servers that are given as host names, at the start.

``addresses_of`` asks the resolvers that `resolver` names, or else the hosts file and the system.
Its functions block; none is on the packet path.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import time
from pathlib import Path

from clusterdns import errors
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.forwarding.exchange import Exchange
from clusterdns.host import addresses
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.reading import Reply

LOOKUP_TIMEOUT_S = 2.0  # of one query to one resolver
DNS_PORT = 53
HOSTS_FILE = Path("/etc/hosts")
MAX_HOSTS_CHARACTERS = 1_000_000


def addresses_of(host: str, directive: Directive, resolvers: tuple[str, ...]) -> list[str]:
    """Return the addresses of a host name, which is absolute with or without the last dot.

    The hosts file is read first; names in it have no last dot. (CoreDNS: resolve.go)

    Raises:
        ConfigError: it has no address, or no resolver replied.
    """
    reason = "it has no address"
    try:
        wire = name.parse(host if host.endswith(".") else f"{host}.")
        if not resolvers:
            known = _in_hosts_file(host)
            if known:
                return known
            absolute = f"{host.removesuffix('.')}."  # no search list
            infos = socket.getaddrinfo(absolute, None, type=socket.SOCK_DGRAM)
            return list(dict.fromkeys(str(info[4][0]) for info in infos))
        for resolver in resolvers:
            address = host_and_port(resolver, DNS_PORT, directive)
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
    except OSError as error:
        reason = errors.reason(error)
    except (UnicodeError, FormError) as error:
        reason = str(error)
    raise directive.error(f"{host!r} is no address or file, and cannot be looked up: {reason}")


def ask(address: tuple[str, int], out: Exchange, timeout_s: float) -> Reply:
    """Return a name server's reply over UDP; blocks, so not for the packet path.

    Raises:
        OSError: no reply came in time, or the network failed.
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


def _in_hosts_file(host: str) -> list[str]:
    """Return the addresses of a name in the hosts file (hosts(5)), if there is one."""
    wanted, found = host.removesuffix(".").lower(), list[str]()
    try:
        with HOSTS_FILE.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_HOSTS_CHARACTERS).splitlines()
    except OSError:
        return []
    for line in lines:
        words = line.partition("#")[0].split()
        if wanted in (word.removesuffix(".").lower() for word in words[1:]):
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[0])))
    return list(dict.fromkeys(found))


def host_and_port(text: str, port: int, directive: Directive) -> tuple[str, int]:
    """Return the parts of ``host[:port]``. Raises ConfigError."""
    try:
        host, given = addresses.split(text)
        return host, port if given is None else addresses.read_port(given)
    except ValueError as error:
        raise directive.error(f"{text!r} has no valid port") from error
