"""Responses of a Kubernetes zone: records by query type, NODATA, NXDOMAIN.

``Responder.respond`` is a generator: it yields each question that must be asked outside the zone
(the target of an ExternalName), is sent the response to it, and returns the response to its own
question, or None for the next plugin to answer (fallthrough). The caller decides whether to wait.
Rules: CoreDNS plugin/kubernetes/handler.go, plugin/backend_lookup.go.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Iterable
from typing import Final, NamedTuple

from clusterdns.cluster import reasons
from clusterdns.cluster.records import (
    Entry,
    Lookup,
    Parsed,
    RecordOptions,
    address_records,
    glue_records,
    owner_name,
    parse,
    server_records,
)
from clusterdns.cluster.store import IMPORT_SERIAL, SERIAL, Fact, Store
from clusterdns.errors import FormError
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, TC, Question, extended_error
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Node, Passing, Response, failure
from clusterdns.wire.rr import RR

DNS_VERSION: Final = "1.1.0"  # the schema version (DNS spec 1.1.0 section 2.2)
DNS_VERSION_TTL_S: Final = 28800
MAX_SOA_TTL_S: Final = 300
MAX_CHAIN: Final = 10  # most CNAMEs before the last
# For clients with EDNS: Not Ready and Other of RFC 8914 section 4. CoreDNS gives no reason.
NOT_LISTED: Final = extended_error(14, "the cluster has not been listed yet")
UNLISTED: Final = Response(rr.SERVFAIL, 0, lifetime_s=0, edns=NOT_LISTED)
CIRCLE: Final = extended_error(0, "aliases lead around in a circle")

_DNS: Final = b"\x03dns"
_NS_DNS: Final = b"\x02ns" + _DNS
_OURS: Final = (rr.SOA, rr.AXFR, rr.IXFR)  # types that we answer for any name of our zones
# Records whose RDATA spells no name of the question's zone, or only by a compression pointer.
_WITHOUT_NAMES: Final = frozenset((rr.A, rr.AAAA, rr.TXT, rr.PTR, rr.SOA))
_HOSTMASTER: Final = b"\x0ahostmaster"

Records = tuple[list[RR], list[RR]]  # answer and additional section
Asking = Generator[Question, Response, "Records | None"]


class AskedZone(NamedTuple):
    """The zone that a question lies in, folded and as the client spelled it."""

    folded: WireName
    case: bytes
    is_multicluster: bool


def is_reverse(folded: WireName) -> bool:
    """Tell whether a name lies below ``in-addr.arpa`` or ``ip6.arpa``.

    These two names do not, so they may be the primary zone (CoreDNS: pkg/dnsutil
    IsReverse looks for ``.in-addr.arpa.`` with its first dot).
    """
    return folded not in name.REVERSE_ZONES and name.is_within_any(folded, name.REVERSE_ZONES)


class Responder:
    """The Kubernetes zones of one server block, answered from a store."""

    def __init__(
        self,
        store: Store,
        options: RecordOptions,
        zones: Iterable[WireName],
        *,
        ttl: int = 5,
        multicluster: Iterable[WireName] = (),
        fallthrough: Iterable[WireName] = (),
        local_addresses: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._options = options
        self._zones = tuple(zones)
        self._longest_first = sorted(self._zones, key=len, reverse=True)
        # Names of others are not reverse ones, which takes longer to tell.
        self._has_reverse = frozenset(
            zone
            for zone in self._zones
            if name.is_within_any(zone, name.REVERSE_ZONES)
            or any(name.is_within(each, zone) for each in name.REVERSE_ZONES)
        )
        self._primary = next(zone for zone in self._zones if not is_reverse(zone))
        self._ttl = ttl
        self._multicluster = frozenset(
            zone for zone in self._zones if name.is_within_any(zone, tuple(multicluster))
        )
        self._fallthrough = tuple(fallthrough)
        # Zones whose names we pass on if they do not exist, and which these are.
        self.passing = Passing(store.services.addresses, _NS_DNS, _OURS)
        self.passed = frozenset(
            zone
            for zone in self._zones
            if name.is_within_any(zone, name.REVERSE_ZONES)
            and name.is_within_any(zone, self._fallthrough)
        )
        self._local_addresses = local_addresses
        self._last_soa = ((-1, b""), RR(b"", 0, 0, b""))

    def longest_zone(self, folded: WireName) -> WireName | None:
        """Return the longest of the zones that a name lies in, or None."""
        for zone in self._longest_first:
            if folded.endswith(zone) and name.is_within(folded, zone):
                return zone
        return None

    def zone_of(self, question: Question) -> AskedZone | None:
        """Return the zone that a question lies in, or None."""
        zone = self.longest_zone(question.folded)
        if zone is None:
            return None
        return AskedZone(zone, question.qname[-len(zone) :], zone in self._multicluster)

    def passes(self, question: Question, zone: AskedZone) -> bool:
        """Tell whether a question is surely for the next plugin, as ``respond`` would find out.

        Most questions in a reverse zone with `fallthrough` are. An explained query takes the long
        way, which has notes.
        """
        if zone.folded not in self.passed or trace.scribe() is not None:
            return False
        return self.passing.has(question, zone.folded)

    def has(self, folded: WireName) -> bool:
        """Tell whether a name that the next plugin may have answered is one of ours now."""
        if not name.is_within_any(folded, self._fallthrough):
            return False
        question = Question(folded, folded, rr.A)
        zone = self.zone_of(question)
        if zone is None or zone.folded in self.passed:
            return False
        lookup = Lookup(self._store, self._options, is_multicluster=zone.is_multicluster)
        with trace.noted_by(None):
            return self._entries(question, zone, lookup) is not None

    def respond(
        self, question: Question, zone: AskedZone
    ) -> Generator[Question, Response, Response | None]:
        """Yield questions outside the zone; return the response, or None for fallthrough."""
        response = yield from self._respond(question, zone)
        if response is None or response.answer:  # that has been told already
            return response
        if not _follows_case(question, (), zone.folded):
            return response
        return response._replace(follows_case=True)

    def _respond(
        self, question: Question, zone: AskedZone
    ) -> Generator[Question, Response, Response | None]:
        taker = trace.scribe()
        if question.qtype in (rr.AXFR, rr.IXFR):
            if taker is not None:
                taker.blame("zones are transferred by the plugin `transfer` only")
            return failure(rr.REFUSED)
        lookup = Lookup(self._store, self._options, is_multicluster=zone.is_multicluster)
        outside: list[Response] = []
        if taker is not None:
            taker.note(f"in the zone {name.text(zone.folded)} of the cluster")
        try:
            found = yield from self._records(question, zone, lookup, outside)
        except FormError as error:
            return failure(rr.SERVFAIL, f"plugin/kubernetes: {error}")
        facts: tuple[Hashable, ...] = tuple(lookup.facts)
        if found is None:
            if taker is not None:
                self._note_name_error(taker, question, zone)
            denial = self._name_error(question.folded, zone, lookup, facts)
            if denial is None or denial.rcode != rr.NXDOMAIN:
                return denial
            return self._with_cut(denial, question, zone, lookup)
        answer, additional = found
        if not answer and taker is not None:
            taker.blame(
                f"the name exists, but has no record of type {rr.type_text(question.qtype)}"
            )
        if not answer:
            rcode = rr.SERVFAIL if lookup.needs & self._store.refused else rr.NOERROR
            nothing = self._negative(rcode, zone, facts)
            if lookup.has_circle:
                return nothing._replace(edns=CIRCLE)
            # Whether a name exists or not, there is no SOA but that of the apex.
            is_denied = question.qtype == rr.SOA and question.folded != zone.folded
            return self._with_cut(nothing, question, zone, lookup) if is_denied else nothing
        flags, lifetime_s = AA, float("inf")
        for response in outside:
            flags |= response.flags & TC
            lifetime_s = min(lifetime_s, response.lifetime_s)
            facts += response.facts
        return Response(
            rr.NOERROR,
            flags,
            tuple(answer),
            additional=tuple(additional),
            lifetime_s=lifetime_s,
            facts=facts,
            follows_case=_follows_case(question, answer, zone.folded),
        )

    def _records(
        self, question: Question, zone: AskedZone, lookup: Lookup, outside: list[Response]
    ) -> Asking:
        """Return the records for a question, or None for a name error."""
        qname, folded, qtype, ttl = question.qname, question.folded, question.qtype, self._ttl
        if qtype in (rr.A, rr.AAAA):
            lookup.has_owners = False
            addresses = yield from self._addresses(question, zone, lookup, (), outside)
            return None if addresses is None else (addresses, [])
        if qtype == rr.SOA:
            lookup.facts.append(_serial_fact(zone))
            return ([self._soa(zone)] if qname == zone.case else []), []
        if qtype == rr.NS and folded == zone.case:
            return self._name_servers(qname, zone, lookup)
        if qtype == rr.TXT and folded == b"\x0bdns-version" + zone.folded:
            return [RR(qname, rr.TXT, DNS_VERSION_TTL_S, rr.txt_rdata(DNS_VERSION))], []
        if qtype == rr.PTR and (address := name.reverse_address(folded)):
            names = [owner_name(owner, self._primary) for owner in lookup.reverse(address)]
            return ([RR(qname, rr.PTR, ttl, target) for target in names], []) if names else None
        entries = self._entries(question, zone, lookup)
        if entries is None:
            return None
        if qtype == rr.TXT and not entries and not self._is_zonal(question, zone):
            if (taker := trace.scribe()) is not None:
                taker.blame("the name is above those of objects: it has no TXT record, and CoreDNS "
                            "says that it does not exist")  # fmt: skip
            return None  # as CoreDNS does for empty non-terminals
        if qtype == rr.SRV and not self._is_name_server(question, zone):
            return server_records(qname, zone.case, ttl, entries)
        if qtype == rr.CNAME and entries and not rr.address_rdata(entries[0].host):
            return [RR(qname, rr.CNAME, ttl, name.parse(entries[0].host))], []
        return [], []

    def _entries(self, question: Question, zone: AskedZone, lookup: Lookup) -> list[Entry] | None:
        """Return the entries of any name of the zone, or None for a name error."""
        if self._is_name_server(question, zone):
            return lookup.servers(self._local_addresses)
        parsed = self._parsed(question, zone)
        if parsed is None:
            return None
        if parsed.namespace and zone.folded in self._has_reverse and is_reverse(question.folded):
            return None
        return lookup.find(parsed)

    def _parsed(self, question: Question, zone: AskedZone) -> Parsed | None:
        return parse(
            _left_of(question, zone),
            is_multicluster=zone.is_multicluster,
            is_zonal=self._options.is_zonal,
        )

    def _is_zonal(self, question: Question, zone: AskedZone) -> bool:
        """Tell whether a name selects the endpoints of a topology zone."""
        parsed = self._parsed(question, zone)
        return parsed is not None and bool(parsed.topology_zone)

    def _is_name_server(self, question: Question, zone: AskedZone) -> bool:
        """Tell whether the question is about ``ns.dns.<zone>``, by CoreDNS's test.

        CoreDNS searches the folded name for the zone as the client spelled it, so its test accepts
        ``ns.dns.<zone>.<zone>`` and rejects ``ns.dns`` in a zone with capitals. It rejects TXT and
        PTR questions.
        """
        return (
            question.qtype not in (rr.TXT, rr.PTR)
            and len(zone.case) > 1
            and question.folded.startswith(_NS_DNS + zone.case[:-1])
        )

    def _addresses(
        self,
        question: Question,
        zone: AskedZone,
        lookup: Lookup,
        chain: tuple[bytes, ...],
        outside: list[Response],
    ) -> Generator[Question, Response, list[RR] | None]:
        """Return the A or AAAA records of a name and of the target of its CNAME.

        ``chain`` holds the targets of the CNAMEs that led here.
        """
        entries = self._entries(question, zone, lookup)
        if entries is None:
            return None
        found: list[RR] = []
        aliases = [entry.host for entry in entries if not rr.address_rdata(entry.host)]
        for host in aliases:
            target = name.parse(host)
            folded = name.fold(target)
            is_above = name.is_within(folded, question.folded) or len(chain) > MAX_CHAIN
            if is_above or target in chain:
                lookup.has_circle = True
                continue
            alias = RR(question.qname, rr.CNAME, self._ttl, target)
            # In class IN for any class of the client (CoreDNS: request.go NewWithQuestion).
            asked = question._replace(qname=target, folded=folded, qclass=rr.CLASS_IN)
            if name.is_within(folded, zone.folded):
                inner = yield from self._addresses(asked, zone, lookup, (*chain, target), outside)
                if inner:
                    found += [alias, *inner]
            else:
                response = yield asked
                outside.append(response)
                found += [alias, *response.answer]
        return found + address_records(question.qname, question.qtype, self._ttl, entries)

    def _name_servers(self, qname: bytes, zone: AskedZone, lookup: Lookup) -> Records:
        """Return the NS records of the apex and the addresses of the servers."""
        entries = lookup.servers(self._local_addresses)
        targets = dict.fromkeys(owner_name(entry.owner, zone.case) for entry in entries)
        servers = [RR(qname, rr.NS, self._ttl, target) for target in targets]
        return servers, glue_records(zone.case, self._ttl, entries)

    def _name_error(
        self, folded: WireName, zone: AskedZone, lookup: Lookup, facts: tuple[Hashable, ...]
    ) -> Response | None:
        if name.is_within_any(folded, self._fallthrough):
            return None
        # The name may exist but not be listed yet, or be of a kind that we may not list.
        is_known = self._store.is_settled and not lookup.needs & self._store.refused
        denial = self._negative(rr.NXDOMAIN if is_known else rr.SERVFAIL, zone, facts)
        return denial if self._store.is_settled else denial._replace(edns=NOT_LISTED)

    def _note_name_error(self, taker: trace.Scribe, question: Question, zone: AskedZone) -> None:
        """Note what the name of an explained query could be, and what it leads to."""
        address = name.reverse_address(question.folded)
        if address and question.qtype != rr.PTR:
            taker.blame(f"the name of the address {address} has no record but of type PTR")
        elif not address and name.is_within_any(zone.folded, name.REVERSE_ZONES):
            taker.blame("no address has such a name")
        elif not address and self._parsed(question, zone) is None:
            taker.blame(reasons.no_form(_left_of(question, zone)))
        if name.is_within_any(question.folded, self._fallthrough):
            taker.note("`fallthrough`: the next plugin may know it")
        elif not self._store.is_settled:
            taker.blame("the cluster has not been listed yet, so it is not known whether it exists")

    def _with_cut(
        self, denial: Response, question: Question, zone: AskedZone, lookup: Lookup
    ) -> Response:
        """Add the closest name that exists and the missing name below it, which deny others too.

        In a reverse zone the apex denies all names that are not those of addresses.
        """
        left = _left_of(question, zone)
        if name.is_within_any(zone.folded, name.REVERSE_ZONES):
            return self._with_addresses(denial, question, zone, left)
        depth, fact, siblings, is_fixed = lookup.missing(left)
        if not depth:
            return denial
        octets = sum(1 + len(label) for label in left[-depth:]) + len(zone.folded)
        cut, node, facts = question.folded[-octets:], None, denial.facts
        if siblings is not None:
            holds = (_serial_fact(zone), *((fact,) if is_fixed else ()))
            node = Node(cut[1 + cut[0] :], siblings, holds)
        if depth == len(left):
            return denial._replace(spared=_NS_DNS, node=node)
        if fact is not None and fact not in facts:
            facts = (*facts, fact)
        return denial._replace(denies=cut, spared=_NS_DNS, node=node, facts=facts)

    def _with_addresses(
        self, denial: Response, question: Question, zone: AskedZone, left: list[bytes]
    ) -> Response:
        there = self._store.services.addresses
        if not left or there.may_have(left[-1], question.folded):
            return denial
        node = Node(zone.folded, there, (_serial_fact(zone),))
        return denial._replace(spared=_NS_DNS, node=node)

    def _negative(self, rcode: int, zone: AskedZone, facts: tuple[Hashable, ...]) -> Response:
        facts = (*facts, _serial_fact(zone))
        lifetime_s = 0.0 if rcode == rr.SERVFAIL else math.inf
        soa = self._soa(zone)
        return Response(rcode, AA, authority=(soa,), facts=facts, lifetime_s=lifetime_s)

    def soa(self, zone: WireName) -> RR | None:
        """Return the SOA of a zone of ours that is no multicluster zone, else None."""
        if zone not in self._zones or zone in self._multicluster:
            return None
        return self._soa(AskedZone(zone, zone, False))

    def _soa(self, zone: AskedZone) -> RR:
        """Return the SOA of a zone; the last one is reused until the serial moves."""
        serial = self._store.import_serial if zone.is_multicluster else self._store.serial
        serial &= 0xFFFFFFFF
        if self._last_soa[0] != (serial, zone.case):
            rdata = rr.soa_rdata(_NS_DNS + zone.case, _HOSTMASTER + zone.case, serial, self._ttl)
            soa = RR(zone.case, rr.SOA, min(self._ttl, MAX_SOA_TTL_S), rdata)
            self._last_soa = ((serial, zone.case), soa)
        return self._last_soa[1]


def _follows_case(question: Question, answer: Iterable[RR], zone: WireName) -> bool:
    """Tell whether the letter case of the question changes nothing but letter case in the reply.

    It changes more for the name server (`_is_name_server`) and the NS records of the apex. NS and
    SRV records spell out names in the client's letter case, CNAME records in the operator's, where
    that of the question decides how much is compressed, if they share labels. Below ``dns``
    and ``hostmaster`` the SOA's names end like the question, in lower case, so the letter case
    decides how much of them is compressed.
    """
    if question.qtype == rr.NS or question.folded.startswith(_NS_DNS):
        return False
    above = question.folded[: -len(zone)]
    if above.endswith((_DNS, _HOSTMASTER)):
        return False
    return all(
        record.rtype in _WITHOUT_NAMES
        or (record.rtype == rr.CNAME and not name.is_akin(record.rdata, question.qname))
        for record in answer
    )


def _serial_fact(zone: AskedZone) -> Fact:
    """Return the fact that responses with the zone's SOA depend on."""
    return IMPORT_SERIAL if zone.is_multicluster else SERIAL


def _left_of(question: Question, zone: AskedZone) -> list[bytes]:
    """Return the folded labels of a question's name left of its zone."""
    folded = question.folded
    return name.labels(folded[: len(folded) - len(zone.folded)] + name.ROOT)
