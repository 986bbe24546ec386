"""Kubernetes objects cut down to what DNS needs.

A manifest is an object as the API server or a file gives it, in JSON form. ``cut`` takes a manifest
and returns its key and a ``ClusterObject``, or None where DNS keeps nothing of it. A change to a
field that is cut off leaves the ``ClusterObject`` equal, so nobody is told of it. Rules: CoreDNS
plugin/kubernetes/object.

A ``Change`` is ``(kind, (namespace, name), value)``: the value is a ``ClusterObject`` as plain
tuples of strings and numbers, which ``marshal`` carries through a socket, or None if it is gone.
Kinds are named by their resource, as in the API server's paths.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from clusterdns.cluster import published
from clusterdns.cluster.fields import ObjectError
from clusterdns.cluster.fields import items as _list
from clusterdns.cluster.fields import text as _text
from clusterdns.cluster.fields import texts as _texts
from clusterdns.cluster.published import Client, DNSEndpoint, Gateway, Ingress, Route

NAMESPACES, SERVICES, SLICES, PODS = "namespaces", "services", "endpointslices", "pods"
IMPORTS, IMPORT_SLICES = "serviceimports", "importedslices"  # of a multicluster zone

ObjectKey = tuple[str, str]  # namespace and name; a Namespace has ("", name)
ObjectId = tuple[str, ObjectKey]  # kind and key
Change = tuple[str, ObjectKey, "tuple[Any, ...] | None"]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
IMPORT_NAME_LABEL = "multicluster.kubernetes.io/service-name"
CLUSTER_LABEL = "multicluster.kubernetes.io/source-cluster"
_MAX_TARGET_OCTETS = 63  # CoreDNS: object/endpoint.go keeps shorter names of targets only


class Port(NamedTuple):
    """A port of a Service or EndpointSlice; number -1 stands for "no port"."""

    name: str
    protocol: str
    number: int


NO_PORT = (Port("", "", -1),)


class Service(NamedTuple):
    """A Service: its type, cluster addresses ("None" first if headless), ports, external name.

    A ServiceImport is kept as a Service.
    """

    type: str
    addresses: tuple[str, ...]
    ports: tuple[Port, ...]
    external_name: str
    external_addresses: tuple[str, ...]

    @property
    def is_headless(self) -> bool:
        """Whether the first cluster address is ``None``, whatever the type."""
        return self.addresses[:1] == ("None",)


class Endpoint(NamedTuple):
    """One ready address of an EndpointSlice: its host name and the name of its target, or ""."""

    address: str
    hostname: str
    target: str

    @property
    def dashed(self) -> str:
        """The label that stands for its address (CoreDNS: kubernetes.go endpointHostname)."""
        if "." in self.address:
            return self.address.replace(".", "-")
        dashed = self.address.replace(":", "-") if ":" in self.address else ""
        return dashed + "0" if dashed.endswith("-") else dashed


class Slice(NamedTuple):
    """An EndpointSlice: the Service it belongs to, its ready endpoints, its ports.

    ``zones`` are pairs of address and topology zone, if kept; ``cluster`` is the cluster of
    imported endpoints.
    """

    service: str
    endpoints: tuple[Endpoint, ...]
    ports: tuple[Port, ...]
    zones: tuple[tuple[str, str], ...] = ()
    cluster: str = ""


class Namespace(NamedTuple):
    """A Namespace that exists; DNS reads nothing else of it."""


class Pod(NamedTuple):
    """A Pod: its addresses in canonical text, the first one first."""

    addresses: tuple[str, ...]


ClusterObject = Service | Slice | Namespace | Pod | DNSEndpoint | Ingress | Gateway | Route | Client
OBJECT_TYPES: dict[str, Callable[..., Any]] = {
    NAMESPACES: Namespace,
    SERVICES: Service,
    SLICES: Slice,
    PODS: Pod,
    IMPORTS: Service,
    IMPORT_SLICES: Slice,
    **published.TYPES,
}
MANIFEST_KINDS = {
    NAMESPACES: "Namespace",
    SERVICES: "Service",
    SLICES: "EndpointSlice",
    PODS: "Pod",
    IMPORTS: "ServiceImport",
    IMPORT_SLICES: "EndpointSlice",
    **published.MANIFEST_KINDS,
}


def cut(
    kind: str,
    manifest: Mapping[str, Any],
    *,
    keeps_zones: bool = False,
    keeps_external: bool = False,
) -> tuple[ObjectKey, ClusterObject | None]:
    """Return the key and the object of a manifest, None where DNS keeps nothing of it.

    ``keeps_zones`` says whether a slice keeps the topology zones of its endpoints,
    ``keeps_external`` whether a Service keeps its external addresses.

    Raises:
        ObjectError: it has no name, or a field has a wrong type.
    """
    try:
        metadata = manifest["metadata"]
        key = (_text(metadata.get("namespace")), _text(metadata["name"]))
        if not key[1]:
            raise ObjectError(f"{kind}: object without a name")
        if kind == NAMESPACES:
            return ("", key[1]), Namespace()
        key = (key[0] or "default", key[1])
        if kind == SLICES and keeps_zones:
            return key, _slice(manifest)._replace(zones=_zones(manifest))
        if kind == SERVICES and keeps_external:
            return key, _service(manifest)._replace(external_addresses=_external(manifest))
        return key, _CUTTERS[kind](manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ObjectError(f"{kind}: {type(error).__name__} at {error}") from error


def labels(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of an object, {} if it has none or they are no mapping."""
    metadata = manifest.get("metadata")
    found = metadata.get("labels") if isinstance(metadata, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def _service(manifest: Mapping[str, Any]) -> Service:
    spec = manifest.get("spec") or {}
    addresses = _texts(spec.get("clusterIPs")) or (_text(spec.get("clusterIP")),)
    return Service(
        type=_text(spec.get("type")) or "ClusterIP",
        addresses=addresses,
        ports=_ports(spec.get("ports"), "TCP"),
        external_name=_text(spec.get("externalName")),
        external_addresses=(),
    )


def _external(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the external addresses of a Service, and the host names of its load balancer."""
    status = (manifest.get("status") or {}).get("loadBalancer") or {}
    ingress = tuple(
        _text(point.get("ip")) or _text(point.get("hostname"))
        for point in _list(status.get("ingress"))
    )
    return _texts((manifest.get("spec") or {}).get("externalIPs")) + ingress


def _ports(ports: object, protocol: str = "") -> tuple[Port, ...]:
    """Return ports, ``protocol`` where one names none, or ``NO_PORT`` if there are none."""
    found = tuple(
        Port(
            _text(port.get("name")),
            _text(port.get("protocol")) or protocol,
            -1 if port.get("port") is None else int(port["port"]),
        )
        for port in _list(ports)
    )
    return found or NO_PORT


def _slice(manifest: Mapping[str, Any]) -> Slice:
    endpoints: list[Endpoint] = []
    for endpoint in _list(manifest.get("endpoints")):
        if not _is_ready(endpoint):
            continue
        target = endpoint.get("targetRef")
        name = (target.get("name") or "") if target else ""
        if len(name) > _MAX_TARGET_OCTETS or len(name.encode()) > _MAX_TARGET_OCTETS:
            name = ""
        hostname = endpoint.get("hostname") or ""
        addresses = endpoint.get("addresses")
        for address in addresses if type(addresses) is list else _list(addresses):
            _ = (
                address + hostname + name
            )  # raises TypeError for other than text; cheaper than three calls
            endpoints.append(Endpoint(address, hostname, name))
    service = labels(manifest).get(SERVICE_NAME_LABEL, "")
    return Slice(_text(service), tuple(endpoints), _ports(manifest.get("ports")))


def _is_ready(endpoint: Mapping[str, Any]) -> bool:
    # serving, terminating and publishNotReadyAddresses are not read: the controller derives
    # `ready` from them (CoreDNS: object/endpoint.go endpointsliceReady).
    conditions = endpoint.get("conditions")
    return not conditions or conditions.get("ready") is not False


def left_out(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the addresses of a slice's endpoints that get no records, and why.

    Raises:
        ObjectError: a field has a wrong type.
    """
    try:
        return [
            (address, _state(endpoint.get("conditions")))
            for endpoint in _list(manifest.get("endpoints"))
            if not _is_ready(endpoint)
            for address in _texts(endpoint.get("addresses"))
        ]
    except (TypeError, AttributeError) as error:
        raise ObjectError(f"{SLICES}: {type(error).__name__} at {error}") from error


def _state(conditions: Mapping[str, Any]) -> str:
    """Return why an endpoint is not ready."""
    if conditions.get("terminating") is True:
        serving = ", still serving" if conditions.get("serving") is True else ""
        return f"terminating{serving}"
    return "not ready"


def _zones(manifest: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the topology zones of a slice's ready addresses, in lower case."""
    found = dict[str, str]()
    for endpoint in _list(manifest.get("endpoints")):
        is_ready = (endpoint.get("conditions") or {}).get("ready") is not False
        if is_ready and (zone := _text(endpoint.get("zone"))):
            found.update(dict.fromkeys(_texts(endpoint.get("addresses")), zone.lower()))
    return tuple(found.items())


def _imported_slice(manifest: Mapping[str, Any]) -> Slice:
    names = labels(manifest)
    return _slice(manifest)._replace(
        service=_text(names.get(IMPORT_NAME_LABEL)), cluster=_text(names.get(CLUSTER_LABEL))
    )


def _import(manifest: Mapping[str, Any]) -> Service:
    """Return a ServiceImport as a Service; without ports it has none, not ``NO_PORT``."""
    spec = manifest.get("spec") or {}
    is_headless = spec.get("type") == "Headless"
    ports = spec.get("ports")
    return Service(
        type=_text(spec.get("type")),
        addresses=("None",) if is_headless else _texts(spec.get("ips")),
        ports=_ports(ports) if ports else (),
        external_name="",
        external_addresses=(),
    )


def _pod(manifest: Mapping[str, Any]) -> Pod | None:
    status = manifest.get("status") or {}
    if _text(status.get("phase")) in published.FINISHED_PHASES:
        return None
    return Pod(published.pod_addresses(status))


_CUTTERS: dict[str, Callable[[Mapping[str, Any]], ClusterObject | None]] = {
    SERVICES: _service,
    SLICES: _slice,
    PODS: _pod,
    IMPORTS: _import,
    IMPORT_SLICES: _imported_slice,
    **published.CUTTERS,
}
