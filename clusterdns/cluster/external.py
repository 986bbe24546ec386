"""Responses with the external addresses of Services: load balancers and `externalIPs`.

``ExternalResponder.respond`` is a generator like that of ``respond.py``: it yields each question
outside the zone (the host name of a load balancer), and returns the response, or None for the next
plugin to answer. Rules: CoreDNS plugin/k8s_external, plugin/kubernetes/external.go.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Iterator
from typing import NamedTuple

from clusterdns.cluster import reasons
from clusterdns.cluster.objects import SERVICES, Service
from clusterdns.cluster.records import Entry, Lookup, RecordOptions, owner_name
from clusterdns.cluster.store import EXTERNAL_SERIAL, Store
from clusterdns.errors import FormError
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import AA, TC, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure
from clusterdns.wire.rr import RR

HOSTMASTER = b"hostmaster"
_NS1 = b"ns1"
Verdict = tuple[int, list[Entry]]  # return code, and the entries of a name
Records = tuple[list[RR], list[RR]]  # answer and additional section


class Cluster(NamedTuple):
    """The data `kubernetes` answers from: its store, options, TTL, and this host's addresses."""

    store: Store
    options: RecordOptions
    ttl: int
    local_addresses: tuple[str, ...]


class ExternalLookup(Lookup):
    """The lookups of one question for external addresses."""

    def __init__(self, cluster: Cluster, *, has_headless: bool) -> None:
        super().__init__(cluster.store, cluster.options)
        self._has_headless = has_headless

    def outside(self, labels: list[bytes]) -> Verdict:
        """Return the verdict on a name with these folded labels, at least one, left of the zone."""
        texts = [label.decode("latin-1") for label in reversed(labels)]
        taker = trace.scribe()
        if not self.is_visible(texts[0]):
            self._note_invisible(texts[0])
            return rr.NXDOMAIN, []
        if len(texts) == 1:
            if taker is not None:
                taker.blame(f"the name of the namespace {texts[0]}, which has no record")
            return rr.NOERROR, []
        key = (texts[0], texts[1])
        endpoint = port = protocol = ""
        match texts[2:]:
            case []:
                pass
            case [endpoint]:
                endpoint = endpoint.removeprefix("_")
            case [protocol, port]:
                protocol, port = protocol.removeprefix("_"), port.removeprefix("_")
            case _:
                if taker is not None:
                    taker.blame("no Service has such a name: there are too many labels")
                return rr.NXDOMAIN, []
        self.facts.append(("service", *key))
        service = self._services.by_name.get(key)
        if service is None:
            if taker is not None:
                taker.blame(reasons.no_service(key, self._services.by_name))
            return rr.NXDOMAIN, []
        if self._is_headless(service, endpoint):
            found = list(self._endpoints(key, endpoint, port, protocol))
        else:
            ports = [p for p in service.ports if _is_wanted(p.name, p.protocol, port, protocol)]
            owner = (key[1], key[0])
            outside = service.external_addresses
            found = [Entry(host, p.number, owner) for host in outside for p in ports]
        if taker is not None:
            is_headless = self._is_headless(service, endpoint)
            text = reasons.outside(key, service, len(found), is_headless=is_headless)
            note = taker.note if found else taker.blame
            note(text, objects=((SERVICES, *key),))
        return (rr.NOERROR if found else rr.NXDOMAIN), found

    @property
    def external_serial(self) -> int:
        """Unix seconds of the last change that moves the serial of external zones."""
        return self._store.external_serial

    def _is_headless(self, service: Service, endpoint: str) -> bool:
        """Tell whether the response for a Service has its endpoints."""
        if not self._has_headless or service.external_addresses:
            return False
        return service.is_headless or bool(endpoint)

    def _endpoints(
        self, key: tuple[str, str], endpoint: str, port: str, protocol: str
    ) -> Iterator[Entry]:
        for found in self._services.slices_of(key):
            for each in found.endpoints:
                hostname = self.hostname(each)
                if endpoint and endpoint != hostname.lower():
                    continue
                for p in found.ports:
                    if _is_wanted(p.name, p.protocol, port, protocol):
                        yield Entry(each.address, p.number, (hostname, key[1], key[0]))

    def reverse_outside(self, address: str) -> list[tuple[str, ...]]:
        """Return the labels below the zone of the Services with this external address."""
        self.facts.append(("external", address))
        found: list[tuple[str, ...]] = [
            (service, namespace)
            for namespace, service in self._store.services.outside_at(address)
            if self._is_pointed_into(namespace)
        ]
        if (taker := trace.scribe()) is not None:
            names = ", ".join(f"{namespace}/{service}" for service, namespace in found)
            note = taker.note if found else taker.blame
            note(f"{address} is an external address of {names or 'no Service'}")
        return found

    def servers_outside(self, local_addresses: tuple[str, ...]) -> list[str]:
        """Return the external addresses of the zone's name servers.

        They are those of the Services that we are endpoints of (CoreDNS: plugin/kubernetes/ns.go
        nsAddrs).
        """
        slices = self.slices_in_front(local_addresses)
        if not slices:
            return list(local_addresses)
        found: list[str] = []
        for key, sliced in slices:
            service = self._store.services.by_name.get(key)
            if service is None:
                continue
            if self._has_headless and service.is_headless:
                found += [endpoint.address for endpoint in sliced.endpoints]
            else:
                found += service.external_addresses
        return found


class ExternalResponder:
    """The external zones of one server block, answered from a ``Cluster``."""

    def __init__(
        self,
        zones: Iterable[WireName],
        *,
        ttl: int,
        apex: bytes,
        has_headless: bool,
        fallthrough: Iterable[WireName],
    ) -> None:
        self.zones = tuple(zones)
        self._ttl = ttl
        self._apex = apex  # in wire form, with its root label
        self._folded_apex = name.fold(apex)
        self._has_headless = has_headless
        self._fallthrough = tuple(fallthrough)

    def zone_of(self, folded: WireName) -> WireName | None:
        """Return the longest of the zones that a name lies in, or None."""
        return max((z for z in self.zones if name.is_within(folded, z)), key=len, default=None)

    def has(self, folded: WireName, cluster: Cluster) -> bool:
        """Tell whether a name that the next plugin may have answered is one of ours now."""
        zone = self.zone_of(folded) if name.is_within_any(folded, self._fallthrough) else None
        if zone is None or folded == zone:
            return False
        labels = name.labels(WireName(folded[: -len(zone)] + name.ROOT))
        with trace.noted_by(None):
            lookup = ExternalLookup(cluster, has_headless=self._has_headless)
            return bool(lookup.outside(labels)[1])

    def respond(
        self, question: Question, zone: WireName, cluster: Cluster
    ) -> Generator[Question, Response, Response | None]:
        """Yield questions outside the zone; return the response, or None for fallthrough."""
        lookup = ExternalLookup(cluster, has_headless=self._has_headless)
        outside: list[Response] = []
        try:
            response = yield from self._respond(question, zone, cluster, lookup, outside)
        except FormError as error:
            return failure(rr.SERVFAIL, f"plugin/k8s_external: {error}")
        if response is None:
            return None
        facts: tuple[Hashable, ...] = tuple(lookup.facts)
        flags, lifetime_s = AA, response.lifetime_s
        for each in outside:
            flags |= each.flags & TC
            lifetime_s = min(lifetime_s, each.lifetime_s)
            facts += each.facts
        return response._replace(flags=flags, lifetime_s=lifetime_s, facts=facts)

    def _respond(
        self,
        question: Question,
        zone: WireName,
        cluster: Cluster,
        lookup: ExternalLookup,
        outside: list[Response],
    ) -> Generator[Question, Response, Response | None]:
        folded = question.folded
        if folded == zone:
            return self._at_apex(question, zone, cluster, lookup)
        if any(name.is_within(folded, self._below_apex(each)) for each in self.zones):
            return self._below(question, zone, cluster, lookup)
        address = name.reverse_address(folded) if question.qtype == rr.PTR else None
        if address:
            owners = lookup.reverse_outside(address)
            targets = dict.fromkeys(owner_name(owner, self.zones[0]) for owner in owners)
            found = [RR(question.qname, rr.PTR, self._ttl, target) for target in targets]
            return self._answer(
                rr.NOERROR if owners else rr.NXDOMAIN, found, [], question, zone, lookup
            )
        labels = name.labels(folded)
        rcode, entries = lookup.outside(labels[: len(labels) - name.count_labels(zone)])
        if question.qtype == rr.PTR:
            entries = []
        answer: list[RR] = []
        additional: list[RR] = []
        if question.qtype in (rr.A, rr.AAAA):
            answer = yield from self._addresses(question, cluster.ttl, entries, outside)
        elif question.qtype == rr.SRV:
            answer, additional = yield from self._servers(
                question, zone, cluster.ttl, entries, outside
            )
        return self._answer(rcode, answer, additional, question, zone, lookup)

    def _answer(
        self,
        rcode: int,
        answer: list[RR],
        additional: list[RR],
        question: Question,
        zone: WireName,
        lookup: ExternalLookup,
    ) -> Response | None:
        if answer:
            return Response(rr.NOERROR, AA, tuple(answer), (), tuple(additional))
        taker = trace.scribe()
        if taker is not None and rcode == rr.NOERROR:
            taker.blame(
                f"the name exists, but has no record of type {rr.type_text(question.qtype)}"
            )
        if rcode == rr.NXDOMAIN and name.is_within_any(question.folded, self._fallthrough):
            if taker is not None:
                taker.note("`fallthrough`: the next plugin may know it")
            return None
        return self._negative(rcode, zone, lookup)

    def _negative(self, rcode: int, zone: WireName, lookup: ExternalLookup) -> Response:
        return Response(rcode, AA, authority=(self._soa(zone, lookup),))

    def _below_apex(self, zone: WireName) -> WireName:
        return WireName(self._folded_apex[:-1] + zone)

    def _server(self, zone: bytes) -> bytes:
        """Return the name of a zone's name server."""
        return name.join([_NS1, *name.labels(self._apex)], zone)

    def _soa(self, zone: WireName, lookup: ExternalLookup) -> RR:
        lookup.facts.append(EXTERNAL_SERIAL)
        rname = name.join([HOSTMASTER, *name.labels(self._apex)], zone)
        serial = lookup.external_serial & 0xFFFFFFFF
        return RR(
            zone, rr.SOA, self._ttl, rr.soa_rdata(self._server(zone), rname, serial, self._ttl)
        )

    def _glue(self, owner: bytes, cluster: Cluster, lookup: ExternalLookup) -> list[RR]:
        """Return the address records of the name server, without host names of load balancers."""
        found = map(rr.address_rdata, lookup.servers_outside(cluster.local_addresses))
        return [RR(owner, each[0], self._ttl, each[1]) for each in found if each]

    def _at_apex(
        self, question: Question, zone: WireName, cluster: Cluster, lookup: ExternalLookup
    ) -> Response:
        if question.qtype == rr.SOA:
            return Response(rr.NOERROR, AA, (self._soa(zone, lookup),))
        if question.qtype == rr.NS:
            server = RR(zone, rr.NS, self._ttl, self._server(zone))
            glue = self._glue(self._server(question.qname), cluster, lookup)
            return Response(rr.NOERROR, AA, (server,), (), tuple(glue))
        return self._negative(rr.NOERROR, zone, lookup)

    def _below(
        self, question: Question, zone: WireName, cluster: Cluster, lookup: ExternalLookup
    ) -> Response:
        """Return the response for ``<apex>.<zone>``, its name server, or a name error below."""
        labels = name.labels(question.folded)
        left = labels[: len(labels) - name.count_labels(zone)]
        if len(left) > 2 or (len(left) == 2 and left[0] != _NS1):
            return self._negative(rr.NXDOMAIN, zone, lookup)
        if len(left) == 2:
            glue = self._glue(question.qname, cluster, lookup)
            found = tuple(record for record in glue if record.rtype == question.qtype)
            if found:
                return Response(rr.NOERROR, AA, found)
        return self._negative(rr.NOERROR, zone, lookup)

    def _addresses(
        self, question: Question, ttl: int, entries: list[Entry], outside: list[Response]
    ) -> Generator[Question, Response, list[RR]]:
        """Return the A or AAAA records of hosts, and a CNAME, with the cluster's TTL, for a name.

        CoreDNS repeats the CNAME for each port; here there is one.
        """
        found: list[RR] = []
        for host in dict.fromkeys(entry.host for entry in entries):
            address = rr.address_rdata(host)
            if address is None:
                target = name.parse(host)
                found.append(RR(question.qname, rr.CNAME, ttl, target))
                response = yield _asking(question, target, question.qtype)
                outside.append(response)
                found += response.answer
            elif address[0] == question.qtype:
                found.append(RR(question.qname, question.qtype, self._ttl, address[1]))
        return found

    def _servers(
        self,
        question: Question,
        zone: WireName,
        ttl: int,
        entries: list[Entry],
        outside: list[Response],
    ) -> Generator[Question, Response, Records]:
        """Return the SRV records of entries, and the addresses of their targets."""
        weight = max(1, 100 // len(entries)) if entries else 0
        answer = dict[tuple[bytes, int], RR]()
        additional = dict[tuple[bytes, str], list[RR]]()
        for host, port, owner in entries:
            if port == -1:
                continue
            address = rr.address_rdata(host)
            target = owner_name(owner, zone) if address else name.parse(host)
            rdata = rr.srv_rdata(0, weight, port, target)
            answer.setdefault((target, port), RR(question.qname, rr.SRV, ttl, rdata))
            if (target, host) in additional:
                continue
            glue = additional[target, host] = []
            if address:
                glue.append(RR(target, address[0], self._ttl, address[1]))
                continue
            for rtype in (rr.A, rr.AAAA):
                response = yield _asking(question, target, rtype)
                outside.append(response)
                glue += response.answer
        return list(answer.values()), [record for glue in additional.values() for record in glue]


def _asking(question: Question, target: bytes, qtype: int) -> Question:
    return question._replace(
        qname=target, folded=name.fold(target), qtype=qtype, qclass=rr.CLASS_IN
    )


def _is_wanted(name: str, its_protocol: str, port: str, protocol: str) -> bool:
    return port in ("", name.lower()) and protocol in ("", its_protocol.lower())
