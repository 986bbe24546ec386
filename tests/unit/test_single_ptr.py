"""`single_ptr`: one name for an address, the same in any order of events."""

from __future__ import annotations

import itertools

import pytest

from clusterdns.cluster import feed, objects
from clusterdns.cluster.records import Lookup, RecordOptions
from clusterdns.cluster.store import Store

ADDRESS = "10.1.1.1"


def slice_of(service: str, namespace: str, hostname: str = "") -> dict:
    return {
        "metadata": {
            "name": f"{service}-x",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": [
            {"addresses": [ADDRESS], **({"hostname": hostname} if hostname else {})},
            {"addresses": ["10.1.1.2"], "hostname": "other"},
        ],
    }


def names(*slices: dict, is_single: bool = True) -> list[tuple[str, ...]]:
    store = Store(("endpointslices",))
    for each in slices:
        key, kept = objects.cut("endpointslices", each)
        store.apply(("endpointslices", key, feed.plain(kept)), 1)
    store.namespaces |= {"a", "b"}
    lookup = Lookup(store, RecordOptions(has_single_ptr=is_single))
    found = lookup.reverse(ADDRESS)
    assert ("address", ADDRESS) in lookup.facts
    return found


PLAIN = ("10-1-1-1",)
CASES = [
    ([*PLAIN, "web", "a", "svc"], [("web", "a"), ("web", "b"), ("xyz", "a")]),
    (["db-0", "db", "b", "svc"], [("web", "a"), ("db", "b", "db-0")]),
    (["db-0", "db", "a", "svc"], [("db", "b", "db-0"), ("db", "a", "db-0"), ("aaa", "a")]),
    ([*PLAIN, "web", "a", "svc"], [("web", "a")]),
]


@pytest.mark.parametrize(("expected", "services"), CASES)
def test_one_name_in_any_order(expected, services):
    for order in itertools.permutations(services):
        slices = [slice_of(*each) for each in order]
        assert [tuple(expected)] == names(*slices)
        assert len(services) == len(names(*slices, is_single=False))
