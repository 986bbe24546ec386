"""Where a host is reached: within the cluster, and from outside.

Outside it is the load balancer, by what the status of the Ingress or Gateway says. Inside it is the
one Service whose load balancer that is, or the Service that the configuration names; where there
is none, the load balancer, too.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from clusterdns.authority.hosts import Carrier, Hosts
from clusterdns.cluster.objects import SERVICES, ObjectKey
from clusterdns.cluster.store import SERVERS, Store
from clusterdns.wire import trace
from clusterdns.wire.name import WireName


class Sides(NamedTuple):
    """Both sides of the hosts of one `ingress`.

    ``named`` are Services by class, that of "" stands for any other; ``servers`` those of name
    servers, None for the Services in front of us, at ``local_addresses``.
    """

    hosts: Hosts
    store: Store
    named: Mapping[str, ObjectKey]
    servers: Mapping[WireName, ObjectKey | None]
    local_addresses: tuple[str, ...]

    def of(self, owner: WireName, *, is_inside: bool, facts: list[Hashable]) -> tuple[str, ...]:
        """Return the addresses and host names where an owner in a zone is reached.

        The facts they depend on, beside the zone, are added to ``facts``.
        """
        if owner in self.servers:
            return tuple(dict.fromkeys(self._of_server(self.servers[owner], is_inside, facts)))
        claims = self.hosts.claims(owner)
        found: list[str] = []
        for carrier in self.hosts.carriers(claims[0], owner) if claims else ():
            found += self._inside(carrier, facts) if is_inside else carrier.addresses
        return tuple(dict.fromkeys(found))

    def _inside(self, carrier: Carrier, facts: list[Hashable]) -> Iterator[str]:
        key = self.named.get(carrier.class_name) or self.named.get("")
        if key is not None:
            found = self._cluster_addresses(key, facts)
            self._note(f"`service` names {'/'.join(key)}, ", key, found)
            yield from found or carrier.addresses
            return
        for address in carrier.addresses:
            facts.append(("external", address))
            keys = self.store.services.outside_at(address)
            found = self._cluster_addresses(keys[0], facts) if len(keys) == 1 else ()
            if keys:
                several = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
                text = f"{address} is the load balancer of {'/'.join(keys[0])}{several}, "
                self._note(text, keys[0], found)
            elif (taker := trace.scribe()) is not None:
                taker.note(
                    f"{address} is the load balancer of no Service, so it is the same inside"
                )
            yield from found or (address,)

    def _note(self, text: str, key: ObjectKey, found: tuple[str, ...]) -> None:
        if (taker := trace.scribe()) is not None:
            there = (
                "so clients inside get its cluster address"
                if found
                else ("which gives no cluster address, so it is the same inside")
            )
            taker.note(text + there, objects=((SERVICES, *key),) if found else ())

    def _of_server(
        self, key: ObjectKey | None, is_inside: bool, facts: list[Hashable]
    ) -> Iterator[str]:
        """Yield the addresses of a name server."""
        keys = [key] if key is not None else self._in_front(facts)
        for each in keys:
            if is_inside:
                yield from self._cluster_addresses(each, facts)
                continue
            facts.append(("service", *each))
            service = self.store.services.by_name.get(each)
            yield from service.external_addresses if service is not None else ()
        if not keys:
            yield from self.local_addresses

    def _in_front(self, facts: list[Hashable]) -> list[ObjectKey]:
        """Return the Services that we are an endpoint of."""
        facts.append(SERVERS)
        slices_at = self.store.services.slices_at
        found = (key for local in self.local_addresses for key, _ in slices_at(local))
        return list(dict.fromkeys(found))

    def _cluster_addresses(self, key: ObjectKey, facts: list[Hashable]) -> tuple[str, ...]:
        """Return the cluster addresses of a Service, or the endpoints of a headless one."""
        facts.append(("service", *key))
        service = self.store.services.by_name.get(key)
        if service is None or service.type == "ExternalName":
            return ()
        if service.is_headless:
            slices = self.store.services.slices_of(key)
            return tuple(endpoint.address for each in slices for endpoint in each.endpoints)
        return tuple(filter(None, service.addresses))
