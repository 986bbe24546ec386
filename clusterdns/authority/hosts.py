"""Ingresses, and routes at the listeners of Gateways -> hosts of live zones.

``Hosts`` follows a store: it takes one object at a time, and changes the hosts that the object has
or had. A host belongs to the oldest object that has it. A route has those of its hosts that a
listener of a Gateway that has accepted it has, too. A Gateway that changes may change all its
routes: they become due, and ``work`` reads them anew, some at a time.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from clusterdns.authority.answering import longest
from clusterdns.authority.hostzone import HostZone
from clusterdns.authority.leftout import CONFLICT, INVALID, LIMIT, LISTENER, OUTSIDE, SENTENCES
from clusterdns.cluster.objects import MANIFEST_KINDS, ObjectId, ObjectKey
from clusterdns.cluster.published import GATEWAYS, INGRESSES, TLS_ROUTES, Gateway, Ingress, Route
from clusterdns.cluster.store import Fact
from clusterdns.errors import FormError
from clusterdns.wire import name
from clusterdns.wire.name import WireName

MAX_HOSTS: Final = 65_536  # of all objects together
REASONS: Final = (OUTSIDE, INVALID, CONFLICT, LISTENER, LIMIT)
_BATCH: Final = 2000  # comparisons of a host with a listener in one go: some milliseconds
_WEB, _TLS = frozenset(("HTTP", "HTTPS")), frozenset(("TLS",))
_KNOWN_PROTOCOLS: Final = frozenset(("HTTP", "HTTPS", "TLS", "TCP", "UDP"))


class Claim(NamedTuple):
    """The hosts of one object, as it claims them; the least of all claims counts.

    An Ingress without address is taken up by no controller: it gives way to any other.
    """

    is_idle: bool
    created: str
    key: ObjectKey
    kind: str

    @property
    def id(self) -> ObjectId:
        """Which object it is."""
        return self.kind, self.key

    @property
    def title(self) -> str:
        """The object, for people."""
        return f"{MANIFEST_KINDS[self.kind]} {'/'.join(self.key)}"


class Carrier(NamedTuple):
    """Where a host leads to: the class of an Ingress or Gateway, and its addresses."""

    class_name: str
    addresses: tuple[str, ...]


class _Held(NamedTuple):
    """An object's hosts in our zones, each with the Gateways it leads to; what was left out."""

    claim: Claim
    hosts: dict[WireName, tuple[ObjectKey, ...]]
    left_out: Counter[str]


class _Listener(NamedTuple):
    name: str
    host: str  # in lower case, "" for any
    protocol: str
    allows_from: str


class _Known(NamedTuple):
    """A Gateway, and its listeners, in other words."""

    gateway: Gateway
    listeners: tuple[_Listener, ...]


class Hosts:
    """The zones of one `ingress`, and what its objects say of them."""

    def __init__(
        self,
        zones: Iterable[HostZone],
        *,
        kinds: Collection[str],
        ingress_classes: Collection[str] = (),
        gateway_classes: Collection[str] = (),
        namespaces: Collection[str] = (),
        changed: Callable[[WireName], None] = lambda _zone: None,
        tell: Callable[[str], None] = lambda _sentence: None,
        settled: Callable[[], None] = lambda: None,
        later: Callable[[], None] = lambda: None,
        most_hosts: int = MAX_HOSTS,
    ) -> None:
        self.zones = {zone.apex: zone for zone in zones}
        self.kinds = tuple(kinds)
        self.settle = settled
        self._ingress_classes, self._gateway_classes = set(ingress_classes), set(gateway_classes)
        self._namespaces = frozenset(namespaces)
        self._changed, self._tell, self._later = changed, tell, later
        self._objects: dict[ObjectId, Ingress | Route] = {}
        self._gateways: dict[ObjectKey, _Known] = {}
        self._routes: dict[ObjectKey, dict[ObjectId, None]] = {}  # by Gateway that accepted them
        self._held: dict[ObjectId, _Held] = {}
        self._claims: dict[WireName, list[Claim]] = {}  # of a host, the least first
        self._due: dict[ObjectId, None] = {}  # objects to be read anew
        self._short: dict[ObjectId, None] = {}  # objects that there was no room for
        self._count, self._most = 0, most_hosts

    # ---- what is served

    def claims(self, owner: WireName) -> list[Claim]:
        """Return the claims on a host or wildcard; the first one counts."""
        return self._claims.get(owner, [])

    def carriers(self, claim: Claim, owner: WireName) -> list[Carrier]:
        """Return where a host of an object leads to."""
        found = self._objects.get(claim.id)
        if isinstance(found, Ingress):
            return [Carrier(found.ingress_class, found.addresses)]
        gateways = [self._gateways[key].gateway for key in self.gateways(claim, owner)]
        return [Carrier(each.gateway_class, each.addresses) for each in gateways]

    def gateways(self, claim: Claim, owner: WireName) -> list[ObjectKey]:
        """Return the Gateways that a host of a route leads to, [] for that of an Ingress."""
        held = self._held.get(claim.id)
        keys = held.hosts.get(owner, ()) if held is not None else ()
        return [key for key in keys if key in self._gateways]

    def counts(self) -> tuple[Mapping[WireName, int], Mapping[str, int]]:
        """Return the number of hosts by zone, and of those that are not served by reason."""
        hosts: Counter[WireName] = Counter()
        left_out: Counter[str] = Counter()
        for owner, claims in self._claims.items():
            hosts[longest(owner, self.zones) or owner] += 1
            if len(claims) > 1:
                first = claims[0]
                left_out[CONFLICT] += sum(self._differ(owner, each, first) for each in claims)
        for held in self._held.values():
            left_out += held.left_out
        return hosts, +left_out

    def unserved(self, owner: WireName) -> list[tuple[ObjectId, str]]:
        """Return the objects that name a host and do not count, and why; for explanations."""
        found: list[tuple[ObjectId, str]] = []
        text = name.text(owner).rstrip(".")
        for id_, each in self._objects.items():
            held = self._held.get(id_)
            if text not in each.hosts or (held is not None and owner in held.hosts):
                continue
            if isinstance(each, Ingress):
                why = f"its class {each.ingress_class!r} does not count"
            elif not each.parents:
                why = "no Gateway has accepted it"
            elif not self._parents(each):
                why = "its Gateway is not there, or of a class that does not count"
            else:
                why = f"the host {SENTENCES[LISTENER]}"
            found.append((id_, why))
        return found

    # ---- changes

    def take(
        self, kind: str, key: ObjectKey, value: tuple[Any, ...] | None, seconds: int
    ) -> list[Fact]:
        """Take an object, see ``store.Follower``."""
        if kind == GATEWAYS:
            return self._take_gateway(key, Gateway(*value) if value is not None else None, seconds)
        if self._namespaces and key[0] not in self._namespaces:
            return []
        id_ = (kind, key)
        old = self._objects.pop(id_, None)
        if isinstance(old, Route):
            self._leave(id_, old)
        if value is not None:
            self._objects[id_] = made = Ingress(*value) if kind == INGRESSES else Route(*value)
            for space, text, _ in made.parents if isinstance(made, Route) else ():
                self._routes.setdefault((space, text), {})[id_] = None
        self._due.pop(id_, None)
        facts = self._moved(self._read_anew(id_), seconds)
        if self._due:
            self._later()
        return facts

    @property
    def has_work(self) -> bool:
        """Whether routes of Gateways that changed, say, have not been read anew yet."""
        return bool(self._due)

    def work(self, seconds: int) -> list[Fact]:
        """Read some of the objects that are due; return the facts that changed."""
        touched, left = set[WireName](), _BATCH
        while self._due and left > 0:
            id_ = next(iter(self._due))
            del self._due[id_]
            found, listeners = self._objects[id_], 1
            if isinstance(found, Route):
                listeners = sum(len(known.listeners) for known, _ in self._parents(found))
            left -= 20 + max(1, len(found.hosts)) * listeners
            touched |= self._read_anew(id_)
        return self._moved(touched, seconds)

    def _take_gateway(self, key: ObjectKey, new: Gateway | None, seconds: int) -> list[Fact]:
        if (
            new is not None
            and self._gateway_classes
            and (new.gateway_class not in self._gateway_classes)
        ):
            new = None
        old = self._gateways.pop(key, None)
        if new is not None:
            self._gateways[key] = _Known(new, tuple(_listeners(new)))
        routes = self._routes.get(key, {})
        if (new and new.listeners) != (old and old.gateway.listeners):
            self._due.update(routes)
        facts = [*self._moved(self.zones if routes else (), seconds), *self.work(seconds)]
        if self._due:
            self._later()
        return facts

    def _leave(self, id_: ObjectId, route: Route) -> None:
        for space, text, _ in route.parents:
            routes = self._routes.get((space, text), {})
            routes.pop(id_, None)
            if not routes:
                self._routes.pop((space, text), None)

    def _moved(self, zones: Iterable[WireName], seconds: int) -> list[Fact]:
        found: list[Fact] = []
        for zone in zones:
            self.zones[zone].move(seconds)
            self._changed(zone)
            found.append(("zone", name.text(zone)))
        return found

    def _read_anew(self, id_: ObjectId) -> set[WireName]:
        """Read an object's hosts, and enter them; return the zones it has or had hosts in."""
        old = self._held.pop(id_, None)
        new = self._read(id_, old)
        if new is not None:
            self._held[id_] = new
        had, has = (held.hosts if held else {} for held in (old, new))
        self._count += len(has) - len(had)
        self._short.pop(id_, None)
        if new is not None and new.left_out[LIMIT]:
            self._short[id_] = None
        elif len(has) < len(had):  # there is room for some of the others
            room = max(0, self._most - self._count)
            self._due.update(dict.fromkeys(itertools.islice(self._short, room)))
        is_other = old is None or new is None or old.claim != new.claim
        for owner in had:
            if old is not None and (is_other or owner not in has):
                self._remove(owner, old.claim)
        for owner in has:
            if new is not None and (is_other or owner not in had):
                self._add(owner, new.claim)
        return {zone for owner in {**had, **has} if (zone := longest(owner, self.zones))}

    def _add(self, owner: WireName, claim: Claim) -> None:
        claims = self._claims.setdefault(owner, [])
        bisect.insort(claims, claim)
        if len(claims) == 1:
            self._set(owner, exists=True)
        elif claim != claims[0] and self._differ(owner, claim, claims[0]):
            said = f"{name.text(owner)} {SENTENCES[CONFLICT]}, {claims[0].title}"
            self._tell(f"{claim.title}: {said}")

    def _remove(self, owner: WireName, claim: Claim) -> None:
        claims = self._claims[owner]
        del claims[bisect.bisect_left(claims, claim)]
        if not claims:
            del self._claims[owner]
            self._set(owner, exists=False)

    def _set(self, owner: WireName, *, exists: bool) -> None:
        zone = longest(owner, self.zones)
        if zone is not None:
            self.zones[zone].set(owner, exists=exists)

    def _differ(self, owner: WireName, claim: Claim, first: Claim) -> bool:
        """Tell whether a host of an object leads elsewhere than that of the one that counts."""
        theirs = self.carriers(first, owner)
        return any(each.addresses and each not in theirs for each in self.carriers(claim, owner))

    # ---- what an object says

    def _read(self, id_: ObjectId, old: _Held | None) -> _Held | None:
        """Return an object's hosts in our zones; tell of what is left out."""
        found, (kind, key) = self._objects.get(id_), id_
        if found is None:
            return None
        if isinstance(found, Route):
            claim = Claim(False, found.created, key, kind)
            return self._bounded(claim, *self._at_listeners(claim, found), old)
        if self._ingress_classes and found.ingress_class not in self._ingress_classes:
            return None
        claim = Claim(not found.addresses, found.created, key, kind)
        return self._bounded(claim, dict.fromkeys(found.hosts, ()), {}, old)

    def _at_listeners(
        self, claim: Claim, route: Route
    ) -> tuple[dict[str, tuple[ObjectKey, ...]], dict[str, str]]:
        """Return the hosts of a route that listeners have too, with the Gateways of these.

        And those that no listener has, with the reason.
        """
        found: dict[str, dict[ObjectKey, None]] = {}
        matched: set[str] = set()
        hosts = [host.lower().rstrip(".") for host in route.hosts or ("",)]
        parents = self._parents(route)
        for known, (space, text, section) in parents:
            for listener in known.listeners:
                if section not in ("", listener.name) or not _allows(listener, space, claim):
                    continue
                for host in hosts:
                    common = common_host(host, listener.host)
                    if common:
                        matched.add(host)
                        found.setdefault(common, {})[space, text] = None
        lost = {host: LISTENER for host in hosts if host and parents and host not in matched}
        return {host: tuple(keys) for host, keys in found.items()}, lost

    def _parents(self, route: Route) -> list[tuple[_Known, tuple[str, str, str]]]:
        """Return the Gateways that have accepted a route, as far as they are known."""
        return [(self._gateways[at[:2]], at) for at in route.parents if at[:2] in self._gateways]

    def _bounded(
        self,
        claim: Claim,
        wanted: Mapping[str, tuple[ObjectKey, ...]],
        lost: Mapping[str, str],
        old: _Held | None,
    ) -> _Held:
        room = self._most - self._count + (len(old.hosts) if old else 0)
        before = old.left_out if old else Counter[str]()
        hosts: dict[WireName, tuple[ObjectKey, ...]] = {}
        left_out: Counter[str] = Counter()
        for text, reason in (*dict.fromkeys(wanted, "").items(), *lost.items()):
            owner = _parsed(text)
            if owner is None:
                reason = INVALID
            elif longest(owner, self.zones) is None:
                reason = OUTSIDE
            elif not reason and len(hosts) >= room:
                reason = LIMIT
            if owner is not None and not reason:
                hosts[owner] = wanted[text]
                continue
            left_out[reason] += 1
            if left_out[reason] == 1 and reason not in before:
                self._tell(f"{claim.title}: {text:.253} {SENTENCES[reason]}")
        return _Held(claim, hosts, left_out)


def common_host(host: str, pattern: str) -> str:
    """Return the host name that a route and a listener have in common, "" for none.

    Either may be "", which is any, or a wildcard, which stands for all names below (Gateway API:
    Listener.hostname).
    """
    if not pattern or host == pattern:
        return host
    if not host:
        return pattern
    if _is_below(host, pattern):
        return host
    return pattern if _is_below(pattern, host) else ""


def _is_below(host: str, wildcard: str) -> bool:
    """Tell whether a name, or all names of a wildcard, are among those of another wildcard."""
    return wildcard.startswith("*.") and host.endswith(wildcard[1:])


def _allows(listener: _Listener, gateway_namespace: str, claim: Claim) -> bool:
    """Tell whether a listener takes routes of a kind and namespace.

    A selector of namespaces is left to the controller, which has accepted the route.
    """
    if listener.allows_from == "Same" and claim.key[0] != gateway_namespace:
        return False
    if listener.protocol not in _KNOWN_PROTOCOLS:
        return True
    return listener.protocol in (_TLS if claim.kind == TLS_ROUTES else _WEB)


def _listeners(gateway: Gateway) -> Iterable[_Listener]:
    for section, host, protocol, allows_from in gateway.listeners:
        yield _Listener(section, host.lower().rstrip("."), protocol, allows_from)


def _parsed(text: str) -> WireName | None:
    """Return the name of a host, None for an invalid one."""
    try:
        return name.fold(name.parse(text))
    except FormError:
        return None
