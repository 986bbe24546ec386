"""The store's labels of namespaces and Services: always those there are, in sets that stay the same."""

from __future__ import annotations

import random

import pytest

from clusterdns.cluster.objects import IMPORTS, NAMESPACES, SERVICES
from clusterdns.cluster.records import Lookup, RecordOptions
from clusterdns.cluster.store import Store
from clusterdns.wire.facts import EVERYTHING

SPACES = ("demo", "other", "Capital", "smörgås")
NAMES = ("a", "b", "web", "ü", "a\u0416", "A")  # the last but one is no label at all
FIELDS = ("ClusterIP", ("10.96.0.1",), (("http", "TCP", 80),), "", ())


def labels(names: set[str]) -> set[bytes]:
    return {text.encode("latin-1") for text in names if text.isascii() or ord(max(text)) < 256}


@pytest.mark.parametrize("seed", range(20))
def test_the_sets_are_what_is_there(seed):
    rng, store = random.Random(seed), Store((NAMESPACES, SERVICES, IMPORTS))
    held: dict[tuple[bool, str], set[bytes]] = {}  # as a denial holds them
    for _ in range(300):
        is_import, space, text = rng.random() < 0.3, rng.choice(SPACES), rng.choice(NAMES)
        services = store.imported if is_import else store.services
        if rng.random() < 0.1:
            is_there = space in store.namespaces
            facts = store.apply((NAMESPACES, ("", space), None if is_there else ()), 1)
            if EVERYTHING in facts:  # and so all denials have been forgotten
                held.clear()
        else:
            fields = None if (space, text) in services.by_name else FIELDS
            store.apply((IMPORTS if is_import else SERVICES, (space, text), fields), 1)
        if space in store.namespaces:
            held.setdefault((is_import, space), services.labels_of(space))
        assert labels(store.namespaces) == store.namespace_labels - {b""}
        for (of_imports, each), children in held.items():
            some = store.imported if of_imports else store.services
            names = {text for key, text in some.by_name if key == each}
            assert labels(names) == children - {b""}


def test_namespaces_that_have_gone_leave_nothing():
    store = Store((NAMESPACES, SERVICES))
    for i in range(50):
        store.apply((NAMESPACES, ("", f"n{i}"), ()), 1)
        store.apply((SERVICES, (f"n{i}", "web"), FIELDS), 1)
        if i % 2:  # in whatever order
            store.apply((SERVICES, (f"n{i}", "web"), None), 1)
        store.apply((NAMESPACES, ("", f"n{i}"), None), 1)
        store.apply((SERVICES, (f"n{i}", "web"), None), 1)
    assert set() == store.namespace_labels
    assert {} == store.services._labels


@pytest.mark.parametrize(
    ("asked", "depth", "siblings"),
    [
        ("nosuch.demo.svc", 3, {b"web"}),
        ("a.b.nosuch.demo.svc", 3, {b"web"}),
        ("web.demo.svc", 0, None),
        ("a.web.demo.svc", 0, None),
        ("a.nosuch.svc", 2, {b"demo", b"hidden"}),
        ("a.nosuch.pod", 2, {b"demo", b"hidden"}),
        ("a.hidden.svc", 2, None),  # it is there, and has to be denied on its own
        ("a.demo.pod", 0, None),
        ("a.b", 1, {b"svc", b"pod", b"dns", b"hostmaster"}),
        ("a.hostmaster", 1, None),
        ("a.dns", 0, None),
        ("svc", 0, None),
        ("", 0, None),
    ],
)
def test_what_is_missing(asked, depth, siblings):
    store = Store((NAMESPACES, SERVICES))
    for space in ("demo", "hidden"):
        store.apply((NAMESPACES, ("", space), ()), 1)
    store.apply((SERVICES, ("demo", "web"), FIELDS), 1)
    lookup = Lookup(store, RecordOptions(namespaces=frozenset(("demo",))))
    found = lookup.missing([label.encode() for label in asked.split(".") if label])
    assert (depth, siblings) == (found.depth, found.siblings)
