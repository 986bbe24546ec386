"""autopath, search, families and private: what the case files cannot say.

`autopath` beside a real CoreDNS on random clusters; `search` against what stub resolvers find without
it; the table against the chain while clusters change; and no packet at the upstream for what must not
get there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compare
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import inapod
import peers
import pytest
from casefile import Scripted
from clusters import OUTSIDE, Cluster
from fakeapi import FakeApi
from hypothesis import given
from hypothesis import strategies as st
from inprocess import InProcess
from questions import Asked, Manner, packet
from scriptedupstream import ScriptedUpstream
from test_facts import change_and_compare

from clusterdns.chain import searchpath
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.host import resolvconf
from clusterdns.host.resolvconf import SearchOutcome
from clusterdns.plugins.families import without_parameter
from clusterdns.plugins.private import LEAKS
from clusterdns.wire import name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response

ZONE = "cluster.local"
DOMAIN = "corp.example"
IN_DOMAIN = (
    Scripted(f"git.dev.{DOMAIN}.", "answer", 60, 1, 1, "192.0.2.81"),
    Scripted(f"www.example.com.{DOMAIN}.", "nxdomain"),
    Scripted(f"mail.{DOMAIN}.", "answer", 60, 1, 1, "192.0.2.82"),
)
RESOLV_CONF = "search {namespace}.svc.cluster.local svc.cluster.local cluster.local corp.example\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    made = ScriptedUpstream((*OUTSIDE, *IN_DOMAIN))
    yield made
    made.stop()


def plain_cluster(seed: int) -> Cluster:
    """Return a random cluster whose answers depend on nothing but its objects."""
    cluster = Cluster(seed, ("10.1.1.1",))
    cluster.has_loadbalance = cluster.has_cache = cluster.is_split = cluster.is_bound = False
    cluster.has_forward = True
    return cluster


def short_names(cluster: Cluster) -> list[str]:
    """Return what applications may be configured with: names with a part of the path, and others."""
    rng = cluster.random
    outside = [entry.name.rstrip(".") for entry in (*OUTSIDE, *IN_DOMAIN)]
    found = [*outside, "github.com", "nosuch", "nosuch.example.com", "git.dev", "mail", "x.y.z.a.b"]
    for full in rng.sample(cluster.names, min(30, len(cluster.names))):
        labels = full.split(".")
        found += [".".join(labels[:-2]), ".".join(labels[:-1]), full, f"{full}.{ZONE}"]
    found += [f"{rng.choice(outside)}.{namespace}" for namespace in cluster.namespaces]
    return sorted({text for text in found if text})


# ---- autopath --------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("seed", range(6))
def test_autopath_is_that_of_coredns(seed, upstream, tmp_path):
    """The path of a file, and that of a Pod, which is at the address that asks."""
    cluster = plain_cluster(seed)
    namespace = cluster.random.choice(cluster.namespaces)
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF.format(namespace=namespace))
    source = "@kubernetes" if seed % 2 else "resolv.conf"
    cluster.options = [each for each in cluster.options if not each.startswith("pods")]
    cluster.options.append("pods verified")
    pod = {"kind": "Pod", "metadata": {"name": "client", "namespace": namespace},
           "status": {"podIPs": [{"ip": "127.0.0.1"}], "phase": "Running"}}  # fmt: skip
    with FakeApi([*cluster.manifests, pod]) as api:
        text = cluster.corefile(f"endpoint {api.url}", upstream.address)
        text = text.replace("kubernetes ", f"autopath {source}\n    kubernetes ", 1)
        with peers.clusterdns(text, tmp_path) as us, peers.coredns(text, tmp_path) as them:
            found = [
                f"{asked}\n{difference}"
                for asked in autopath_questions(cluster, namespace)
                if (difference := differing(asked, us, them))
            ]
    assert not found, f"{len(found)} of them\n{text}\n" + "\n\n".join(found[:5])


def autopath_questions(cluster: Cluster, namespace: str) -> list[Asked]:
    others = [each for each in cluster.namespaces if each != namespace]
    below = [f"{namespace}.svc.{ZONE}.", f"{(others or ['ghost'])[0]}.svc.{ZONE}.", f"svc.{ZONE}."]
    names = [f"{short}.{domain}" for short in short_names(cluster) for domain in below]
    names += [*below, f"{ZONE}.", "www.example.com.", f"dns-version.{below[0]}"]
    return [
        Asked(qname, cluster.random.choice([1, 1, 28, 33, 16, 5, 6, 65]))
        for qname in names
        if len(qname) < 250
    ]


def differing(asked: Asked, us: peers.Server, them: peers.Server) -> str:
    query = packet(asked, 7, Manner())
    theirs, ours = (peers.ask_tcp(server.address, query) for server in (them, us))
    return compare.difference(
        query, theirs, ours, compare.Rules(is_ordered=False, is_additional_ordered=False)
    )


@pytest.mark.peer
@pytest.mark.parametrize(
    "text",
    ["", "search\n", "nameserver 192.0.2.1\noptions ndots:5\n", "domain a.example\n",
     "search b.example\nsearch A.Example. example\n", "search example\ndomain a.example\n"],
)  # fmt: skip
def test_search_lines_are_read_as_coredns_reads_them(text, tmp_path):
    (tmp_path / "resolv.conf").write_text(text)
    (tmp_path / "db").write_text(
        "$ORIGIN example.\n@ 60 SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nx A 192.0.2.1\ny.a A 192.0.2.2\n"
    )
    corefile = "example:{PORT} {\n autopath resolv.conf\n file db\n}\n"
    names = [
        "x.a.example.",
        "y.example.",
        "y.a.example.",
        "x.b.example.",
        "a.example.",
        "nosuch.a.example.",
    ]
    with peers.clusterdns(corefile, tmp_path) as us, peers.coredns(corefile, tmp_path) as them:
        for qname in names:
            assert "" == differing(Asked(qname, 1), us, them)


@pytest.mark.peer
def test_autopath_successes_are_counted_as_coredns_does(tmp_path):
    (tmp_path / "resolv.conf").write_text("search a.example example\n")
    (tmp_path / "db").write_text("@ 60 SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nx A 192.0.2.1\n")
    counts = []
    for run in (peers.clusterdns, peers.coredns):
        metrics = peers.free_port()
        corefile = f"example:{{PORT}} {{\n autopath resolv.conf\n file db\n prometheus 127.0.0.1:{metrics}\n}}\n"
        with run(corefile, tmp_path) as server:
            for qname in ["x.a.example.", "nosuch.a.example.", "x.example."] * 5:
                assert peers.ask_udp(server.address, packet(Asked(qname, 1), 1, Manner()))
            label = f'server="dns://:{server.port}"'
            counts.append(metric(metrics, f"coredns_autopath_success_total{{{label}}}"))
    assert [5, 5] == counts


def metric(port: int, sample: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(sample))


def test_only_what_is_the_same_for_every_client_is_repeated(tmp_path):
    """A Pod's alias is never another client's answer, and ends with the Pod."""
    text = f""". {{
        autopath @kubernetes
        kubernetes {ZONE} {{
            manifests {tmp_path}
            pods verified
        }}
    }}
    """
    there = [namespace("a"), namespace("b"), service("b", "web", "10.0.0.1")]
    pod = {"kind": "Pod", "metadata": {"name": "client", "namespace": "a"},
           "status": {"podIPs": [{"ip": "127.0.0.1"}], "phase": "Running"}}  # fmt: skip
    here, there_too, nodata, nowhere, first, shouted = (
        packet(Asked(qname, qtype), 1, Manner())
        for qname, qtype in (
            (f"web.b.svc.{ZONE}.", 1), (f"web.b.a.svc.{ZONE}.", 1), (f"web.b.svc.{ZONE}.", 28),
            (f"nosuch.a.svc.{ZONE}.", 1), (f"a.svc.{ZONE}.", 1), (f"WEB.b.SVC.{ZONE}.", 1),
        )
    )  # fmt: skip

    async def check() -> None:
        async with InProcess(text, [*there, pod]) as server:
            for query in (here, there_too, nodata, nowhere, first, shouted) * 2:
                await server.ask_chain(query, "udp")
            known = [server.ask_table(query, "udp") is not None for query in (here, nodata)]
            assert [True, True] == known
            for query in (there_too, nowhere, first, shouted):
                assert server.ask_table(query, "udp") is None
            assert "CNAME" in answer(await server.ask_chain(there_too, "udp"))
            server.apply(pod, is_gone=True)
            assert "" == answer(await server.ask_chain(there_too, "udp"))

    asyncio.run(check())


# ---- search ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Lookups:
    """What stub resolvers found: addresses by (namespace, resolver, name, type); and in how many
    packets, of those that found something.
    """

    found: dict[tuple[str, str, str, int], frozenset[str]]
    packets: int = 0


@pytest.mark.parametrize("seed", range(8))
def test_search_changes_nothing_but_the_number_of_packets(seed, upstream, tmp_path):
    """Every stub resolver finds for every name what it finds without `search`."""
    cluster = plain_cluster(seed)
    text = cluster.corefile(f"manifests {tmp_path}", upstream.address)
    hosts = short_names(cluster)
    without = asyncio.run(look_up(text, cluster, hosts))
    by_search = f"search {ZONE} {{\n domains {DOMAIN}\n dots {1 + seed % 2}\n }}\n    kubernetes "
    within = asyncio.run(look_up(text.replace("kubernetes ", by_search, 1), cluster, hosts))
    different = {key for key in without.found if without.found[key] != within.found[key]}
    # A name outside with a namespace behind it is, one step on, what that namespace asks for the
    # name itself: the octets are the same.
    twofold = {key for key in without.found if is_twofold(key[2], cluster)}
    assert set() == different - twofold
    assert not any(without.found[key] for key in different)
    assert 0 < within.packets < without.packets


@pytest.mark.parametrize(
    ("before", "after", "host"),
    [(1, 1, "web"), (2, 1, "web.b"), (3, 1, "web.b.svc"), (5, 1, f"web.b.svc.{ZONE}"),
     (5, 1, "www.example.com"), (5, 5, "two.example"), (5, 5, "nosuch.example.com")],
)  # fmt: skip
def test_packets_of_one_lookup(before, after, host, tmp_path):
    """What the README says: one packet for each family, where the name has two dots."""
    upstream = ScriptedUpstream((*OUTSIDE, Scripted("two.example.", "answer", 60, 1, 1, "1.2.3.4")))
    there = [namespace("a"), namespace("b"), service("b", "web", "10.0.0.1")]
    there.append(service("a", "web", "10.0.0.2"))
    counts = []

    async def count(corefile: str) -> int:
        conf = resolvconf.pod_search("a")
        names = resolvconf.names(conf._replace(search=(*conf.search, DOMAIN)), host, "musl")
        async with InProcess(corefile, there) as server:
            for sent, qname in enumerate(names, 1):
                if (await outcome(server, qname, 1))[0] is SearchOutcome.ANSWER:
                    return sent
        return len(names)

    try:
        for words in ("", f"search {ZONE} {{\n domains {DOMAIN}\n }}\n"):
            source = f"kubernetes {ZONE} {{\n manifests {tmp_path}\n }}\n"
            text = f". {{\n{words}{source} forward . {upstream.address}\n}}\n"
            counts.append(asyncio.run(count(text)))
    finally:
        upstream.stop()
    assert [before, after] == counts


def test_what_the_c_library_finds():
    """With and without `search` and `families`: the same addresses, and how many packets."""
    hosts = [
        "web",
        "web.b",
        f"web.b.svc.{ZONE}",
        "www.example.com",
        "git.dev",
        "nosuch.example.com",
    ]
    there = [namespace("a"), namespace("b"), service("b", "web", "10.0.0.1")]
    there.append(service("a", "web", "10.0.0.2"))
    path = [f"a.svc.{ZONE}", f"svc.{ZONE}", ZONE, DOMAIN]
    plain, found, one_family = (
        inapod.look_up(words, there, [*OUTSIDE, *IN_DOMAIN], path, hosts)
        for words in (" debug", f" search {ZONE} {{\n domains {DOMAIN}\n }}", " families ipv4")
    )
    addresses = {host: lookup.addresses for host, lookup in plain.items()}
    assert ["192.0.2.1", "2001:db8::1"] == addresses["www.example.com"]
    assert addresses == {host: lookup.addresses for host, lookup in found.items()}
    assert [2, 4, 10, 10, 8, 10] == [plain[host].asked for host in hosts]
    assert [2, 2, 2, 2, 8, 10] == [found[host].asked for host in hosts]
    addresses["www.example.com"] = ["192.0.2.1"]
    assert addresses == {host: lookup.addresses for host, lookup in one_family.items()}
    assert [lookup.upstream for lookup in plain.values()] == [
        2 * lookup.upstream for lookup in one_family.values()
    ]


def is_twofold(host: str, cluster: Cluster) -> bool:
    rest, _, last = host.rpartition(".")
    return last in cluster.namespaces and f"{rest}." in {e.name for e in (*OUTSIDE, *IN_DOMAIN)}


async def look_up(corefile: str, cluster: Cluster, hosts: list[str]) -> Lookups:
    """Return what each resolver of each namespace finds for each host."""
    lookups = Lookups({})
    memory: dict[tuple[str, int], tuple[SearchOutcome, frozenset[str]]] = {}
    async with InProcess(corefile, cluster.manifests) as server:
        for namespace in cluster.namespaces:
            conf = resolvconf.pod_search(namespace)
            conf = conf._replace(search=(*conf.search, DOMAIN))
            for host in hosts:
                for qtype in (1, 28):
                    for qname in resolvconf.names(conf, host, "glibc"):
                        if (qname, qtype) not in memory:
                            memory[qname, qtype] = await outcome(server, qname, qtype)
                    for resolver in ("glibc", "musl", "go"):
                        asked = resolvconf.walk(
                            conf, host, resolver, lambda q, t=qtype: memory[q, t][0]
                        )
                        last = memory[asked[-1][0], qtype][1] if asked else frozenset()
                        lookups.packets += len(asked) if last else 0
                        lookups.found[namespace, resolver, host, qtype] = last
    return lookups


async def outcome(
    server: InProcess, qname: str, qtype: int
) -> tuple[SearchOutcome, frozenset[str]]:
    """Return what came of one question, and the addresses."""
    wire = await server.ask_chain(packet(Asked(qname, qtype), 1, Manner()), "tcp")
    assert wire is not None
    reply = dns.message.from_wire(wire)
    addresses = frozenset(
        record.to_text() for rrset in reply.answer if rrset.rdtype == qtype for record in rrset
    )
    if addresses:
        return SearchOutcome.ANSWER, addresses
    kinds = {dns.rcode.NOERROR: SearchOutcome.NODATA, dns.rcode.NXDOMAIN: SearchOutcome.NXDOMAIN}
    return kinds.get(reply.rcode(), SearchOutcome.SERVFAIL), addresses


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("plugin", ["search", "autopath"])
def test_table_is_chain_whatever_changes(plugin, seed, tmp_path):
    """What a walk found is forgotten with every name it passed."""
    cluster = plain_cluster(seed)
    cluster.has_forward = False
    cluster.options = ["pods verified"]
    namespace = cluster.namespaces[0]
    conf = tmp_path / "resolv.conf"
    conf.write_text(RESOLV_CONF.format(namespace=namespace))
    words = f"search {ZONE}" if plugin == "search" else f"autopath {conf}"
    text = cluster.corefile(f"manifests {tmp_path}", "")
    text = text.replace("kubernetes ", f"{words}\n    kubernetes ", 1)
    cluster.names += [f"{short}.{namespace}.svc" for short in cluster.names]
    cluster.names += [f"{short[:-4]}.{namespace}.svc" for short in cluster.names]
    denied = asyncio.run(change_and_compare(cluster, text, random.Random(seed)))
    assert not denied, "below a name that does not exist, one may be found further on"


def test_what_a_walk_comes_to_depends_on_every_step():
    """It is forgotten with any fact, lasts as long as the shortest-lived, and moves all counters."""
    asked = Question(name.parse("www.a.example"), name.fold(name.parse("www.a.example")), rr.A)
    moves = [(("one", ()),), (("two", ()),)]
    answers = [
        Response(rr.NXDOMAIN, lifetime_s=1, facts=("a", "b"), counters=moves[0]),
        Response(rr.NOERROR, lifetime_s=5, facts=("b", "c"), counters=moves[1]),
    ]

    def walk() -> searchpath.Walk:
        yield asked
        return (yield asked)

    async def handle(_query: Query) -> Response:
        return left.pop(0)

    left = [*answers]
    by_answer = searchpath.answer_walk(walk(), asked, lambda _question: left.pop(0))
    left = [*answers]
    query = Query(1, 0, asked, None, 30)
    assert by_answer == asyncio.run(searchpath.handle_walk(walk(), query, handle))
    assert by_answer is not None
    assert (1, ("a", "b", "c")) == (by_answer.lifetime_s, by_answer.facts)
    assert (*moves[0], *moves[1]) == by_answer.counters
    left = [answers[0]]
    assert searchpath.answer_walk(walk(), asked, lambda _q: left.pop(0) if left else None) is None


def test_names_below_a_name_that_exists_are_left_alone(upstream, tmp_path):
    """Also where the cluster's zone is not served by `kubernetes`."""
    db = tmp_path / "db"
    db.write_text(
        "@ 60 SOA ns hostmaster 1 2 3 4 5\n@ NS ns\ncom.a.svc A 192.0.2.9\nb.svc A 1.1.1.1\n"
    )
    text = f". {{\n search {ZONE} {{\n domains\n dots 1\n }}\n file {db} {ZONE}\n"
    text += f" forward . {upstream.address}\n}}\n"

    async def check() -> None:
        async with InProcess(text, []) as server:
            assert (
                SearchOutcome.ANSWER
                is (await outcome(server, f"www.example.com.b.svc.{ZONE}.", 1))[0]
            )
            below = await outcome(server, f"www.example.com.a.svc.{ZONE}.", 1)
            assert SearchOutcome.NXDOMAIN is below[0]

    asyncio.run(check())


def test_a_new_service_ends_what_was_found_for_its_name(tmp_path):
    """The answer of the walk is in the table, and goes with the first name that begins to exist."""
    text = f". {{\n search {ZONE}\n kubernetes {ZONE} {{\n manifests {tmp_path}\n }}\n}}\n"
    there = [namespace("a"), namespace("b"), service("b", "web", "10.0.0.1")]
    query = packet(Asked(f"web.b.a.svc.{ZONE}.", 1), 1, Manner())

    async def check() -> None:
        async with InProcess(text, there) as server:
            await server.ask_chain(query, "udp")
            assert "10.0.0.1" in answer(server.ask_table(query, "udp"))
            server.apply(service("a", "b", "None"))  # web.b is an endpoint that is not ready
            assert server.ask_table(query, "udp") is None
            assert "" == answer(await server.ask_chain(query, "udp"))
            server.apply(service("a", "b", "None"), is_gone=True)
            assert "10.0.0.1" in answer(await server.ask_chain(query, "udp"))
            server.apply(service("b", "web", "10.0.0.1"), is_gone=True)
            assert server.ask_table(query, "udp") is None

    asyncio.run(check())


def namespace(title: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": title}}


def service(where: str, title: str, address: str) -> dict[str, Any]:
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]}
    return {"kind": "Service", "metadata": {"name": title, "namespace": where}, "spec": spec}


def answer(wire: bytes | None) -> str:
    assert wire is not None
    return "\n".join(rrset.to_text() for rrset in dns.message.from_wire(wire).answer)


# ---- private and families --------------------------------------------------------------------

INSIDE = [
    "x.test.", "x.invalid.", "localhost.", "a.localhost.", "printer.local.", "_dns-sd._udp.local.",
    "x.onion.", "router.home.arpa.", "vm.internal.", "metadata.google.internal.", "x.alt.",
    "_dns.resolver.arpa.", "test.", "local.", "internal.", "nosuch.demo.svc.cluster.example.",
    "cluster.example.",
    *(str(dns.reversename.from_address(address)) for address in (
        "0.0.0.1", "10.1.2.3", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.1",
        "192.168.1.1", "100.64.0.1", "100.127.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1",
        "255.255.255.255", "::", "::1", "fd00::1", "fe80::1", "febf::1", "2001:db8::1",
    )),
]  # fmt: skip
OUTSIDE_OF_THEM = [
    "www.example.com.", "localhost.example.com.", "xlocal.", "a.xlocal.", "local.example.",
    *(str(dns.reversename.from_address(address)) for address in (
        "11.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1", "100.63.0.1", "100.128.0.1",
        "169.253.0.1", "fc00::1", "fec0::1", "2001:db9::1", "::2",
    )),
]  # fmt: skip


@contextlib.contextmanager
def running(
    text: str, directory: Path, *entries: Scripted
) -> Iterator[tuple[peers.Server, ScriptedUpstream]]:
    upstream = ScriptedUpstream(entries)
    try:
        corefile = f".:{{PORT}} {{\n{text}\n forward . {upstream.address}\n}}\n"
        with peers.clusterdns(corefile, directory) as server:
            upstream.queries.clear()  # what was asked until it answered
            yield server, upstream
    finally:
        upstream.stop()


def ask_all(server: peers.Server, names: list[str], *types: int) -> None:
    for qname in names:
        for qtype in types:
            assert peers.ask_udp(server.address, packet(Asked(qname, qtype), 1, Manner()))


def test_no_packet_leaves_for_what_is_private(tmp_path):
    metrics = peers.free_port()
    text = f" private cluster.example\n prometheus 127.0.0.1:{metrics}"
    singles = ["kubernetes.", "com.", "redis."]
    with running(text, tmp_path) as (server, upstream):
        before = metric(metrics, LEAKS)
        for _ in range(2):  # from the chain, and from the table
            ask_all(server, INSIDE, 1, 28, 12, 16, 33, 65, 255)
            ask_all(server, singles, 1, 28, 65)
        assert {} == upstream.queries
        assert 2 * (7 * len(INSIDE) + 3 * len(singles)) == metric(metrics, LEAKS) - before
        ask_all(server, OUTSIDE_OF_THEM, 12, 1)
        left = {qname for qname, _ in upstream.queries}
        assert {qname.lower() for qname in OUTSIDE_OF_THEM} - {"xlocal."} == left - {"xlocal."}


def test_without_private_they_do_leave(tmp_path):
    with running(" debug", tmp_path) as (server, upstream):
        ask_all(server, INSIDE, 1)
        assert {qname.lower() for qname in INSIDE} == {qname for qname, _ in upstream.queries}


def test_families_halves_what_the_upstream_is_asked(tmp_path):
    hosts = [f"h{i}.example.com." for i in range(50)]
    entries = [Scripted(host, "answer", 60, 1, 1, "192.0.2.1") for host in hosts]
    entries += [Scripted(host, "answer", 60, 1, 28, "2001:db8::1") for host in hosts]
    counts = []
    for text in (" debug", " families ipv4", " cache 30\n families ipv4"):
        with running(text, tmp_path, *entries) as (server, upstream):
            ask_all(server, hosts, 1, 28)
            counts.append(upstream.queries.total())
    assert [100, 50, 50] == counts


@given(st.binary(max_size=60), st.sampled_from([4, 6]))
def test_any_octets_of_a_service_binding(rdata, key):
    found = without_parameter(rdata, key)
    assert found is None or (len(found) < len(rdata) and without_parameter(found, key) is None)


@given(
    st.dictionaries(st.sampled_from([0, 1, 3, 4, 5, 6, 7, 65280]), st.binary(max_size=6)),
    st.sampled_from([4, 6]),
)
def test_a_hint_goes_and_all_else_stays(parameters, key):
    head = struct.pack("!H", 1) + name.parse("svc.example.org")

    def rdata(some: dict[int, bytes]) -> bytes:
        packed = (struct.pack("!HH", k, len(v)) + v for k, v in sorted(some.items()))
        return head + b"".join(packed)

    mandatory = parameters.get(0, b"")
    is_kept = key not in parameters or struct.pack("!H", key) in [
        mandatory[i : i + 2] for i in range(0, len(mandatory), 2)
    ]
    rest = {k: v for k, v in parameters.items() if k != key}
    assert (None if is_kept else rdata(rest)) == without_parameter(rdata(parameters), key)


LABELS = st.one_of(
    st.sampled_from([b"a", b"svc", b"SVC", b"cluster", b"local", b"_tcp", b"localhost", b"arpa"]),
    st.binary(min_size=1, max_size=63),
)
NAMES = st.lists(LABELS, max_size=9).filter(
    lambda labels: sum(map(len, labels)) + len(labels) < 255
)


@given(st.lists(st.tuples(NAMES, st.sampled_from([0, 1, 3, 4])), max_size=8), st.data())
def test_no_name_is_too_odd(tmp_path_factory, drawn, data):
    """Each gets one reply, and nothing raises; those of 255 octets among them."""
    directory = tmp_path_factory.mktemp("odd")
    (directory / "resolv.conf").write_text("search a.svc.cluster.local b.example\n")
    source = data.draw(st.sampled_from(["@kubernetes", f"{directory}/resolv.conf"]))
    text = f""". {{
        autopath {source}
        search {ZONE} {{
            domains {"d" * 63}.{"e" * 63}.example
            dots 1
        }}
        kubernetes {ZONE} {{
            manifests {directory}
            pods verified
        }}
        private
        families ipv6
    }}
    """
    pod = {"kind": "Pod", "metadata": {"name": "client", "namespace": "a"},
           "status": {"podIPs": [{"ip": "127.0.0.1"}], "phase": "Running"}}  # fmt: skip
    zone = [b"cluster", b"local"]
    endings = [[], [b"a", b"svc", *zone], [b"svc", *zone], zone, [b"internal"]]

    async def check() -> None:
        async with InProcess(text, [namespace("a"), pod]) as server:
            for labels, ending in drawn:
                parts = labels + endings[ending]
                qname = b"".join(bytes((len(label),)) + label for label in parts) + b"\0"
                for qtype in (1, 28, 16, 65):
                    query = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + qname
                    reply = await server.ask_chain(query + struct.pack("!HH", qtype, 1), "udp")
                    assert reply is not None
            assert 0 == server.server.panics

    asyncio.run(check())


# ---- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("autopath", "autopath: needs an argument"),
        ("autopath nosuch.conf", "autopath: failed to parse 'nosuch.conf': "),
        ("autopath @cache", "autopath: cache knows no search paths"),
        ("autopath b..c @kubernetes", "zone 'b..c'"),
        ("search", "search: needs the zone of a cluster"),
        ("search 10.0.0.0/8", "search: needs the zone of a cluster"),
        ("search a.example {\n domains b..c\n}", "zone 'b..c'"),
        ("search a.example {\n namespaces\n}", "namespaces: needs an argument"),
        ("search a.example {\n dots 0\n}", "dots: wants a whole number"),
        ("families", "families: needs an argument"),
        ("families ipv5", "families: wants one of ipv4, ipv6"),
        ("families ipv4 {\n except\n}", "except: needs an argument"),
        ("private {\n except\n}", "except: needs an argument"),
        ("private a.example {\n except a.example\n}", "private: a.example. is in its own except"),
    ],
)
def test_mistakes_are_named(text, reason, tmp_path):
    with pytest.raises(ConfigError, match=r"^Corefile:\d+: ") as caught:
        compile_text(f". {{\n{text}\n}}\n", "Corefile", port=53, environ={}, warn=print)
    assert reason in str(caught.value)


def test_families_answers_from_memory(tmp_path):
    """A question for the family left out never waits, so that the table has it."""
    text = ". {\n families ipv4\n forward . 192.0.2.53\n}\n"
    query = packet(Asked("www.example.com.", rr.AAAA), 1, Manner())

    async def check(ask: Callable[[InProcess], bytes | None]) -> None:
        async with InProcess(text, []) as server:
            for _ in range(2):
                await server.ask_chain(query, "udp")
            reply = ask(server)
            assert reply is not None
            assert dns.rcode.NOERROR == dns.message.from_wire(reply).rcode()

    asyncio.run(check(lambda server: server.ask_table(query, "udp")))
