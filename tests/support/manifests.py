"""Manifests of objects, as much of them as the server reads."""

from __future__ import annotations

from typing import Any


def made(
    kind: str, namespace: str, name: str, *, version: str = "v1", **rest: object
) -> dict[str, Any]:
    """Return an object; one without a namespace has "" for it."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def pod(
    namespace: str, name: str, address: str, phase: str = "Running", **spec: object
) -> dict[str, Any]:
    """Return a Pod with an address."""
    status = {"phase": phase, "podIP": address, "podIPs": [{"ip": address}]}
    return made("Pod", namespace, name, spec=spec, status=status)


def service(namespace: str, name: str, *addresses: str, **spec: object) -> dict[str, Any]:
    """Return a Service with a port by the name of ``http``."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    its = {"clusterIP": addresses[0], "clusterIPs": [*addresses], "ports": ports, **spec}
    return made("Service", namespace, name, spec=its)
