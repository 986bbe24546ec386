"""`top` and `tail` asked of the real program, whose packet path is in C, and in Python.

Queries come over UDP and TCP, and are answered by the table, the relay and the chain.
"""

from __future__ import annotations

import socket
import struct
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import dns.message
import peers
import pytest
from faultyupstream import Asked, FaultyUpstream

from clusterdns.commands import running
from clusterdns.errors import ClusterDNSError

WATCH = '''
"""watch - have all queries observed.

Examples:

    . {
        watch
        whoami
    }
"""
from clusterdns.chain.plugin import Passive, no_arguments

class Watch(Passive):
    after = "whoami"
    observes_all = True
    def __init__(self, directive, block):
        no_arguments(directive)
'''
MANIFESTS = """
kind: Namespace
metadata: {name: shop}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.5, ports: [{port: 80}]}
"""
WEB = "web.shop.svc.cluster.local."
GONE = "gone.shop.svc.cluster.local."


_heard: set[str] = set()


def upstream_says(asked: Asked) -> None:
    """Reply with the address of a name; `servfail` and `slow` do as they say.

    What begins with `second` gets no reply the first time.
    """
    word = asked.qname.partition(".")[0]
    if word.startswith("second") and word not in _heard:
        _heard.add(word)
    elif word == "servfail":
        asked.reply(asked.message(flags=0x8182))
    elif word != "silent":
        asked.reply(asked.message(), after_s=0.3 if word == "slow" else 0)


class Subject(NamedTuple):
    """A server whose queries are observed."""

    server: peers.Server
    is_compiled: bool

    def ask(self, word: str, **request: Any) -> dict[str, Any]:
        return running.ask(word, request, self.server.process.pid)

    def udp(self, *qnames: str, qtype: str = "A") -> None:
        for qname in qnames:
            packet = dns.message.make_query(qname, qtype).to_wire()
            assert peers.ask_udp(self.server.address, packet, timeout_s=5)

    def tail(self, wanted: int, since: int = 0, **filters: Any) -> list[dict[str, Any]]:
        """Return so many queries, once they are there."""
        return wait_for(lambda: self._tail(wanted, since, filters))

    def _tail(self, wanted: int, since: int, filters: dict[str, Any]) -> list[dict[str, Any]]:
        found = self.ask("tail", since=since, limit=1000, **filters)["queries"]
        assert len(found) <= wanted, found
        return found if len(found) == wanted else []


def wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := find()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module", params=["c", "python", "3 workers"])
def subject(request, tmp_path_factory) -> Iterator[Subject]:
    directory = tmp_path_factory.mktemp("watched")
    site = directory / "site"
    (site / "watch-1.dist-info").mkdir(parents=True)
    (site / "watch_plugin.py").write_text(textwrap.dedent(WATCH))
    (site / "watch-1.dist-info" / "METADATA").write_text("Name: watch\nVersion: 1\n")
    entries = "[clusterdns.plugins]\nwatch = watch_plugin\n"
    (site / "watch-1.dist-info" / "entry_points.txt").write_text(entries)
    (directory / "objects").mkdir()
    (directory / "objects" / "shop.yaml").write_text(MANIFESTS)
    is_pure = request.param == "python"
    more = "multisocket 3" if request.param == "3 workers" else ""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(site))
    patch.setenv("CLUSTERDNS_PURE", "1" if is_pure else "")
    with FaultyUpstream(upstream_says) as upstream:
        corefile = f"""
        .:{{PORT}} {{
            watch
            log . "{{name}} {{duration}}" {{
                slow 1s
            }}
            {more}
            kubernetes cluster.local {{
                manifests objects
            }}
            forward . {upstream.address}
        }}
        """
        with peers.clusterdns(corefile, directory) as server:
            patch.undo()
            found = Subject(server, not is_pure)
            wait_for(lambda: is_known(found))
            yield found


def is_known(subject: Subject) -> bool:
    query = dns.message.make_query(WEB, "A").to_wire()
    reply = peers.ask_udp(subject.server.address, query)
    return reply is not None and bool(dns.message.from_wire(reply).answer)


def now(subject: Subject) -> int:
    """Return the number behind all queries so far."""
    since = 0
    for _ in range(20):  # workers answer at different times: some queries come the next time
        found = subject.ask("tail", since=since, limit=1000)
        is_over = since and not found["queries"]
        since = found["next"]
        if is_over:
            break
    return since


def test_queries_of_all_paths_are_seen(subject):
    subject.udp(WEB, WEB, WEB, WEB)  # each worker has the answer in its table, or soon
    since = now(subject)
    subject.udp(WEB, WEB, GONE, "one.example.", "servfail.example.")
    found = subject.tail(5, since)
    rcodes = [(query["name"], query["rcode"]) for query in found]
    assert Counter(
        {
            (WEB, "NOERROR"): 2, (GONE, "NXDOMAIN"): 1, ("one.example.", "NOERROR"): 1,
            ("servfail.example.", "SERVFAIL"): 1,
        }
    ) == Counter(rcodes)  # fmt: skip
    for query in found:
        assert "127.0.0.1" == query["client"]
        assert ("A", "IN", "udp") == (query["type"], query["class"], query["transport"])
        assert query["listener"].startswith("dns://")
        assert 1 == query["stands_for"]
        assert abs(time.time() - query["at"]) < 30
        assert 0 <= query["seconds"] < 5
        assert 12 < query["size"] < 200
    paths = {query["name"]: query["path"] for query in found}
    relayed = "relay" if subject.is_compiled else "chain"
    assert (relayed, "chain") == (paths["one.example."], paths[GONE])


def test_the_time_of_a_query_has_all_of_its_tries(subject):
    """The relay waits for a server that says nothing, and hands the query over to the chain."""
    since, qname = now(subject), f"second-{subject.server.port}.example."
    began = time.monotonic()
    subject.udp(qname)
    took_s = time.monotonic() - began
    (found,) = subject.tail(1, since, name=qname)
    assert 1 < took_s - 0.3 < found["seconds"] <= took_s
    assert wait_for(lambda: f"{qname} " in subject.server.output)  # it is not less than 1 s there
    slow = {row["name"]: row["seconds"] for row in subject.ask("top")["slow"]}
    assert found["seconds"] == pytest.approx(slow[qname], abs=1e-3)


def test_hits_are_seen(subject):
    """One socket asks, so that it is one worker."""
    since = now(subject)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(subject.server.address)
        for _ in range(6):
            sock.send(dns.message.make_query("WEB.shop.svc.cluster.local.", "A").to_wire())
            assert sock.recv(512)
        port = sock.getsockname()[1]
    found = subject.tail(6, since)
    assert {(WEB, port)} == {(query["name"], query["port"]) for query in found}
    assert 5 <= sum(query["path"] == "table" for query in found)


def test_hits_of_a_stream_are_seen(subject):
    since = now(subject)
    query = dns.message.make_query(WEB, "A").to_wire()
    with socket.create_connection(subject.server.address, timeout=5) as sock:
        for _ in range(3):
            sock.sendall((struct.pack("!H", len(query)) + query) * 2)
            for _ in range(2):
                assert peers.read_frame(sock)
        port = sock.getsockname()[1]
    found = subject.tail(6, since)
    assert {("tcp", port)} == {(query["transport"], query["port"]) for query in found}
    assert 5 <= sum(query["path"] == "table" for query in found)


def test_filters_select(subject):
    subject.udp(WEB)
    since = now(subject)
    subject.udp(WEB, GONE, "slow.example.", "two.example.")
    assert [GONE] == [q["name"] for q in subject.tail(1, since, rcode="NXDOMAIN")]
    assert {GONE, WEB} == {q["name"] for q in subject.tail(2, since, namespace="shop")}
    assert ["slow.example."] == [q["name"] for q in subject.tail(1, since, slow=0.25)]
    both = {q["name"] for q in subject.tail(2, since, name="example")}
    assert {"slow.example.", "two.example."} == both
    assert 4 == len(subject.tail(4, since, client="127.0.0.0/8"))
    assert [] == subject.ask("tail", since=since, client="10.")["queries"]
    with pytest.raises(ClusterDNSError, match="unknown rcode 'NOSUCH'"):
        subject.ask("tail", rcode="NOSUCH")


def test_a_reader_that_keeps_up_gets_each_query_once(subject):
    since, read = now(subject), Counter[str]()
    wanted = [f"n{i}.example." for i in range(20)]
    for i, qname in enumerate(wanted):  # so few between two ticks that none is left out
        packet = dns.message.make_query(qname, "A").to_wire()
        assert peers.ask_tcp(subject.server.address, packet)
        if i % 10 == 9:
            since = read_on(subject, since, read)

    def is_read() -> bool:
        nonlocal since
        since = read_on(subject, since, read)
        return read.total() >= len(wanted)

    assert wait_for(is_read)
    assert Counter(wanted) == read


def read_on(subject: Subject, since: int, read: Counter[str]) -> int:
    found = subject.ask("tail", since=since, limit=7)
    assert 0 == found["lost"]
    read.update(query["name"] for query in found["queries"])
    assert isinstance(found["next"], int)
    return found["next"]


def test_top_has_the_counts_of_all_workers(subject):
    before = subject.ask("top")
    for i in range(12):  # so few that all are looked at
        subject.udp(WEB, f"popular{i % 4}.example.")
    subject.udp(*[GONE] * 8, "slow.top.example.")

    def counted() -> dict[str, Any]:
        found = subject.ask("top")
        return found if found["queries"] - before["queries"] >= 33 else {}

    found = wait_for(counted)
    assert 33 == found["queries"] - before["queries"]
    assert 1 == found["sampled"]
    names = {row["name"]: row for row in found["names"] if row["type"] == "A"}
    for i in range(4):
        row = names[f"popular{i}.example."]
        assert row["count"] - row["error"] <= 3 <= row["count"]
    assert names[WEB]["count"] >= 12
    assert {"127.0.0.1"} == {row["client"] for row in found["clients"]}
    assert ["shop"] == [row["namespace"] for row in found["namespaces"]]
    assert 8 <= {row["name"]: row["count"] for row in found["denied"]}[GONE]
    slow = {row["name"]: row["seconds"] for row in found["slow"]}
    assert 0.25 < slow["slow.top.example."] < 5
    assert found["queries"] == sum(found["rcodes"].values()) == sum(found["types"].values())
    assert found["queries"] == sum(times for _, times in found["latency"]["buckets"])
    assert found["queries"] == sum(row[1] for row in found["history"])
    assert 0 < found["latency"]["p50"] < found["latency"]["p99"]
    assert 0 < found["seconds"] < 600


def test_many_hits_are_sampled_and_scaled_up(subject):
    """A thousand hits at once: few are looked at, and their counts say a thousand."""
    since = subject.ask("top")
    batch = dns.message.make_query("sampled.cluster.local.", "TXT").to_wire()
    frames = (struct.pack("!H", len(batch)) + batch) * 50
    with socket.create_connection(subject.server.address, timeout=10) as sock:
        for _ in range(60):
            sock.sendall(frames)
            for _ in range(50):
                assert peers.read_frame(sock)

    def counted() -> dict[str, Any]:
        found = subject.ask("top")
        return found if found["queries"] - since["queries"] > 2900 else {}

    found = wait_for(counted)
    names = {row["name"]: row["count"] for row in found["names"]}
    assert 2500 < names["sampled.cluster.local."] < 3500
    assert 2500 < found["types"]["TXT"] < 3500
    shown = subject.ask("tail", since=0, limit=1000)["queries"]
    assert 1 < max(query["stands_for"] for query in shown)


def test_nothing_is_observed_unless_it_is_wanted(tmp_path):
    with peers.clusterdns(".:{PORT} {\n whoami\n}\n", tmp_path) as server:
        for word in ("top", "tail"):
            with pytest.raises(ClusterDNSError, match="queries are not observed"):
                running.ask(word, {}, server.process.pid)
