"""bench: it runs from start to end and its numbers can be true; how high they are is no test."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import dns.message
import dns.rdatatype
import peers
import pytest

BENCH = Path(__file__).parent

import churn  # noqa: E402 - lies in tests/bench, which is no package
import forms  # noqa: E402
import inputs  # noqa: E402
import measure  # noqa: E402
import run  # noqa: E402
import servers  # noqa: E402

from clusterdns.config.compile import compile_text  # noqa: E402

needs_tools = pytest.mark.skipif(bool(measure.missing()), reason=measure.missing())
FEW = 20  # Services


def lines(script: str, *arguments: str) -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


RCODES = {
    "a": {"NOERROR"}, "headless": {"NOERROR"}, "srv": {"NOERROR"}, "tcp": {"NOERROR"},
    "search": {"NXDOMAIN"}, "random nxdomain": {"NXDOMAIN"}, "mixed": {"NOERROR", "NXDOMAIN"},
    "cached external": {"NOERROR"}, "uncached external": {"NOERROR"},
}  # fmt: skip


@needs_tools
@pytest.mark.parametrize(
    "titles",
    [
        ("a", "random nxdomain"),
        pytest.param([*RCODES, "tcp + churn", "mixed + churn"], marks=pytest.mark.slow),
    ],
    ids=["two", "all"],
)
def test_one_short_round(tmp_path, titles):
    document = tmp_path / "found.json"
    rows = lines(
        "run.py", "--rounds", "1", "--seconds", "0.3", "--rate", "5000", "--services", str(FEW),
        "--server", "clusterdns*", "--json", str(document), "--scenario", *titles,
    )  # fmt: skip
    assert rows == json.loads(document.read_text())["rows"]
    found = {(row["scenario"], row["server"]): row for row in rows}
    names = (servers.ECHO, servers.CLUSTERDNS, servers.PURE)
    assert {(title, name) for title in titles for name in names} == found.keys()
    for (title, name), row in found.items():
        assert 300 <= row["answered"] <= row["sent"] <= 1600
        assert sum(row["rcodes"].values()) == row["answered"]
        assert 0.3 < row["us_per_query"] < 1000  # 0.3 µs: less than any system call that sends
        assert row["pss_mib"] > 0.05
        assert row["ratio_to_coredns"] is None
        if name == servers.ECHO:
            assert row["ratio_to_echo"] == 1
        else:
            assert row["ratio_to_echo"] > 0.3
            assert RCODES[title.removesuffix(inputs.CHURN)] == row["rcodes"].keys()


@needs_tools
def test_versions_are_told():
    found = servers.versions(servers.NAMES)
    here = {n for n in servers.NAMES if not servers.missing(n)} - {
        servers.ECHO, servers.PURE, servers.COMPILED, servers.COMPILED_PURE,
    }  # fmt: skip
    assert {*here, "python", "kernel", "processor", "dnsperf", "cc"} == found.keys()
    assert "unknown" not in found.values()


def test_a_server_that_is_not_here_is_left_out_with_the_package_that_brings_it(monkeypatch):
    gone = servers._KINDS["knot"]._replace(program="no-such-program")
    monkeypatch.setitem(servers._KINDS, "knot", gone)
    assert "without knot: apt-get install knot" == servers.missing("knot")
    assert "" == servers.missing(servers.CLUSTERDNS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[servers.World]:
    """A small cluster, and the upstream server."""
    if measure.missing():
        pytest.skip(measure.missing())
    with servers.world(tmp_path_factory.mktemp("world"), FEW) as made:
        yield made


@pytest.fixture(scope="module")
def reference(world) -> Iterator[servers.Subject]:
    """The server whose replies the others' must equal."""
    with servers.running(servers.CLUSTERDNS, world) as subject:
        yield subject


def reply(port: int, question: inputs.Question) -> tuple[str, set[str]]:
    """Return the rcode and the answers, as text without the TTL, of a reply."""
    query = dns.message.make_query(*question)
    octets = peers.ask_udp(("127.0.0.1", port), query.to_wire())
    assert octets is not None, question
    message = dns.message.from_wire(octets)
    answers = {
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {record}".lower()
        for rrset in message.answer
        for record in rrset
    }
    return dns.rcode.to_text(message.rcode()), answers


def needs(name: str) -> list[pytest.MarkDecorator]:
    """A compiled program is built by hand; test_compiled_wheel.py holds what one answers."""
    is_compiled = name in (servers.COMPILED, servers.COMPILED_PURE)
    return [pytest.mark.given("CLUSTERDNS_COMPILED")] if is_compiled else []


@pytest.mark.peer
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=needs(name))
        for name in servers.NAMES
        if name not in ("echo", "clusterdns")
    ],
)
def test_all_servers_give_the_same_answers(world, reference, name):
    """Otherwise what they cost is no comparison."""
    if servers.missing(name):
        pytest.skip(servers.missing(name))
    asked = set[inputs.Question]()
    for scenario in inputs.SCENARIOS:
        if servers.can_serve(name, scenario) and not scenario.is_churned:
            some = scenario.questions(world.cluster, random.Random(1))
            asked.update(islice(some, 20 if scenario.is_endless else None))
    assert len(asked) > 600
    with servers.running(name, world) as subject:
        for question in sorted(asked):
            assert reply(reference.port, question) == reply(subject.port, question), question


def test_the_replies_that_are_compared_hold_something(world, reference):
    """Each scenario finds what its title says."""
    expected = {
        "a": ("NOERROR", 1), "headless": ("NOERROR", inputs.ENDPOINTS), "srv": ("NOERROR", 1),
        "search": ("NXDOMAIN", 0), "random nxdomain": ("NXDOMAIN", 0),
        "cached external": ("NOERROR", 1), "uncached external": ("NOERROR", 1),
    }  # fmt: skip
    for title, outcome in expected.items():
        questions = inputs.scenario(title).questions(world.cluster, random.Random(1))
        rcode, answers = reply(reference.port, next(questions))
        assert outcome == (rcode, len(answers)), title


def test_the_cluster_changes_only_while_it_churns(world):
    """100 changes a second reach the server, and stop."""
    question = f"{world.cluster.services[0]}.svc.{inputs.ZONE}", "A"
    with servers.running(servers.CLUSTERDNS, world) as subject:
        assert subject.api is not None
        before = reply(subject.port, question)
        with subject.api.churning():
            deadline = time.monotonic() + 10
            while before == reply(subject.port, question) and time.monotonic() < deadline:
                time.sleep(0.05)
        time.sleep(0.5)  # what is under way arrives
        after = reply(subject.port, question)
        assert ("NOERROR", 1) == (after[0], len(after[1]))
        assert before != after
        time.sleep(2 * 2 * FEW / churn.PER_S)  # as long as two turns through all of them
        assert after == reply(subject.port, question)


def test_changes_keep_every_object_and_come_to_each(tmp_path):
    cluster = inputs.generate(tmp_path, FEW)
    items = inputs.objects(tmp_path)
    before = {
        (i["kind"], i["metadata"]["name"]): i
        for i in items
        if i["kind"] != "Namespace" and "externalName" not in i.get("spec", {})
    }
    seen = {}
    for changed in islice(churn.changes(items), 2 * FEW):
        key = changed["kind"], changed["metadata"]["name"]
        assert changed != before[key]
        seen[key] = changed
    assert before.keys() == seen.keys()
    assert 2 * FEW == 2 * len(cluster.services + cluster.headless) == len(seen)


@contextlib.contextmanager
def echo_process(directory: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    port, log = peers.free_port(), directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [measure.compile_echo(directory), str(port), *arguments], stderr=output
        )
    try:
        server = peers.Server("127.0.0.1", port, process, log)
        peers.wait_until_answering(server)
        yield server.address
    finally:
        process.kill()
        process.wait()


@needs_tools
def test_the_echo_server_sends_whole_messages_back_over_tcp(tmp_path):
    """In whatever pieces they come."""
    messages = [b"ab\1" + b"x" * n for n in (0, 1, 300, 5000)]
    expected = [b"ab\x81" + message[3:] for message in messages]
    octets = b"".join(struct.pack("!H", len(m)) + m for m in messages)
    with echo_process(tmp_path) as address:
        for size in (1, 7, 4000, len(octets)):
            with socket.create_connection(address, 5) as sock:
                for at in range(0, len(octets), size):
                    sock.sendall(octets[at : at + size])
                assert expected == [peers.read_frame(sock) for _ in messages]


@needs_tools
def test_the_upstream_server_answers_everything(tmp_path):
    with echo_process(tmp_path, "answer") as address:
        for qtype, answers, authority in (("A", 1, 0), ("AAAA", 0, 1), ("TXT", 0, 1)):
            query = dns.message.make_query("www.example.com", qtype, use_edns=0)
            found = dns.message.from_wire(peers.ask_udp(address, query.to_wire()))
            assert query.is_response(found)
            assert (answers, authority, -1) == (len(found.answer), len(found.authority), found.edns)
            assert all(300 == rrset.ttl for rrset in found.answer + found.authority)
        for broken in (
            query.to_wire()[:20],
            bytes(12),
            b"\0\1" * 8,
            query.to_wire()[:12] + b"\xff",
        ):
            octets = peers.ask_udp(address, broken)
            assert dns.rcode.FORMERR == dns.message.from_wire(octets).rcode()


def test_micro_prints_every_step():
    rows = lines("micro.py", "--seconds", "0.01")
    assert len({row["step"] for row in rows}) == len(rows) >= 10
    assert all(10 < row["ns"] < 1e7 for row in rows)


def test_cpu_and_memory_are_those_of_the_whole_tree():
    """A child of a child that works for a known time is found."""
    work = (
        "import time\nend = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass\nprint(flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", work]
    middle = f"import subprocess; subprocess.run({command!r})"
    process = subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        pids = measure.tree(process.pid)
        assert len(pids) == 2
        assert 0.2e9 <= measure.cpu_ns(process.pid) < 5e9
        assert 3 < measure.pss_mib(process.pid) < 200
    finally:
        for pid in reversed(measure.tree(process.pid)):
            subprocess.run(["kill", str(pid)], check=False)
        process.communicate(timeout=10)


@pytest.mark.parametrize(
    "scenario",
    (*inputs.SCENARIOS, *inputs.FORWARDED, *inputs.FORMS),
    ids=lambda scenario: scenario.title,
)
def test_a_scenario_asks_the_same_again_unless_it_is_endless(tmp_path, scenario):
    cluster = inputs.generate(tmp_path, 500)
    one, two = (list(islice(scenario.questions(cluster, random.Random(1)), 50)) for _ in range(2))
    assert one == two
    assert len(one) == 50
    if scenario.is_endless:
        assert len(set(one)) == 50


def test_a_form_is_what_its_title_says(tmp_path):
    found = {}
    for scenario in inputs.FORMS:
        if scenario.form is not None:
            question = next(scenario.questions(inputs.generate(tmp_path, 20), random.Random(1)))
            forms.write_packets(tmp_path / "packets", scenario.form, [question, question])
            octets = (tmp_path / "packets").read_bytes()
            (length,) = struct.unpack_from("!H", octets)
            assert octets == 2 * octets[: 2 + length]
            found[scenario.title] = octets[2 : 2 + length]
    read = {title: dns.message.from_wire(octets) for title, octets in found.items()}
    said = {title: (query.flags, query.edns, query.payload) for title, query in read.items()}
    assert (forms.RD | forms.CD, -1, 0) == said["a with CD"]
    assert (0, -1, 0) == said["a without RD"]
    assert (forms.RD, 0, 100) == said["a with OPT of 100"]
    assert (forms.RD, 1, 1232) == said["a with EDNS 1"]
    assert dns.rdatatype.HTTPS == read["HTTPS at services"].question[0].rdtype
    assert [8] == [option.otype for option in read["a with a subnet"].options]
    assert forms.DO == read["internal over tcp with DO"].ednsflags


def test_the_cluster_is_as_large_as_asked(tmp_path):
    cluster = inputs.generate(tmp_path, 200, 4)
    assert (180, 20) == (len(cluster.services), len(cluster.headless))
    items = inputs.objects(tmp_path)
    kinds = [item["kind"] for item in items]
    named = inputs.ALIASES
    assert (200 + named, 200, 3) == tuple(
        kinds.count(k) for k in ("Service", "EndpointSlice", "Namespace")
    )
    addresses = [a for i in items for e in i.get("endpoints", ()) for a in e["addresses"]]
    assert 800 == len(addresses) == len(set(addresses))


def test_the_table_names_the_goals_that_are_missed():
    load = measure.Load(1000, 990, 1.0, 50.0, {"NOERROR": 990})
    echo, ours, coredns = (measure.Sample(load, us * 990_000) for us in (4, 8, 10))
    named = {servers.ECHO: echo, servers.CLUSTERDNS: ours, servers.COREDNS: coredns}
    rows = [
        run.Row(
            title, 0, name, [sample], run._ratios([sample], [echo]),
            run._ratios([sample], [coredns]), 1.0,
        ).as_json()
        for title in ("a", "tcp")
        for name, sample in named.items()
    ]  # fmt: skip
    assert (8.0, 2.0, 0.8) == tuple(
        rows[1][key] for key in ("us_per_query", "ratio_to_echo", "ratio_to_coredns")
    )
    text = run.table(rows)
    assert 6 == text.count("1.0% lost")
    assert [
        "missed: a at full rate, clusterdns: ratio_to_echo 2.00, at most 1.3",
        "missed: tcp at full rate, clusterdns: ratio_to_coredns 0.80, at most 0.5",
    ] == [line for line in text.splitlines() if line.startswith("missed")]


def test_pure_is_for_one_server_only(monkeypatch):
    monkeypatch.setenv("CLUSTERDNS_PURE", "1")
    with servers._pure(False):
        assert "CLUSTERDNS_PURE" not in os.environ
    assert "1" == os.environ.pop("CLUSTERDNS_PURE")
    with servers._pure(True):
        assert "1" == os.environ["CLUSTERDNS_PURE"]
    assert "CLUSTERDNS_PURE" not in os.environ


@pytest.mark.parametrize("distribution", servers.DISTRIBUTIONS)
def test_the_corefile_of_a_distribution_has_its_plugins(distribution, tmp_path):
    world = servers.World(tmp_path, inputs.Cluster((), ()), 53, distribution)
    text = servers._corefile(world, "http://127.0.0.1:1").replace("{PORT}", "53")
    configuration = compile_text(text, "Corefile", port=53, environ={}, warn=print)
    names = {plugin.name for plugin in configuration.plugins}
    plugin = {"k3s": "hosts", "aks": "template"}.get(distribution, "log")
    assert plugin in names
