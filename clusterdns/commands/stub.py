"""A stub resolver that shows its work: which names it asks, of whom, and what each reply says.

It asks as glibc, musl or Go would ask for one name with the search list and the options of a
resolv.conf (``host.resolvconf``), and counts the messages that it sends and receives.

How a name is asked: glibc and Go go from server to server after SERVFAIL, REFUSED or silence, and
around `attempts` times (glibc resolv/res_send.c, Go net/dnsclient_unix.go). musl asks all servers
at once, repeats after SERVFAIL twice, and reads no other failure as an answer (musl
src/network/res_msend.c); here it takes REFUSED at once, where it would wait in vain.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from clusterdns.errors import UpstreamError
from clusterdns.host import addresses, resolvconf
from clusterdns.host.resolvconf import ResolvConf, Resolver, SearchOutcome

PORT = 53
MUSL_REPEATS = 2
_WORST_FIRST = (
    SearchOutcome.TIMEOUT,
    SearchOutcome.SERVFAIL,
    SearchOutcome.REFUSED,
    SearchOutcome.NXDOMAIN,
    SearchOutcome.NODATA,
)


class Exchange(NamedTuple):
    """A question and what came of it.

    ``records`` are the texts of the answer section's records without owner and class; ``text``
    is the RCODE or what happened instead; ``messages`` counts queries and replies.
    """

    name: str
    rtype: str
    outcome: SearchOutcome
    text: str
    records: tuple[str, ...]
    addresses: tuple[str, ...]  # the data of the records with the type asked for
    seconds: float
    messages: int


class Walk(NamedTuple):
    """The exchanges of a lookup, in order, and the data that the program gets."""

    exchanges: tuple[Exchange, ...]
    found: tuple[str, ...]
    by: str  # the name that gave it, "" if none did

    @property
    def messages(self) -> int:
        """The number of queries and replies."""
        return sum(each.messages for each in self.exchanges)

    @property
    def seconds(self) -> float:
        """The time it takes; the types of a name are asked for at once."""
        longest = dict[str, float]()
        for each in self.exchanges:
            longest[each.name] = max(longest.get(each.name, 0), each.seconds)
        return sum(longest.values())

    @property
    def is_unanswered(self) -> bool:
        """Whether no server has replied."""
        return all(each.outcome is SearchOutcome.TIMEOUT for each in self.exchanges)


Ask = Callable[[str, str], Exchange]


class Stub:
    """Asks the servers of a resolv.conf, each question once."""

    def __init__(self, conf: ResolvConf, resolver: Resolver) -> None:
        self._conf = conf
        self._resolver = resolver
        self._servers = [_endpoint(each) for each in conf.nameservers]
        self._known: dict[tuple[str, str], Exchange] = {}

    def ask(self, name: str, rtype: str) -> Exchange:
        """Return the exchange of a question; a repeated one is not sent again."""
        found = self._known.get((name, rtype))
        if found is None:
            found = self._known[name, rtype] = self._exchange(name, rtype)
        return found

    def _exchange(self, name: str, rtype: str) -> Exchange:
        began, messages = time.monotonic(), 0
        outcome, text, records, data = SearchOutcome.TIMEOUT, "no server", list[str](), list[str]()
        for server in self._order():
            reply, sent, text = self._once(name, rtype, server)
            messages += sent
            outcome = _outcome(reply)
            if reply is not None and outcome not in _REPEATED:
                records, data = _answers(reply, rtype)
                break
        seconds = time.monotonic() - began
        return Exchange(name, rtype, outcome, text, tuple(records), tuple(data), seconds, messages)

    def _order(self) -> Iterator[tuple[str, int]]:
        """Yield the servers in the order in which one is asked after another has failed."""
        if self._resolver == "musl":
            yield from self._servers
            yield from self._servers[:1] * MUSL_REPEATS
        else:
            yield from self._servers * self._conf.attempts

    def _once(
        self, name: str, rtype: str, server: tuple[str, int]
    ) -> tuple[dns.message.Message | None, int, str]:
        """Return the reply of a server, the number of messages, and the RCODE or the failure."""
        try:
            query = dns.message.make_query(name, rtype)
        except dns.exception.DNSException as error:
            raise UpstreamError(f"{name}: {error}") from error
        try:
            reply = _over_udp(query, server, self._conf.timeout_s)
            if not reply.flags & dns.flags.TC:
                return reply, 2, dns.rcode.to_text(reply.rcode())
            reply = dns.query.tcp(query, server[0], self._conf.timeout_s, server[1])
            return reply, 4, f"{dns.rcode.to_text(reply.rcode())} over TCP"
        except dns.exception.Timeout:
            return None, 1, f"no reply in {self._conf.timeout_s} s"
        except (OSError, dns.exception.DNSException, ValueError) as error:
            return None, 1, getattr(error, "strerror", None) or str(error) or type(error).__name__


def _over_udp(
    query: dns.message.Message, server: tuple[str, int], timeout_s: float
) -> dns.message.Message:
    """Return the reply over a connected socket, which is told of a port that nobody reads."""
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(server)
        return dns.query.udp(
            query, server[0], timeout_s, server[1], ignore_unexpected=True, sock=sock
        )


_REPEATED = (SearchOutcome.TIMEOUT, SearchOutcome.SERVFAIL, SearchOutcome.REFUSED)


def _endpoint(text: str) -> tuple[str, int]:
    """Return address and port of ``address[:port]``. Raises UpstreamError."""
    try:
        host, port = addresses.split(text)
        ipaddress.ip_address(host)  # a name would need a resolver of its own
        return host, PORT if port is None else addresses.read_port(port)
    except ValueError as error:
        raise UpstreamError(f"server {text}: {error}") from error


def _outcome(reply: dns.message.Message | None) -> SearchOutcome:
    if reply is None:
        return SearchOutcome.TIMEOUT
    if reply.rcode() == dns.rcode.NOERROR:
        return SearchOutcome.ANSWER if reply.answer else SearchOutcome.NODATA
    return {
        dns.rcode.NXDOMAIN: SearchOutcome.NXDOMAIN,
        dns.rcode.SERVFAIL: SearchOutcome.SERVFAIL,
    }.get(reply.rcode(), SearchOutcome.REFUSED)


def _answers(reply: dns.message.Message, rtype: str) -> tuple[list[str], list[str]]:
    """Return all records of an answer as texts, and the data of those of the type asked for."""
    records, data = list[str](), list[str]()
    for rrset in reply.answer:
        kind = dns.rdatatype.to_text(rrset.rdtype)
        for rdata in rrset:
            records.append(f"{'' if kind == rtype else kind + ' '}{rdata} ttl {rrset.ttl}")
            if kind == rtype:
                data.append(str(rdata))
    return records, data


def walk(conf: ResolvConf, host: str, resolver: Resolver, types: Sequence[str], ask: Ask) -> Walk:
    """Ask for a name as a resolver does, once for each type, until it would stop."""
    asked: list[Exchange] = []

    def outcome(name: str) -> SearchOutcome:
        exchanges = [ask(name, rtype) for rtype in types]
        asked.extend(exchanges)
        outcomes = {_of_types(each) for each in exchanges}
        if SearchOutcome.ANSWER in outcomes:
            return SearchOutcome.ANSWER
        return next(each for each in _WORST_FIRST if each in outcomes)

    steps = resolvconf.walk(conf, host, resolver, outcome)
    if not steps or steps[-1][1] is not SearchOutcome.ANSWER:
        return Walk(tuple(asked), (), "")
    by = steps[-1][0]
    found = [data for each in asked if each.name == by for data in each.addresses]
    return Walk(tuple(asked), tuple(found), by)


def _of_types(exchange: Exchange) -> SearchOutcome:
    """Return the outcome; an alias without a record of the type is no data."""
    if exchange.outcome is SearchOutcome.ANSWER and not exchange.addresses:
        return SearchOutcome.NODATA
    return exchange.outcome
