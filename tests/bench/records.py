"""The generated cluster as records, for the servers that have no Kubernetes source.

``records`` follows from the objects by the DNS specification of Kubernetes, written here on its own:
the equality test compares its answers with those of the servers that read the cluster. Names by
address (PTR) are left out, no scenario asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from inputs import ZONE

TTL = 30
SOA = f"ns.dns.{ZONE}. hostmaster.{ZONE}. 1 7200 1800 86400 {TTL}"


class Record(NamedTuple):
    """A record of class IN; the owner is absolute without its last dot."""

    owner: str
    rtype: str
    rdata: str


def records(objects: Iterable[dict[str, Any]]) -> Iterator[Record]:
    """Yield the cluster's records, the SOA first."""
    yield Record(ZONE, "SOA", SOA)
    yield Record(ZONE, "NS", f"ns.dns.{ZONE}.")
    yield Record(f"ns.dns.{ZONE}", "A", "127.0.0.1")
    yield Record(f"dns-version.{ZONE}", "TXT", '"1.1.0"')
    headless = set[str]()
    for item in objects:
        if item["kind"] == "Service" and "clusterIP" in item["spec"]:
            yield from _service(item, headless)
        elif item["kind"] == "EndpointSlice":
            yield from _slice(item, headless)


def _owner(name: str, item: dict[str, Any]) -> str:
    return f"{name}.{item['metadata']['namespace']}.svc.{ZONE}"


def _service(item: dict[str, Any], headless: set[str]) -> Iterator[Record]:
    owner, address = _owner(item["metadata"]["name"], item), item["spec"]["clusterIP"]
    if address == "None":
        headless.add(owner)
        return
    yield Record(owner, "A", address)
    for port in item["spec"]["ports"]:
        yield Record(_port(port, owner), "SRV", f"0 100 {port['port']} {owner}.")


def _slice(item: dict[str, Any], headless: set[str]) -> Iterator[Record]:
    owner = _owner(item["metadata"]["labels"]["kubernetes.io/service-name"], item)
    addresses = [found for endpoint in item["endpoints"] for found in endpoint["addresses"]]
    weight = max(1, 100 // len(addresses))
    for address in addresses:
        target = f"{address.replace('.', '-')}.{owner}"
        yield Record(target, "A", address)
        if owner in headless:
            yield Record(owner, "A", address)
            for port in item["ports"]:
                yield Record(_port(port, owner), "SRV", f"0 {weight} {port['port']} {target}.")


def _port(port: dict[str, Any], owner: str) -> str:
    return f"_{port['name']}._{port['protocol'].lower()}.{owner}"


def master_file(found: Iterable[Record]) -> str:
    """Return the records as a zone file (RFC 1035 section 5)."""
    return "".join(f"{r.owner}. {TTL} IN {r.rtype} {r.rdata}\n" for r in found)


def hosts_file(found: Iterable[Record]) -> str:
    """Return the addresses as a hosts file."""
    return "".join(f"{r.rdata} {r.owner}\n" for r in found if r.rtype == "A")


def local_data(found: Iterable[Record]) -> str:
    """Return the records as a local zone of Unbound, part of its ``server`` clause."""
    lines = [f'local-zone: "{ZONE}." static\n']
    lines += [f"local-data: '{r.owner}. {TTL} IN {r.rtype} {r.rdata}'\n" for r in found]
    return "".join(lines)
