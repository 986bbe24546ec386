"""What the table repeats is what the chain says, also after changes: facts forget enough.

For random clusters and random changes, every question that was remembered is asked again of the table
and of the chain. An answer decided from a fact that it is not filed under shows here.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Iterator

import pytest
from clusters import Cluster, Manifest, key_of
from inprocess import InProcess
from questions import Asked, Manner, packet, questions

QUESTIONS = 250
CHANGES = 40


@pytest.mark.parametrize("seed", range(12))
def test_table_is_chain_whatever_changes(seed, tmp_path):
    cluster = Cluster(seed, ("10.1.1.1",))
    cluster.has_loadbalance = cluster.has_forward = cluster.has_cache = False
    cluster.is_bound = seed % 2 == 0
    corefile = cluster.corefile(f"manifests {tmp_path}", "")
    denied = asyncio.run(change_and_compare(cluster, corefile, random.Random(seed)))
    assert denied > CHANGES or "fallthrough" in cluster.options


async def change_and_compare(cluster: Cluster, corefile: str, rng: random.Random) -> int:
    """Return how many names that were never asked for before the table has denied."""
    asked = questions(cluster, QUESTIONS)
    packets = [packet(question, i, Manner()) for i, question in enumerate(asked)]
    learned, denied = ([*below(cluster, labels)] for labels in ("x.y.", "u.v."))
    living = {key_of(m): m for m in cluster.manifests}
    hits = cut = 0
    async with InProcess(corefile, cluster.manifests) as server:
        for _ in range(CHANGES):
            for query in (packets + learned) * 2:
                if server.ask_table(query, "tcp") is None:
                    await server.ask_chain(query, "tcp")
            change(cluster, living, server, rng)
            for query in packets + denied:
                repeated = server.ask_table(query, "tcp")
                if repeated is not None:
                    hits += 1
                    cut += query in denied
                    assert repeated == await server.ask_anew(query, "tcp"), query
    assert hits > CHANGES  # what falls through to nobody is remembered by nobody
    return cut


def below(cluster: Cluster, labels: str) -> Iterator[bytes]:
    """Yield queries for names below those of the cluster, most of which exist at times."""
    nowhere = [f"com.{space}.svc" for space in cluster.namespaces]
    for name in [*nowhere, "com.svc", "com", *cluster.names[:60]]:
        for zone in ("cluster.local.", "west.cluster.local."):
            yield packet(Asked(f"{labels}{name}.{zone}", 1, 1), 1, Manner())


def change(
    cluster: Cluster,
    living: dict[tuple[str, str, str], Manifest],
    server: InProcess,
    rng: random.Random,
) -> None:
    """Delete, restore or alter an object."""
    chosen = rng.choice(cluster.manifests)
    key = key_of(chosen)
    if key not in living:
        living[key] = chosen
        server.apply(chosen)
    elif rng.random() < 0.3:
        server.apply(living.pop(key), is_gone=True)
    else:
        living[key] = altered(copy.deepcopy(chosen), rng)
        server.apply(living[key])


def altered(manifest: Manifest, rng: random.Random) -> Manifest:
    """Return an object with something else that DNS can tell."""
    address = f"10.0.{rng.randrange(4)}.{rng.randrange(1, 255)}"
    if manifest["kind"] == "Service":
        spec = manifest["spec"]
        if spec.get("type") == "ExternalName":
            spec["externalName"] = rng.choice(["a.example.com", "192.0.2.1", spec["externalName"]])
        elif spec["clusterIP"] != "None":
            spec["clusterIP"], spec["clusterIPs"] = address, [address]
        else:
            spec["ports"] = spec["ports"][1:]
    elif manifest["kind"] == "EndpointSlice":
        for endpoint in manifest["endpoints"]:
            roll = rng.random()
            if roll < 0.3:
                endpoint["conditions"] = {"ready": rng.random() < 0.5}
            elif roll < 0.5:
                endpoint["addresses"] = [address]
            elif roll < 0.6:
                endpoint["hostname"] = f"host-{rng.randrange(9)}"
    elif manifest["kind"] == "Pod":
        manifest["status"]["podIP"] = address
    return manifest
