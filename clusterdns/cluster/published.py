"""Objects that only some plugins want: DNSEndpoints, Ingresses, Gateways and their routes; clients.

Those that publish names are cut down to names, targets and age, and clients, which are Pods that
may ask, to their addresses. Nobody watches them unless a plugin asks for them
(``Inside.published``). Tenants write them, so each is bounded in octets; a larger one is skipped.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from clusterdns.cluster.fields import ObjectError, items, text, texts
from clusterdns.wire import name

DNS_ENDPOINTS: Final = "dnsendpoints"
INGRESSES, GATEWAYS = "ingresses", "gateways"
HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES = "httproutes", "grpcroutes", "tlsroutes"
ROUTES: Final = (HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES)
CLIENTS: Final = "clients"  # Pods with an address of their own
PUBLISHED: Final = frozenset((DNS_ENDPOINTS, INGRESSES, GATEWAYS, *ROUTES, CLIENTS))

MANIFEST_KINDS: Final = {
    DNS_ENDPOINTS: "DNSEndpoint",
    INGRESSES: "Ingress",
    GATEWAYS: "Gateway",
    HTTP_ROUTES: "HTTPRoute",
    GRPC_ROUTES: "GRPCRoute",
    TLS_ROUTES: "TLSRoute",
    CLIENTS: "Pod",
}
_GATEWAY_GROUP = "gateway.networking.k8s.io"
# API group and versions. TLSRoute is v1 from Gateway API 1.5 on.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    DNS_ENDPOINTS: ("externaldns.k8s.io", "v1alpha1"),
    INGRESSES: ("networking.k8s.io", "v1"),
    GATEWAYS: (_GATEWAY_GROUP, "v1"),
    HTTP_ROUTES: (_GATEWAY_GROUP, "v1"),
    GRPC_ROUTES: (_GATEWAY_GROUP, "v1"),
    TLS_ROUTES: (_GATEWAY_GROUP, "v1", "v1alpha3", "v1alpha2"),
    CLIENTS: ("", "v1"),
}
FINISHED_PHASES: Final = frozenset(("Succeeded", "Failed", "Unknown"))  # of a Pod
MAX_ITEMS: Final = 1000  # records or hosts of one object: 40 ms of a worker's time
MAX_OCTETS: Final = 128 * 1024  # of their texts; etcd holds 1.5 MiB
# Of a Gateway, and of a route (Gateway API: the definitions' maxItems).
MAX_LISTENERS, MAX_HOSTS, MAX_PARENTS = 64, 16, 32
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"  # before spec.ingressClassName
_IGNORE_LABEL = "k8s-gateway.dns/ignore"  # that of k8s_gateway, for Ingresses and routes


class DNSEndpoint(NamedTuple):
    """A DNSEndpoint: when it was created, and its records.

    A record is (name, type, TTL in seconds, 0 for none, target).
    """

    created: str
    records: tuple[tuple[str, str, int, str], ...]


class Ingress(NamedTuple):
    """An Ingress: its class, its hosts, and the addresses that its controller gave it."""

    created: str
    ingress_class: str
    hosts: tuple[str, ...]
    addresses: tuple[str, ...]


class Gateway(NamedTuple):
    """A Gateway: its class, its listeners, and its addresses.

    A listener is (name, hostname, protocol, from where it allows routes: Same, All or Selector).
    """

    created: str
    gateway_class: str
    listeners: tuple[tuple[str, str, str, str], ...]
    addresses: tuple[str, ...]


class Route(NamedTuple):
    """A route: its hosts, and the Gateways that have accepted it.

    A Gateway is (namespace, name, section), the section "" for all listeners.
    """

    created: str
    hosts: tuple[str, ...]
    parents: tuple[tuple[str, str, str], ...]


class Client(NamedTuple):
    """A Pod with addresses of its own, in canonical text; its namespace is in its key."""

    addresses: tuple[str, ...]


TYPES: Final[dict[str, Callable[..., Any]]] = {
    DNS_ENDPOINTS: DNSEndpoint,
    INGRESSES: Ingress,
    GATEWAYS: Gateway,
    HTTP_ROUTES: Route,
    GRPC_ROUTES: Route,
    TLS_ROUTES: Route,
    CLIENTS: Client,
}


def _endpoint(manifest: Mapping[str, Any]) -> DNSEndpoint:
    """Return a DNSEndpoint (external-dns: apis/v1alpha1, endpoint/endpoint.go)."""
    found = list[tuple[str, str, int, str]]()
    for each in items(_spec(manifest).get("endpoints")):
        ttl = each.get("recordTTL") or 0
        if not isinstance(ttl, int):
            raise TypeError(f"{ttl!r:.40} is no TTL")
        # Longer ones are no TTLs (RFC 2181 section 8).
        head = (text(each.get("dnsName")), text(each.get("recordType")), ttl & 0x7FFFFFFF)
        found += [(*head, target) for target in texts(each.get("targets"))]
    _check(sum(len(name) + len(target) for name, _, _, target in found), len(found))
    return DNSEndpoint(_created(manifest), tuple(found))


def _ingress(manifest: Mapping[str, Any]) -> Ingress | None:
    if _is_ignored(manifest):
        return None
    spec = _spec(manifest)
    hosts = _hosts(text(rule.get("host")) for rule in items(spec.get("rules")))
    annotations = manifest["metadata"].get("annotations") or {}
    status = (manifest.get("status") or {}).get("loadBalancer") or {}
    points = items(status.get("ingress"))
    addresses = _hosts(text(each.get("ip")) or text(each.get("hostname")) for each in points)
    name = text(spec.get("ingressClassName")) or text(annotations.get(_CLASS_ANNOTATION))
    return Ingress(_created(manifest), name, hosts, addresses)


def _gateway(manifest: Mapping[str, Any]) -> Gateway:
    spec = _spec(manifest)
    listeners = tuple(map(_listener, items(spec.get("listeners"))))
    octets = sum(sum(map(len, each)) for each in listeners)
    _check(octets, len(listeners), MAX_LISTENERS)
    status = manifest.get("status") or {}
    addresses = _hosts(text(each.get("value")) for each in items(status.get("addresses")))
    name = text(spec.get("gatewayClassName"))
    return Gateway(_created(manifest), name, listeners, addresses)


def _listener(found: Mapping[str, Any]) -> tuple[str, str, str, str]:
    namespaces = (found.get("allowedRoutes") or {}).get("namespaces") or {}
    section, host = text(found.get("name")), text(found.get("hostname"))
    return section, host, text(found.get("protocol")), text(namespaces.get("from")) or "Same"


def _route(manifest: Mapping[str, Any]) -> Route | None:
    if _is_ignored(manifest):
        return None
    hosts = _hosts(texts(_spec(manifest).get("hostnames")))
    home = text(manifest["metadata"].get("namespace")) or "default"
    parents = items((manifest.get("status") or {}).get("parents"))
    accepted = [_parent(each.get("parentRef") or {}, home) for each in parents if _accepts(each)]
    found = tuple(dict.fromkeys(each for each in accepted if each[1]))
    _check(sum(map(len, hosts)), len(hosts), MAX_HOSTS)
    _check(sum(sum(map(len, each)) for each in found), len(found), MAX_PARENTS)
    return Route(_created(manifest), hosts, found)


def _client(manifest: Mapping[str, Any]) -> Client | None:
    """Return a Pod as a client; None for one with the addresses of its node, or without any."""
    status = manifest.get("status") or {}
    if text(status.get("phase")) in FINISHED_PHASES or _spec(manifest).get("hostNetwork") is True:
        return None
    found = pod_addresses(status)
    return Client(found) if found else None


def pod_addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses of a Pod in canonical text, the first one first."""
    each = items(status.get("podIPs"))
    texts = [text(status.get("podIP")), *(text(one.get("ip")) for one in each)]
    addresses = (name.canonical_address(said) or said for said in texts if said)
    return tuple(dict.fromkeys(addresses))


def _accepts(parent: Mapping[str, Any]) -> bool:
    """Tell whether the controller of a Gateway has accepted a route (Gateway API: RouteStatus)."""
    return any(
        each.get("type") == "Accepted" and each.get("status") == "True"
        for each in items(parent.get("conditions"))
    )


def _parent(reference: Mapping[str, Any], home: str) -> tuple[str, str, str]:
    """Return the Gateway that a parentRef names, with an empty name where it names another kind."""
    group, kind = reference.get("group", _GATEWAY_GROUP), reference.get("kind", "Gateway")
    name = text(reference.get("name")) if (group, kind) == (_GATEWAY_GROUP, "Gateway") else ""
    return text(reference.get("namespace")) or home, name, text(reference.get("sectionName"))


def _spec(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = manifest.get("spec") or {}
    return found


def _created(manifest: Mapping[str, Any]) -> str:
    """Return the time of creation as the API server writes it: earlier is less."""
    return text(manifest["metadata"].get("creationTimestamp"))


def _hosts(found: Any) -> tuple[str, ...]:  # noqa: ANN401 - any iterable of texts
    """Return texts, each once, without empty ones. Raises ObjectError."""
    once = tuple(dict.fromkeys(filter(None, found)))
    _check(sum(map(len, once)), len(once))
    return once


def _is_ignored(manifest: Mapping[str, Any]) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    return bool(labels.get(_IGNORE_LABEL) == "true")


def _check(octets: int, count: int, most: int = MAX_ITEMS) -> None:
    if octets > MAX_OCTETS or count > most:
        raise ObjectError(f"{count} names of {octets} octets are too many in one object")


CUTTERS: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    DNS_ENDPOINTS: _endpoint,
    INGRESSES: _ingress,
    GATEWAYS: _gateway,
    HTTP_ROUTES: _route,
    GRPC_ROUTES: _route,
    TLS_ROUTES: _route,
    CLIENTS: _client,
}
