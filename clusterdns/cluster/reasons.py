"""Sentences about what a lookup found in the store, for queries that are explained.

``records.Lookup`` calls these where it decides, with the objects it looked at. They may search all
Services for a hint, which no ordinary query does.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from clusterdns.cluster.objects import ObjectKey, Port, Service, Slice
from clusterdns.wire import trace
from clusterdns.wire.name import label_text

_MOST_HINTS = 3


def hidden_namespace(namespace: str, exposed: Iterable[str]) -> str:
    """Return that a namespace is not among those of `namespaces`."""
    return f"the namespace {namespace} is hidden: `namespaces` exposes {', '.join(sorted(exposed))}"


def no_namespace(namespace: str, known: Iterable[str]) -> str:
    """Return that there is no such Namespace, with the most similar one."""
    return f"there is no Namespace {namespace}{_similar(namespace, known)}"


def no_form(labels: Sequence[bytes]) -> str:
    """Return why no object has a name with these labels, at least one, left of the zone."""
    branch = label_text(labels[-1])
    if branch in ("svc", "pod"):
        return f"no object has such a name: there are too many labels left of `{branch}`"
    return f"no object has such a name: left of the zone is `{branch}`, not `svc` or `pod`"


def no_service(key: ObjectKey, services: Mapping[ObjectKey, Service]) -> str:
    """Return that there is no such Service, with others of its name, or the most similar one."""
    namespace, name = key
    others = sorted(each[0] for each in services if each[1] == name)[:_MOST_HINTS]
    hint = ""
    if others:
        hint = f"; Services of this name are in the namespaces {', '.join(others)}"
    else:
        hint = _similar(name, (each[1] for each in services if each[0] == namespace))
    return f"there is no Service {namespace}/{name}{hint}"


def service(key: ObjectKey, found: Service) -> str:
    """Return the type and the addresses of a Service."""
    title = f"Service {'/'.join(key)}"
    if found.type == "ExternalName":
        return f"{title} is an alias of {found.external_name}"
    if found.is_headless:
        return f"{title} is headless: its ready endpoints are its addresses"
    return f"{title} has the cluster addresses {', '.join(found.addresses)}"


def outside(key: ObjectKey, found: Service, count: int, *, is_headless: bool) -> str:
    """Return the external addresses of a Service, or why none of them matches a name."""
    title = f"Service {'/'.join(key)}"
    if is_headless:
        ready = f"{count} ready endpoint{'s' * (count != 1)}" if count else "no ready endpoint"
        return f"{title} has no external address: {ready} with this name and port"
    if not found.external_addresses:
        return f"{title} has no external address"
    known = ", ".join(found.external_addresses)
    return f"{title} has the external addresses {known}" + ("" if count else ", but no such port")


def endpoints(key: ObjectKey, slices: Mapping[str, Slice]) -> tuple[str, tuple[trace.Object, ...]]:
    """Return how many ready endpoints the slices of a Service have, and these slices."""
    count = sum(len(each.endpoints) for each in slices.values())
    objects = tuple(("endpointslices", key[0], name) for name in slices)
    if not slices:
        return f"Service {'/'.join(key)} has no EndpointSlice", objects
    ready = "no ready endpoint" if not count else f"{count} ready endpoint{'s' * (count > 1)}"
    return f"{ready} in {len(slices)} EndpointSlice{'s' * (len(slices) > 1)}", objects


def no_port(key: ObjectKey, port: str, protocol: str, ports: Sequence[Port]) -> str:
    """Return that a Service has no such port, and which ones it has."""
    if not ports:
        return f"{'/'.join(key)} has no port"
    known = ", ".join(f"{each.name or '(unnamed)'}/{each.protocol}" for each in ports)
    return f"{'/'.join(key)} has no port {port or '*'}/{protocol or '*'}; it has {known}"


def no_endpoint(key: ObjectKey, hostname: str, known: Sequence[str]) -> str:
    """Return that no ready endpoint has a host name, and which ones they have."""
    some = trace.some_text(known, most=_MOST_HINTS) or "none"
    return f"no ready endpoint of {'/'.join(key)} has the host name {hostname}; they have {some}"


def _similar(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f', did you mean "{found[0]}"?' if found else ""
