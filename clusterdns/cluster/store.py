"""The joined objects of one Kubernetes source, and the facts that each change affects.

``apply`` takes a change and returns the facts it affects: ``("service", namespace, name)``,
``("address", text)``, ``("servers",)`` for the name servers, ``EVERYTHING`` if a Namespace was
added or removed. Answers with an SOA depend on ``SERIAL``, ``IMPORT_SERIAL`` or
``EXTERNAL_SERIAL``; a new serial is returned as a ``Renewal`` of that fact. Answers are filed under
the facts they depend on. Applying a change twice has no effect; changes of different kinds may be
applied in any order.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Set
from typing import Any, Final, Protocol

from clusterdns.cluster.objects import (
    IMPORT_SLICES,
    IMPORTS,
    NAMESPACES,
    PODS,
    SERVICES,
    SLICES,
    Change,
    Endpoint,
    Namespace,
    ObjectKey,
    Pod,
    Port,
    Service,
    Slice,
)
from clusterdns.cluster.published import PUBLISHED
from clusterdns.wire import rr
from clusterdns.wire.facts import EVERYTHING, Renewal
from clusterdns.wire.response import Addresses

Fact = tuple[str, ...] | Renewal

SERVERS: Final[Fact] = ("servers",)
SERIAL: Final[Fact] = ("serial",)
IMPORT_SERIAL: Final[Fact] = ("import serial",)
EXTERNAL_SERIAL: Final[Fact] = ("external serial",)
_MAX_BELOW = 256  # sets of labels below Services that are kept
_ANY = b"_"  # the label of any protocol and any port
_ZONE = b"_zone"  # of a name that selects the endpoints of a topology zone
# Right below a zone of addresses: names that are not reverse ones.
_IN_REVERSE: Final = frozenset((b"svc", b"pod", b"dns", b"hostmaster", b"dns-version"))

_Parts = tuple[Service | Slice | None, ...]


class Services:
    """Services and the EndpointSlices that belong to them, indexed for lookups."""

    def __init__(self) -> None:
        self.by_name: dict[ObjectKey, Service] = {}
        self._labels: dict[str, set[bytes]] = {}  # of the Services of a namespace
        self.slices: dict[ObjectKey, dict[str, Slice]] = {}  # by Service, then by slice name
        self._services_by_slice: dict[ObjectKey, ObjectKey] = {}  # by slice
        self._services_by_address: dict[str, tuple[ObjectKey, ...]] = {}
        self._slices_by_address: dict[str, tuple[ObjectKey, ...]] = {}
        self._services_by_external: dict[str, tuple[ObjectKey, ...]] = {}
        self._below: dict[tuple[ObjectKey, bytes], tuple[_Parts, frozenset[bytes]]] = {}
        # The names of addresses, alive.
        self.addresses = Addresses(_IN_REVERSE, self._services_by_address, self._slices_by_address)

    @property
    def slice_keys(self) -> list[ObjectKey]:
        """The keys of all EndpointSlices."""
        return list(self._services_by_slice)

    def labels_of(self, namespace: str) -> Set[bytes]:
        """Return the labels of a namespace's Services, alive: it stays true of what comes and goes.

        Ask for those of namespaces that exist only: what was asked for is kept.
        """
        return self._labels.setdefault(namespace, set())

    def labels_below(self, key: ObjectKey, label: bytes = b"") -> frozenset[bytes]:
        """Return the labels that may exist below a Service, or below a label below it.

        It holds until the fact of the Service changes. The last ones are kept.
        """
        parts = (self.by_name.get(key), *self.slices_of(key))
        known = self._below.get((key, label))
        if known is not None and known[0] == parts:  # compares objects that are the same
            return known[1]
        found = frozenset(_below_label(parts, label) if label else _below_service(parts))
        if len(self._below) >= _MAX_BELOW:
            self._below.clear()
        self._below[key, label] = parts, found
        return found

    def let_go(self, namespace: str) -> None:
        """Forget the labels of a namespace that has gone, if it has no Service any more."""
        if not self._labels.get(namespace, True):
            del self._labels[namespace]

    def at(self, address: str) -> list[ObjectKey]:
        """Return the Services that have ``address`` as a cluster address."""
        return list(self._services_by_address.get(address, ()))

    def outside_at(self, address: str) -> list[ObjectKey]:
        """Return the Services that have ``address`` as an external address."""
        return list(self._services_by_external.get(address, ()))

    def slices_at(self, address: str) -> list[tuple[ObjectKey, Slice]]:
        """Return the EndpointSlices with a ready endpoint at ``address``, by their Service."""
        found = []
        for key in self._slices_by_address.get(address, ()):
            owner = self._services_by_slice[key]
            found.append((owner, self.slices[owner][key[1]]))
        return found

    def slices_of(self, service: ObjectKey) -> Iterable[Slice]:
        """Return the EndpointSlices of a Service."""
        return self.slices.get(service, {}).values()

    def slices_by_name(self, service: ObjectKey) -> Mapping[str, Slice]:
        """Return the EndpointSlices of a Service, by their names."""
        return self.slices.get(service, {})

    def has_endpoints(self, service: ObjectKey) -> bool:
        """Tell whether a Service has a ready endpoint."""
        return any(found.endpoints for found in self.slices_of(service))

    def slice(self, key: ObjectKey) -> Slice | None:
        """Return an EndpointSlice."""
        owner = self._services_by_slice.get(key)
        return self.slices[owner][key[1]] if owner else None

    def put(self, key: ObjectKey, new: Service | None) -> list[Fact]:
        """Set a Service, or remove it with None; return the facts that changed."""
        old = self.by_name.get(key)
        labels = self._labels.setdefault(key[0], set())
        if new is None:
            del self.by_name[key]
            labels.discard(_label(key[1]))
        else:
            self.by_name[key] = new
            labels.add(_label(key[1]))
        before = set(old.addresses if old else ()) - {"None", ""}
        after = set(new.addresses if new else ()) - {"None", ""}
        _index(self._services_by_address, key, before, after)
        outside_before = set(old.external_addresses if old else ())
        outside_after = set(new.external_addresses if new else ())
        _index(self._services_by_external, key, outside_before, outside_after)
        facts: list[Fact] = [("service", *key), *(("address", a) for a in before | after)]
        return [*facts, *(("external", a) for a in outside_before | outside_after), SERVERS]

    def put_slice(self, key: ObjectKey, new: Slice | None) -> list[Fact]:
        """Set an EndpointSlice, or remove it with None; return the facts that changed."""
        old = self.slice(key)
        if old is not None:
            self._remove_slice(key)
        if new is not None:
            self._services_by_slice[key] = (key[0], new.service)
            self.slices.setdefault((key[0], new.service), {})[key[1]] = new
        before = {endpoint.address for endpoint in old.endpoints} if old else set()
        after = {endpoint.address for endpoint in new.endpoints} if new else set()
        _index(self._slices_by_address, key, before, after)
        facts: list[Fact] = [("service", key[0], s.service) for s in (old, new) if s]
        return [*facts, *(("address", address) for address in before | after), SERVERS]

    def _remove_slice(self, key: ObjectKey) -> None:
        owner = self._services_by_slice.pop(key)
        siblings = self.slices[owner]
        del siblings[key[1]]
        if not siblings:
            del self.slices[owner]


class Follower(Protocol):
    """Makes names of the objects of some published kinds, see published.py; never raises."""

    @property
    def kinds(self) -> Collection[str]:
        """The kinds it is told of."""

    def take(
        self, kind: str, key: ObjectKey, value: tuple[Any, ...] | None, seconds: int
    ) -> list[Fact]:
        """Take an object, or None where it has gone, at Unix time; return the changed facts."""

    def settle(self) -> None:
        """Take note that one more kind has been listed or refused."""


class Store:
    """Services, EndpointSlices, Namespaces and Pods of one source, indexed for lookups.

    ``imported`` are ServiceImports, as Services, and their EndpointSlices. The serials are Unix
    seconds of the last change that moves them.
    (CoreDNS: plugin/kubernetes/controller.go)
    """

    def __init__(self, kinds: Collection[str]) -> None:
        self.serial = self.import_serial = self.external_serial = 0
        self.services = Services()
        self.imported = Services()
        self.namespaces: set[str] = set()
        self.namespace_labels: set[bytes] = set()
        self.pods: dict[ObjectKey, Pod] = {}
        self._pods_by_address: dict[str, tuple[ObjectKey, ...]] = {}
        self.published: dict[str, dict[ObjectKey, tuple[Any, ...]]] = {
            kind: {} for kind in kinds if kind in PUBLISHED
        }
        self._followers: list[Follower] = []
        self.refused: set[str] = set()  # kinds that the API server does not let us list
        self._unsynced = set(kinds)

    @property
    def is_synced(self) -> bool:
        """Whether every kind has been listed; it stays true from then on."""
        return not self._unsynced

    def has_all(self, kinds: Collection[str]) -> bool:
        """Tell whether each of ``kinds`` has been listed."""
        return self._unsynced.isdisjoint(kinds)

    def synced(self, kind: str) -> None:
        """Note that a kind has been listed."""
        self._unsynced.discard(kind)
        self.refused.discard(kind)
        self._settle(kind)

    def refuse(self, kind: str) -> None:
        """Note that a kind cannot be listed; nothing happens to one that has been."""
        if kind in self._unsynced:
            self.refused.add(kind)
            self._settle(kind)

    def has_settled(self, kinds: Collection[str]) -> bool:
        """Tell whether each of ``kinds`` has been listed once, or is refused."""
        return self._unsynced.intersection(kinds) <= self.refused

    def _settle(self, kind: str) -> None:
        for follower in self._followers:
            if kind in follower.kinds:
                follower.settle()

    def follow(self, follower: Follower, seconds: int) -> None:
        """Tell ``follower`` of all objects of its kinds, and of their changes from then on."""
        self._followers.append(follower)
        for kind in follower.kinds:
            for key, value in self.published.get(kind, {}).items():
                follower.take(kind, key, value, seconds)

    @property
    def is_settled(self) -> bool:
        """Whether every kind has been listed once, or is refused, except published ones."""
        return self._unsynced - PUBLISHED <= self.refused

    @property
    def is_ready(self) -> bool:
        """Whether it is settled, and no kind is refused that most names need."""
        return self.is_settled and self._unsynced.isdisjoint((NAMESPACES, SERVICES, SLICES))

    def apply(self, change: Change, seconds: int) -> list[Fact]:
        """Apply one change and return the facts it affects; ``seconds`` is Unix time."""
        serial, import_serial = self.serial, self.import_serial
        external_serial = self.external_serial
        facts = self._apply(change, seconds)
        if self.serial != serial:
            facts.append(_renewal(SERIAL, serial, self.serial))
        if self.import_serial != import_serial:
            facts.append(_renewal(IMPORT_SERIAL, import_serial, self.import_serial))
        if self.external_serial != external_serial:
            facts.append(_renewal(EXTERNAL_SERIAL, external_serial, self.external_serial))
        return facts

    def _apply(self, change: Change, seconds: int) -> list[Fact]:
        kind, key, value = change
        if kind in (SERVICES, IMPORTS):
            return self._apply_service(kind, key, _service(value) if value else None, seconds)
        if kind in (SLICES, IMPORT_SLICES):
            return self._apply_slice(kind, key, _slice(value) if value else None, seconds)
        if kind == PODS:
            return self._apply_pod(key, Pod(*value) if value else None, seconds)
        if kind == NAMESPACES:
            return self._apply_namespace(key[1], None if value is None else Namespace())
        return self._apply_published(change, seconds)

    def _apply_published(self, change: Change, seconds: int) -> list[Fact]:
        kind, key, value = change
        known = self.published.get(kind)
        if known is None or known.get(key) == value:
            return []
        if value is None:
            del known[key]
        else:
            known[key] = value
        facts: list[Fact] = []
        for follower in self._followers:
            if kind in follower.kinds:
                facts += follower.take(kind, key, value, seconds)
        return facts

    def keys(self, kind: str) -> list[ObjectKey]:
        """Return the keys of all objects of a kind."""
        if kind == NAMESPACES:
            return [("", name) for name in self.namespaces]
        if kind == PODS:
            return list(self.pods)
        if kind in PUBLISHED:
            return list(self.published.get(kind, ()))
        services = self.imported if kind in (IMPORTS, IMPORT_SLICES) else self.services
        return services.slice_keys if kind in (SLICES, IMPORT_SLICES) else list(services.by_name)

    def pods_at(self, address: str) -> list[ObjectKey]:
        """Return the Pods whose first address is ``address``."""
        return list(self._pods_by_address.get(address, ()))

    def _apply_service(
        self, kind: str, key: ObjectKey, new: Service | None, seconds: int
    ) -> list[Fact]:
        services = self.services if kind == SERVICES else self.imported
        old = services.by_name.get(key)
        if old == new:
            return []
        if old is None or new is None or (kind == SERVICES and _is_moved(old, new)):
            self.serial = seconds
        elif kind == IMPORTS and (old.type, old.ports) != (new.type, new.ports):
            self.import_serial = seconds
        if kind == SERVICES and _is_moved_outside(old, new):
            self.external_serial = seconds
        facts = services.put(key, new)
        if key[0] not in self.namespaces:  # no denial holds its labels
            services.let_go(key[0])
        return facts

    def _apply_slice(
        self, kind: str, key: ObjectKey, new: Slice | None, seconds: int
    ) -> list[Fact]:
        services = self.services if kind == SLICES else self.imported
        old = services.slice(key)
        if old == new:
            return []
        if old is None or new is None or (kind == SLICES and _is_slice_moved(old, new)):
            self.serial = seconds
        elif kind == IMPORT_SLICES and _is_slice_moved(old, new):
            self.import_serial = seconds
        return services.put_slice(key, new)

    def _apply_pod(self, key: ObjectKey, new: Pod | None, seconds: int) -> list[Fact]:
        old = self.pods.get(key)
        if old == new:
            return []
        if new is None:
            del self.pods[key]
        else:
            self.pods[key] = new
        before, after = (set(pod.addresses) if pod else set[str]() for pod in (old, new))
        _index(self._pods_by_address, key, before, after)
        self.serial = seconds
        return [("address", address) for address in before | after]

    def _apply_namespace(self, name: str, new: Namespace | None) -> list[Fact]:
        if (new is not None) == (name in self.namespaces):
            return []
        if new is None:
            self.namespaces.discard(name)
            self.namespace_labels.discard(_label(name))
            self.services.let_go(name)
            self.imported.let_go(name)
        else:
            self.namespaces.add(name)
            self.namespace_labels.add(_label(name))
        return [EVERYTHING]


def _below_service(parts: _Parts) -> Iterator[bytes]:
    """Yield the labels of endpoints, protocols and clusters, with and without underscore."""
    yield from (_ANY, _ZONE)
    for part in parts:
        for port in part.ports if part else ():
            yield from _underscored(port.protocol)
        if isinstance(part, Slice):
            yield _label(part.cluster.lower())
            yield from _endpoints(part)


def _below_label(parts: _Parts, label: bytes) -> Iterator[bytes]:
    """Yield the labels of the ports of a protocol, and of the endpoints of a cluster."""
    yield _ANY
    protocol = label.removeprefix(_ANY)
    for part in parts:
        for port in part.ports if part else ():
            if protocol in (b"", _label(port.protocol.lower())):
                yield from _underscored(port.name)
        if isinstance(part, Slice) and label == _label(part.cluster.lower()):
            yield from _endpoints(part)


def _underscored(text: str) -> tuple[bytes, bytes]:
    label = _label(text.lower())
    return label, _ANY + label


def _endpoints(part: Slice) -> Iterator[bytes]:
    """Yield the labels that endpoints have by any options."""
    for endpoint in part.endpoints:
        for text in (endpoint.hostname, endpoint.target, endpoint.dashed):
            if text:
                yield _label(text.lower())


def _label(text: str) -> bytes:
    """Return the label of a text, the empty label for an invalid one.

    As in ``records.parse``, a label is read as Latin-1.
    """
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return b""


def _renewal(fact: Fact, old: int, new: int) -> Renewal:
    return Renewal(fact, rr.soa_serial(old & 0xFFFFFFFF), rr.soa_serial(new & 0xFFFFFFFF))


def _index(
    index: dict[str, tuple[ObjectKey, ...]],
    key: ObjectKey,
    before: Iterable[str],
    after: Iterable[str],
) -> None:
    """Move ``key`` in an index by address; keys of one address keep their order of arrival."""
    gone, come = set(before) - set(after), set(after) - set(before)
    alone = (key,)  # shared by all addresses of an object, which saves memory
    for address in gone:
        left = tuple(other for other in index.get(address, ()) if other != key)
        if left:
            index[address] = left
        else:
            index.pop(address, None)
    for address in come:
        others = index.get(address)
        index[address] = (*others, key) if others else alone


def _service(value: tuple[Any, ...]) -> Service:
    """Return the Service of a change's value."""
    found = Service(*value)
    return found._replace(ports=tuple([Port(*port) for port in found.ports]))


def _slice(value: tuple[Any, ...]) -> Slice:
    """Return the EndpointSlice of a change's value."""
    found = Slice(*value)
    return found._replace(
        endpoints=tuple([Endpoint(*endpoint) for endpoint in found.endpoints]),
        ports=tuple([Port(*port) for port in found.ports]),
    )


def _is_moved(old: Service, new: Service) -> bool:
    """Tell whether a change moves the serial (CoreDNS: controller.go serviceModified)."""
    return (old.external_name, old.ports) != (new.external_name, new.ports)


def _is_moved_outside(old: Service | None, new: Service | None) -> bool:
    """Tell whether a change moves the serial of external zones (CoreDNS: serviceModified)."""
    if old is None or new is None:
        return any(service.external_addresses for service in (old, new) if service)
    return (old.external_addresses, old.ports) != (new.external_addresses, new.ports)


def _is_slice_moved(old: Slice, new: Slice) -> bool:
    """Tell whether a change moves the serial (CoreDNS: controller.go endpointsEquivalent)."""

    def part(found: Slice) -> tuple[Hashable, ...]:
        names = tuple((e.address, e.hostname) for e in found.endpoints)
        return names, found.ports, frozenset(found.zones), found.cluster

    return part(old) != part(new)
