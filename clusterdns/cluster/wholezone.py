"""A whole Kubernetes zone for a transfer: Services and the endpoints of headless Services.

Pods, PTR records and the names of a ClusterIP Service's endpoints are left out, as in CoreDNS
(plugin/kubernetes/xfr.go).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from clusterdns.cluster.external import Cluster
from clusterdns.cluster.objects import ObjectKey, Port, Service
from clusterdns.cluster.records import Lookup, owner_name
from clusterdns.errors import FormError
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")


def zone_records(cluster: Cluster, zone: WireName, soa: RR) -> Iterator[RR]:
    """Yield the records of a zone from its SOA to its SOA.

    A change during the transfer may be included or not. A Service is left out if its name or
    external name is not a domain name.
    """
    lookup = Lookup(cluster.store, cluster.options)
    yield soa
    servers = lookup.servers(cluster.local_addresses)
    for target in dict.fromkeys(owner_name(entry.owner, zone) for entry in servers):
        yield RR(zone, rr.NS, cluster.ttl, target)
    for entry in servers:
        yield from _address(owner_name(entry.owner, zone), entry.host, 0)
    by_name = dict(cluster.store.services.by_name)
    for key in sorted(by_name, key=lambda key: key[1]):
        if lookup.is_visible(key[0]):
            with contextlib.suppress(FormError):
                yield from _service(cluster, lookup, zone, key, by_name[key])
    yield soa


def _service(
    cluster: Cluster, lookup: Lookup, zone: WireName, key: ObjectKey, service: Service
) -> Iterator[RR]:
    owner = owner_name((key[1], key[0], "svc"), zone)
    ttl = cluster.ttl
    if service.type == "ExternalName":
        if not rr.address_rdata(service.external_name):
            yield RR(owner, rr.CNAME, ttl, name.parse(service.external_name))
    elif service.type not in _TYPES:
        return
    elif not service.addresses or not rr.address_rdata(service.addresses[0]):
        yield from _endpoints(cluster, lookup, owner, key)
    else:
        for address in service.addresses:
            yield from _address(owner, address, ttl)
        for port in service.ports:
            yield _srv(owner, ttl, 100, port, owner)
            if port.name:
                yield _srv(_port_name(port, owner), ttl, 100, port, owner)


def _endpoints(cluster: Cluster, lookup: Lookup, owner: bytes, key: ObjectKey) -> Iterator[RR]:
    """Yield the records of a headless Service; weights count the endpoints of each slice."""
    for found in tuple(cluster.store.services.slices_of(key)):
        weight = max(1, 100 // len(found.endpoints)) if found.endpoints else 0
        for endpoint in found.endpoints:
            target = name.join([lookup.hostname(endpoint).encode()], owner)
            yield from _address(owner, endpoint.address, cluster.ttl)
            yield from _address(target, endpoint.address, cluster.ttl)
            for port in found.ports:
                if port.name:
                    at = _port_name(port, owner)
                    yield _srv(at, cluster.ttl, weight, port, target)


def _address(owner: bytes, address: str, ttl: int) -> Iterator[RR]:
    found = rr.address_rdata(address)
    if found:
        yield RR(owner, found[0], ttl, found[1])


def _srv(owner: bytes, ttl: int, weight: int, port: Port, target: bytes) -> RR:
    return RR(owner, rr.SRV, ttl, rr.srv_rdata(0, weight, port.number & 0xFFFF, target))


def _port_name(port: Port, owner: bytes) -> bytes:
    words = (f"_{port.name}", f"_{port.protocol}")
    return name.join([word.lower().encode() for word in words], owner)
