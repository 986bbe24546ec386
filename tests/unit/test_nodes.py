"""The store's labels of namespaces and Services: always those there are, in sets that stay the same."""

from __future__ import annotations

import random

import pytest

from clusterdns.cluster.objects import IMPORTS, NAMESPACES, SERVICES, SLICES
from clusterdns.cluster.records import BRANCHES, INSECURE, Lookup, RecordOptions
from clusterdns.cluster.store import Store
from clusterdns.wire import name
from clusterdns.wire.facts import EVERYTHING

SPACES = ("demo", "other", "Capital", "smörgås")
NAMES = ("a", "b", "web", "ü", "a\u0416", "A")  # the last but one is no label at all
BELOW_WEB = {b"_", b"_zone", b"", b"tcp", b"_tcp", b"10-1-0-5", b"pod-5"}
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
        ("a.web.demo.svc", 4, BELOW_WEB),
        ("a.b.c.web.demo.svc", 4, BELOW_WEB),
        ("_tcp.web.demo.svc", 0, None),
        ("_zone.web.demo.svc", 0, None),
        ("10-1-0-5.web.demo.svc", 0, None),
        ("a._tcp.web.demo.svc", 5, {b"http", b"_http", b"_"}),
        ("a.b._tcp.web.demo.svc", 5, {b"http", b"_http", b"_"}),
        ("a.10-1-0-5.web.demo.svc", 5, {b"_"}),
        ("_http._tcp.web.demo.svc", 0, None),
        ("a._http._tcp.web.demo.svc", 6, set()),
        ("a.nosuch.svc", 2, {b"demo", b"hidden"}),
        ("a.nosuch.pod", 2, {b"demo", b"hidden"}),
        ("a.hidden.svc", 2, None),  # it is there, and has to be denied on its own
        ("a.demo.pod", 3, b"-:"),
        ("10-1-0-5.demo.pod", 0, None),
        ("a.b", 1, BRANCHES),
        ("5.0.1.10.in-addr", 0, None),  # of a zone `arpa`
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
    endpoints = (("10.1.0.5", "", "pod-5"),)
    store.apply((SLICES, ("demo", "web-1"), ("web", endpoints, (("Http", "TCP", 80),))), 1)
    options = RecordOptions(pods=INSECURE, namespaces=frozenset(("demo",)))
    lookup = Lookup(store, options)
    found = lookup.missing([label.encode() for label in asked.split(".") if label])
    assert (depth, siblings) == (found.depth, found.siblings)


def test_labels_below_are_those_of_now():
    store = Store((NAMESPACES, SERVICES, SLICES))
    store.apply((SERVICES, ("demo", "web"), FIELDS), 1)
    for i in range(5):
        endpoints = ((f"10.1.0.{i}", "", ""),)
        facts = store.apply((SLICES, ("demo", "web-1"), ("web", endpoints, (("", "UDP", 1),))), 1)
        assert ("service", "demo", "web") in facts  # denials that hold the labels are forgotten
        found = store.services.labels_below(("demo", "web"))
        assert found is store.services.labels_below(("demo", "web"))
        assert {label for label in found if b"-" in label} == {b"10-1-0-%d" % i}
    store.apply((SLICES, ("demo", "web-1"), None), 1)
    assert b"_udp" not in store.services.labels_below(("demo", "web"))


def test_labels_below_are_kept_for_some_services():
    store = Store((SERVICES,))
    for i in range(1000):
        store.apply((SERVICES, ("demo", f"s{i}"), FIELDS), 1)
        store.services.labels_below(("demo", f"s{i}"))
    assert len(store.services._below) <= 256


def reverse(text: str) -> bytes:
    return name.fold(name.parse(text))


@pytest.mark.parametrize("seed", range(5))
def test_a_plain_address_is_that_of_the_reader(seed):
    """Or no address, or None, for all that the reader may read in its own way."""
    rng = random.Random(seed)
    for _ in range(500):
        if rng.random() < 0.5:
            value = rng.getrandbits(128) & rng.getrandbits(128) & rng.getrandbits(128)
            value >>= rng.choice((0, 0, 40, 48, 96, 100))
            labels = list(f"{value:032x}"[:: rng.choice((-1, 1))])
            many = rng.choice((32, 32, 0, 4, 24, 31, 33, 35, 36, 64))
            labels = (labels * 2)[:many]
            zone = "ip6.arpa."
        else:
            labels = [str(rng.randrange(300)) for _ in range(rng.choice((4, 4, 4, 3, 5)))]
            zone = "in-addr.arpa."
        if rng.random() < 0.3:
            labels.insert(
                rng.randrange(len(labels) + 1), rng.choice(("x", "0", "1-2", "00", "a:b", "1"))
            )
        wire = reverse(".".join((*labels, zone)))
        expected, found = name.reverse_address(wire), name.plain_address(wire)
        assert found is None or found == expected or expected is None, wire


def test_the_names_of_a_reverse_zone_are_alive():
    store = Store((SERVICES, SLICES))
    there, name_of_web = store.services.addresses, reverse("1.0.96.10.in-addr.arpa.")
    other = reverse("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.f.f.2.0.0.0.d.f.ip6.arpa.")
    for _ in range(2):
        assert not there.may_have(b"96", name_of_web)
        store.apply((SERVICES, ("demo", "web"), FIELDS), 1)
        assert there.may_have(b"96", name_of_web)
        store.apply((SERVICES, ("demo", "web"), None), 1)
        assert not there.may_have(b"2", other)
        store.apply((SLICES, ("demo", "web-1"), ("web", (("fd00:2ff::5", "", ""),), ())), 1)
        assert there.may_have(b"2", other)
        store.apply((SLICES, ("demo", "web-1"), None), 1)
