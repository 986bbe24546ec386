"""From a name in a Kubernetes zone to its addresses and records.

``parse`` reads the labels left of the zone; ``Lookup.find`` returns the entries of a parsed name,
or None for a name error, in CoreDNS's order and with its irregularities (plugin/kubernetes
parse.go, kubernetes.go). The ``..._records`` functions make records of entries. Every lookup adds
the facts it depends on to ``Lookup.facts``.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from clusterdns.cluster import reasons
from clusterdns.cluster.objects import (
    IMPORT_SLICES,
    IMPORTS,
    NAMESPACES,
    PODS,
    SERVICES,
    SLICES,
    Endpoint,
    ObjectKey,
    Port,
    Service,
    Slice,
)
from clusterdns.cluster.store import SERVERS, Fact, Store
from clusterdns.wire import name, rr, trace
from clusterdns.wire.response import Children
from clusterdns.wire.rr import RR

DISABLED: Final = "disabled"
INSECURE: Final = "insecure"
VERIFIED: Final = "verified"


class RecordOptions(NamedTuple):
    """The options of a ``kubernetes`` directive that decide which names exist."""

    pods: str = DISABLED
    namespaces: frozenset[str] = frozenset()
    endpoint_pod_names: bool = False
    ignore_empty_service: bool = False
    is_zonal: bool = False  # whether names may select the endpoints of a topology zone
    has_single_ptr: bool = False  # whether an address has one name at most


class Parsed(NamedTuple):
    """The labels left of the zone; "" stands for an absent label, and matches any port or protocol.

    ``topology_zone`` selects the endpoints of that zone; if it has none and the name ``prefers``
    it, all endpoints.
    """

    branch: str = ""  # "svc", "pod", or "" for the apex
    namespace: str = ""
    service: str = ""
    endpoint: str = ""
    port: str = ""
    protocol: str = ""
    cluster: str = ""
    topology_zone: str = ""
    prefers: bool = False


class Entry(NamedTuple):
    """A host that a name leads to: address or name, port (-1: none), own labels below the zone."""

    host: str
    port: int
    owner: tuple[str, ...]


class Missing(NamedTuple):
    """The topmost name that does not exist, on the way from the zone to a name.

    ``depth`` is its number of labels below the zone, 0 if it is not known or names may exist below
    it. ``fact`` is what this depends on, besides the namespaces. ``siblings`` are the labels that
    may exist beside it, None if it has to be denied on its own; they are alive, unless they hold
    for as long as the ``fact``, and ``is_fixed``.
    """

    depth: int
    fact: Fact | None
    siblings: Children | None
    is_fixed: bool = False


_ARPA: Final = (b"arpa", b"in-addr", b"ip6")
_REVERSE: Final = frozenset(label.decode() for label in _ARPA)
_NONE: Final = frozenset[bytes]()
_SEPARATORS: Final = b"-:"  # of an address in the label of a Pod
NOTHING: Final = Missing(0, None, None)
# Below the apex. Names below `hostmaster` shorten the SOA, so they have a denial of their own.
BRANCHES: Final = frozenset((b"svc", b"pod", b"dns", b"hostmaster", b"dns-version", *_ARPA))


def parse(
    labels: list[bytes], *, is_multicluster: bool = False, is_zonal: bool = False
) -> Parsed | None:
    """Return the parsed labels left of the zone, which are folded, or None for a name error.

    One leading underscore of port and protocol is dropped; only a multicluster zone requires it.
    """
    texts = [label.decode("latin-1") for label in reversed(labels)]
    if not texts:
        return Parsed()
    branch = texts[0]
    if branch not in ("svc", "pod"):
        return None
    match texts[1:]:
        case []:
            return Parsed(branch)
        case [namespace]:
            return Parsed(branch, namespace)
        case [namespace, service]:
            return Parsed(branch, namespace, service)
        case [namespace, service, endpoint]:
            return Parsed(branch, namespace, service, endpoint)
        case [namespace, service, cluster, endpoint] if is_multicluster and not (
            cluster.startswith("_") or endpoint.startswith("_")
        ):
            return Parsed(branch, namespace, service, endpoint, cluster=cluster)
        case [namespace, service, protocol, port]:
            return Parsed(
                branch, namespace, service, "", port.removeprefix("_"), protocol.removeprefix("_")
            )
        case [namespace, service, "_zone", ("pin" | "prefer") as word, *zone] if (
            is_zonal and not is_multicluster and branch == "svc"
        ):
            return Parsed(
                branch, namespace, service,
                topology_zone=".".join(reversed(zone)), prefers=word == "prefer",
            )  # fmt: skip
    return None


def labels_of(labels: list[bytes], *, is_zonal: bool = False) -> dict[str, str]:
    """Return the labels of `metadata` for the folded labels left of the zone."""
    parsed = parse(labels, is_zonal=is_zonal)
    if parsed is None:
        return {"parse-error": "invalid query name"}
    found = {
        "port-name": parsed.port,
        "protocol": parsed.protocol,
        "endpoint": parsed.endpoint,
        "service": parsed.service,
        "namespace": parsed.namespace,
        "kind": parsed.branch if parsed.namespace else "",
    }
    return found | ({"zone": parsed.topology_zone} if is_zonal else {})


class Lookup:
    """The lookups of one question in a store; notes the facts that they depend on.

    In a multicluster zone the Services are the ServiceImports.
    """

    def __init__(
        self, store: Store, options: RecordOptions, *, is_multicluster: bool = False
    ) -> None:
        self.facts: list[Fact] = []
        self.needs: set[str] = set()  # kinds of objects that were looked for
        self.has_circle = False  # an alias led back to one before it
        self.has_owners = True  # whether the owners of entries are wanted
        self.is_multicluster = is_multicluster
        self._store = store
        self._services = store.imported if is_multicluster else store.services
        self._kinds = (IMPORTS, IMPORT_SLICES) if is_multicluster else (SERVICES, SLICES)
        self._options = options

    def find(self, parsed: Parsed) -> list[Entry] | None:
        """Return the entries of a name in a forward zone, or None for a name error."""
        if not parsed.branch or not parsed.namespace:
            return []
        if not self.is_visible(parsed.namespace):
            self._note_invisible(parsed.namespace)
            return None
        if parsed.branch == "pod":
            return self._find_pods(parsed)
        if not parsed.service:
            return []
        return self._find_service(parsed)

    def missing(self, labels: list[bytes]) -> Missing:
        """Return what is not there of a name, whose folded labels left of the zone are given."""
        texts = [label.decode("latin-1") for label in labels[:-4:-1]]
        if not texts or texts[0] == "dns":
            return NOTHING  # `ns.dns` exists
        if texts[0] in _REVERSE:
            return NOTHING  # of a zone above those of addresses
        if texts[0] not in ("svc", "pod"):
            return Missing(1, None, BRANCHES if labels[-1] not in BRANCHES else None)
        if len(texts) < 2:
            return NOTHING
        if not self.is_visible(texts[1]):
            labels_there = self._store.namespace_labels
            return Missing(2, None, labels_there if labels[-2] not in labels_there else None)
        if len(texts) < 3:
            return NOTHING
        if texts[0] == "pod":
            return self._missing_pod(labels[-3])
        key = (texts[1], texts[2])
        if key not in self._services.by_name:
            return Missing(3, ("service", *key), self._services.labels_of(texts[1]))
        return self._missing_below(key, labels[:-3])

    def _missing_pod(self, label: bytes) -> Missing:
        """Return what is not there of the name of a Pod: no address is without separators.

        Colons are read as well as dashes.
        """
        if self._options.pods == DISABLED:
            return Missing(3, None, _NONE)
        has_any = any(octet in label for octet in _SEPARATORS)
        return NOTHING if has_any else Missing(3, None, _SEPARATORS)

    def _missing_below(self, key: ObjectKey, left: list[bytes]) -> Missing:
        """Return what is not there below a Service, of a name with the labels ``left`` of it.

        Below it are its endpoints, protocols and clusters, below these its ports or endpoints.
        """
        fact: Fact = ("service", *key)
        if not left:
            return NOTHING
        if left[-1] not in (labels := self._services.labels_below(key)):
            return Missing(4, fact, labels, is_fixed=True)
        if len(left) < 2 or (self._options.is_zonal and left[-1] == b"_zone"):
            return NOTHING
        if left[-2] not in (labels := self._services.labels_below(key, left[-1])):
            return Missing(5, fact, labels, is_fixed=True)
        return NOTHING if len(left) == 2 else Missing(6, fact, _NONE, is_fixed=True)

    def is_visible(self, namespace: str) -> bool:
        """Tell whether a namespace is exposed and exists."""
        self.needs.add(NAMESPACES)
        return self._is_exposed(namespace) and namespace in self._store.namespaces

    def _is_exposed(self, namespace: str) -> bool:
        return not self._options.namespaces or namespace in self._options.namespaces

    def _is_pointed_into(self, namespace: str) -> bool:
        """Tell whether PTR records may name Services of a namespace.

        The namespace has to exist only if `namespaces` is set (CoreDNS: reverse.go).
        """
        return not self._options.namespaces or self.is_visible(namespace)

    def _find_service(self, parsed: Parsed) -> list[Entry] | None:
        key = (parsed.namespace, parsed.service)
        self.facts.append(("service", *key))
        self.needs.add(self._kinds[0])
        service = self._services.by_name.get(key)
        if (taker := trace.scribe()) is not None:
            self._note_service(taker, key, service)
        if service is None or self._is_ignored(key, service):
            return None
        if parsed.topology_zone:
            if taker is not None and not service.is_headless:
                taker.blame("only headless Services have names of topology zones")
            return self._find_in_zone(key, parsed) if service.is_headless else None
        if service.type == "ExternalName":
            if parsed.endpoint or parsed.port or parsed.protocol:
                if taker is not None:
                    taker.blame("nothing is below the name of an alias")
                return None
            if rr.address_rdata(service.external_name):
                if taker is not None:
                    taker.blame("its `externalName` is an address, and no name")
                return None  # CoreDNS leaves out an address as external name
            return [Entry(service.external_name, -1, ())]
        if service.is_headless or parsed.endpoint:
            found = list(self._find_endpoints(key, parsed)) or None
            if found is None and taker is not None:
                self._note_no_endpoint(taker, key, parsed)
            return found
        owner = (parsed.service, parsed.namespace, "svc")
        ports = [port for port in service.ports if _is_wanted(port, parsed)]
        if not ports:
            if taker is not None:
                taker.blame(reasons.no_port(key, parsed.port, parsed.protocol, service.ports))
            return None
        return [Entry(address, p.number, owner) for p in ports for address in service.addresses]

    def _note_invisible(self, namespace: str) -> None:
        """Note why a namespace has no names."""
        if (taker := trace.scribe()) is None:
            return
        if not self._is_exposed(namespace):
            taker.blame(reasons.hidden_namespace(namespace, self._options.namespaces))
        else:
            taker.blame(reasons.no_namespace(namespace, self._store.namespaces))

    def _note_service(self, taker: trace.Scribe, key: ObjectKey, service: Service | None) -> None:
        """Note a Service with its endpoints, or that there is none."""
        if service is None:
            taker.blame(reasons.no_service(key, self._services.by_name))
            return
        taker.note(reasons.service(key, service), objects=((self._kinds[0], *key),))
        if service.type != "ExternalName":
            text, objects = reasons.endpoints(key, self._services.slices_by_name(key))
            if self._services.has_endpoints(key):
                taker.note(text, objects=objects)
            else:
                taker.blame(text, objects=((self._kinds[0], *key), *objects))
        if self._is_ignored(key, service):
            taker.blame("`ignore empty_service` hides it: it has no ready endpoint")

    def _note_no_endpoint(self, taker: trace.Scribe, key: ObjectKey, parsed: Parsed) -> None:
        """Note why no endpoint of a Service matches a name."""
        slices = list(self._services.slices_of(key))
        there = [s for s in slices if not parsed.endpoint or s.cluster.lower() == parsed.cluster]
        names = [self.hostname(e).lower() for each in there for e in each.endpoints]
        ports = [port for each in slices for port in each.ports]
        clusters = sorted({each.cluster.lower() for each in slices})
        if parsed.endpoint and parsed.cluster not in clusters and self.is_multicluster:
            known = ", ".join(clusters) or "none"
            wanted = parsed.cluster or "(none in the name)"
            taker.blame(f"no endpoint is of the cluster {wanted}; they are of {known}")
        elif parsed.endpoint and parsed.endpoint not in names:
            taker.blame(reasons.no_endpoint(key, parsed.endpoint, names))
        elif names and not any(_is_wanted(port, parsed) for port in ports):
            taker.blame(reasons.no_port(key, parsed.port, parsed.protocol, ports))

    def _is_ignored(self, key: ObjectKey, service: Service) -> bool:
        if not self._options.ignore_empty_service or service.is_headless:
            return False
        self.needs.add(self._kinds[1])
        return service.type != "ExternalName" and not self._services.has_endpoints(key)

    def _find_in_zone(self, key: ObjectKey, parsed: Parsed) -> list[Entry]:
        """Return the endpoints of a topology zone; a zone without endpoints is no name error."""
        found = list(self._find_endpoints(key, parsed))
        if found or not parsed.prefers:
            return found
        return list(self._find_endpoints(key, parsed._replace(topology_zone="")))

    def _find_endpoints(self, key: ObjectKey, parsed: Parsed) -> Iterator[Entry]:
        self.needs.add(self._kinds[1])
        for found in self._services.slices_of(key):
            if parsed.endpoint and parsed.cluster != found.cluster.lower():
                continue
            service = (found.cluster, key[1]) if self.is_multicluster else (key[1],)
            ports = [port for port in found.ports if _is_wanted(port, parsed)]
            endpoints = _endpoints_in(found, parsed.topology_zone)
            if not self.has_owners and not parsed.endpoint:
                yield from [Entry(e.address, p.number, ()) for e in endpoints for p in ports]
                continue
            for endpoint in endpoints:
                hostname = self.hostname(endpoint)
                if parsed.endpoint and parsed.endpoint != hostname.lower():
                    continue
                owner = (hostname, *service, key[0], "svc")
                for port in ports:
                    yield Entry(endpoint.address, port.number, owner)

    def hostname(self, endpoint: Endpoint) -> str:
        """Return the label of an endpoint (CoreDNS: kubernetes.go endpointHostname)."""
        if endpoint.hostname:
            return endpoint.hostname
        if self._options.endpoint_pod_names and endpoint.target:
            return endpoint.target
        return endpoint.dashed

    def _find_pods(self, parsed: Parsed) -> list[Entry] | None:
        taker = trace.scribe()
        if self._options.pods == DISABLED:
            if taker is not None:
                taker.blame("`pods disabled`: no Pod has a name")
            return None
        if not parsed.service:
            return []
        address = _pod_address(parsed.service)
        owner = (parsed.service, parsed.namespace, "pod")
        if taker is not None:
            taker.note(f"`pods {self._options.pods}`: the name of a Pod at {address}")
        if self._options.pods == INSECURE:
            is_address = rr.address_rdata(address) is not None
            if taker is not None and not is_address:
                taker.blame(f"{parsed.service} is no address with dashes")
            return [Entry(address, 0, owner)] if is_address else None
        self.facts.append(("address", address))
        self.needs.add(PODS)
        pods = [key for key in self._store.pods_at(address) if key[0] == parsed.namespace]
        if taker is not None:
            there = ", ".join("/".join(key) for key in self._store.pods_at(address)) or "none"
            note = taker.note if pods else taker.blame
            note(f"Pods at {address}: {there}; wanted is one of the namespace {parsed.namespace}",
                 objects=tuple((PODS, *key) for key in pods))  # fmt: skip
        return [Entry(address, 0, owner) for _ in pods] or None

    def reverse(self, address: str) -> list[tuple[str, ...]]:
        """Return the labels, below the zone, of every name of ``address``, [] for none.

        With `single_ptr` it is one name: that with a host name, else the first by namespace.
        A Service with this cluster address hides endpoints with it (CoreDNS: reverse.go).
        """
        self.facts.append(("address", address))
        self.needs |= {SERVICES, SLICES}
        taker = trace.scribe()
        for namespace, service in self._store.services.at(address):
            if self._is_pointed_into(namespace):
                if taker is not None:
                    taker.note(f"{address} is a cluster address of {namespace}/{service}",
                               objects=((SERVICES, namespace, service),))  # fmt: skip
                return [(service, namespace, "svc")]
        found = dict[tuple[str, ...], bool]()  # whether an endpoint has a host name of its own
        for (namespace, service), sliced in self._store.services.slices_at(address):
            # Endpoints of a slice without a Service, as an imported one, have no name.
            if service and self._is_pointed_into(namespace):
                for endpoint in sliced.endpoints:
                    if endpoint.address == address:
                        owner = (self.hostname(endpoint), service, namespace, "svc")
                        found[owner] = bool(endpoint.hostname)
        if taker is not None:
            names = ", ".join(f"{each[2]}/{each[1]}" for each in found)
            hidden = list(self._store.services.at(address)) and not found
            note = taker.note if found else taker.blame
            note(f"{address} is a ready endpoint of {names}" if found else
                 f"{address} is an address of a Service whose namespace is hidden" if hidden else
                 f"{address} is no cluster address and no ready endpoint of a Service",
                 objects=tuple((SERVICES, each[2], each[1]) for each in found))  # fmt: skip
        if len(found) > 1 and self._options.has_single_ptr:
            first = min(found, key=lambda owner: (not found[owner], owner[::-1]))
            if taker is not None:
                taker.note("`single_ptr`: a name with a host name, else the first by namespace")
            return [first]
        return list(found)

    def servers(self, local_addresses: tuple[str, ...]) -> list[Entry]:
        """Return the zone's name servers: the Services that we are endpoints of, else ``ns.dns``.

        (CoreDNS: ns.go nsAddrs.) An address may appear more than once.
        """
        slices = self.slices_in_front(local_addresses)
        if not slices:
            return [Entry(local, 0, ("ns", "dns")) for local in local_addresses]
        found: list[Entry] = []
        for key, sliced in slices:
            service = self._store.services.by_name.get(key)
            if service is None:
                continue
            owner = (key[1], key[0], "svc")
            if service.is_headless:
                found += [
                    Entry(endpoint.address, 0, (self.hostname(endpoint), *owner))
                    for endpoint in sliced.endpoints
                ]
            else:
                found += [Entry(address, 0, owner) for address in service.addresses]
        return found

    def slices_in_front(self, local_addresses: tuple[str, ...]) -> list[tuple[ObjectKey, Slice]]:
        """Return the EndpointSlices with an endpoint of ours, each with its Service."""
        self.facts.append(SERVERS)
        slices_at = self._store.services.slices_at
        return [each for local in local_addresses for each in slices_at(local)]


def _endpoints_in(found: Slice, topology_zone: str) -> Iterable[Endpoint]:
    """Return the endpoints of a slice that are in a topology zone, "" for all."""
    if not topology_zone:
        return found.endpoints
    zones = dict(found.zones)
    return [e for e in found.endpoints if zones.get(e.address) == topology_zone]


def _is_wanted(port: Port, parsed: Parsed) -> bool:
    return parsed.port in ("", port.name.lower()) and parsed.protocol in ("", port.protocol.lower())


def _pod_address(label: str) -> str:
    """Return the address of a pod label, written with dashes (CoreDNS: kubernetes.go findPods).

    A dot within a label is escaped where CoreDNS reads it, so such a label is no address.
    """
    if "." in label:
        return ""
    if label.count("-") == 3 and "--" not in label:
        return label.replace("-", ".")
    return label.replace("-", ":")


def owner_name(labels: tuple[str, ...], zone: bytes) -> bytes:
    """Return the name of ``labels`` below ``zone``.

    Raises:
        FormError: the labels are not a domain name.
    """
    return name.join([label.encode() for label in labels], zone)


def address_records(owner: bytes, rtype: int, ttl: int, entries: list[Entry]) -> list[RR]:
    """Return one A or AAAA record for each distinct address, in the order of the entries."""
    found = []
    for host in dict.fromkeys([entry.host for entry in entries]):
        address = rr.address_rdata(host)
        if address and address[0] == rtype:
            found.append(RR(owner, rtype, ttl, address[1]))
    return found


def glue_records(zone: bytes, ttl: int, entries: list[Entry]) -> list[RR]:
    """Return the A or AAAA record of every entry, with repetitions."""
    found = []
    for entry in entries:
        address = rr.address_rdata(entry.host)
        if address:
            found.append(RR(owner_name(entry.owner, zone), address[0], ttl, address[1]))
    return found


def server_records(
    qname: bytes, zone: bytes, ttl: int, entries: list[Entry]
) -> tuple[list[RR], list[RR]]:
    """Return the SRV records of entries and the address records of their targets.

    The weight is 100 divided by the number of entries, including repeated ones and those without
    a port (CoreDNS: backend_lookup.go SRV).
    """
    hosts = [(entry, a) for entry in entries if (a := rr.address_rdata(entry.host))]
    weight = max(1, 100 // len(hosts)) if hosts else 0
    answers = dict[tuple[bytes, int], RR]()
    glue = dict[RR, None]()
    parents = dict[tuple[str, ...], bytes]()  # the names of endpoints differ in the first label
    for entry, (rtype, address) in hosts:
        if entry.port == -1:
            continue
        parent = parents.get(entry.owner[1:])
        if parent is None:
            parent = parents[entry.owner[1:]] = owner_name(entry.owner[1:], zone)
        target = name.join([entry.owner[0].encode()], parent)
        rdata = rr.srv_rdata(0, weight, entry.port, target)
        answers.setdefault((target, entry.port), RR(qname, rr.SRV, ttl, rdata))
        glue[RR(target, rtype, ttl, address)] = None
    return list(answers.values()), list(glue)
