"""bench: latency, scale, growth and changes run from start to end, and their numbers can be true.

How high they are is no test.
"""

from __future__ import annotations

import array
import itertools
import json
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import dns.message
import pytest

BENCH = Path(__file__).parent

import apicluster  # noqa: E402 - lies in tests/bench, which is no package
import findings  # noqa: E402
import growth  # noqa: E402
import inputs  # noqa: E402
import measure  # noqa: E402
import pacing  # noqa: E402
import peers  # noqa: E402

needs_tools = pytest.mark.skipif(bool(measure.missing()), reason=measure.missing())


def document(tmp_path: Path, script: str, *arguments: str) -> dict:
    """Run a benchmark and return what it has written; the lines it printed are the same."""
    path = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(BENCH / script), *arguments, "--json", str(path)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["rows"] == [json.loads(line) for line in done.stdout.splitlines()]
    assert all(statement["text"] in done.stderr for statement in found["findings"])
    return found


def by(found: dict, *titles: str) -> dict:
    rows = {tuple(row[title] for title in titles): row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    return rows


def waits(row: dict) -> list[float]:
    """Return the quantiles of a row; a busy machine may lose queries."""
    titles = ("p50_us", "p99_us", "p99_9_us", "max_us")
    return [float("inf") if row[title] is None else row[title] for title in titles]


# ---- whole runs


@needs_tools
@pytest.mark.slow
def test_sizes(tmp_path):
    found = document(
        tmp_path, "scale.py", "--sizes", "10", "400", "--rounds", "1", "--seconds", "0.3"
    )
    rows = by(found, "server", "services")
    for (_, services), row in rows.items():
        assert 0.1 < row["ready_s"] < 60
        assert 10 < row["pss_mib"] < 500
        assert 10 < row["pss_under_load_mib"] < 500
        assert 1000 < row["answered"] <= row["sent"]
        assert 0.3 < row["us_per_query"] < 1000
        assert services in (10, 400)
    small, large = rows["clusterdns", 10], rows["clusterdns", 400]
    assert small["pss_mib"] < large["pss_mib"] + 5
    texts = [statement["text"] for statement in found["findings"]]
    assert any(text.startswith("clusterdns: CPU per query flat from 10 to 400") for text in texts)
    assert any("KiB a Service" in text for text in texts)


@needs_tools
@pytest.mark.slow
def test_workers(tmp_path):
    arguments = ("--workers", "--sizes", "50", "--rounds", "1", "--seconds", "0.3")
    rows = by(document(tmp_path, "scale.py", *arguments), "server", "questions", "workers")
    for mix in ("repeated", "respelled"):
        one, two = (rows["clusterdns", mix, n] for n in (1, 2))
        for row in (one, two):
            assert 300 < row["answered"] <= row["sent"]
            assert 0 < row["cores_used"] <= 2.2
        assert one["pss_mib"] < two["pss_mib"]  # a process more


@needs_tools
@pytest.mark.slow
def test_growth(tmp_path):
    rows = by(
        document(tmp_path, "growth.py", "--services", "200", "--seconds", "4"), "server", "load"
    )
    for what in ("time", "table"):
        row = rows["clusterdns", what]
        assert 4 <= len(row["pss_mib"]) <= 8
        assert row["peak_mib"] == max(row["pss_mib"])
        assert 300 < row["answered"] <= row["sent"]
        assert {"NOERROR", "NXDOMAIN"} == row["rcodes"].keys()


@needs_tools
@pytest.mark.slow
def test_changes(tmp_path):
    found = document(tmp_path, "changes.py", "--services", "200", "--seconds", "1")
    rows = by(found, "server", "change")
    one = rows["clusterdns", "one by one"]
    assert one["changes"] == 100
    assert 0.05 < one["answered_p50_ms"] <= one["answered_p99_ms"] <= one["answered_max_ms"]
    for kind in ("services", "slices"):
        burst = rows["clusterdns", kind]
        assert burst["events"] == 200
        assert 1 < burst["absorbed_ms"] < 10_000
        assert 1 < waits(burst)[0] < 10e6
        assert sorted(waits(burst)) == waits(burst)
        assert {"NOERROR", "NXDOMAIN"} == burst["rcodes"].keys()


@needs_tools
@pytest.mark.slow
def test_latency(tmp_path):
    arguments = ("--services", "50", "--rounds", "1", "--seconds", "0.3", "--scenario", "internal")
    servers = ("--server", "echo", "clusterdns", "coredns")
    rows = by(document(tmp_path, "latency.py", *arguments, *servers), "server", "load")
    for (name, load), row in rows.items():
        assert 1 < waits(row)[0], name
        assert sorted(waits(row)) == waits(row)
        assert load != "half" or row["rate"] == row["full_qps"] // 2
        assert {"NOERROR"} == row["rcodes"].keys()


# ---- the client that keeps its schedule


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    if not measure.compiler():
        pytest.skip(measure.INSTALL_CC)
    return pacing.Client(tmp_path_factory.mktemp("paced"))


class Upstream:
    """Answers every query after a while, but for those it loses."""

    def __init__(self, *, delay_s: float = 0.0, loses: int = 0) -> None:
        self.sock, stream = peers.bind_pair()
        stream.close()
        self.port = self.sock.getsockname()[1]
        self.names: list[str] = []
        self._delay_s, self._loses = delay_s, loses
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self.sock.sendto(b"", self.sock.getsockname())
        self._thread.join()
        self.sock.close()

    def _run(self) -> None:
        while True:
            packet, whom = self.sock.recvfrom(512)
            if not packet:
                return
            self.names.append(str(dns.message.from_wire(packet).question[0]))
            if self._loses and len(self.names) % self._loses == 0:
                continue
            time.sleep(self._delay_s)
            self.sock.sendto(packet[:2] + bytes((packet[2] | 0x80, 3)) + packet[4:], whom)


@pytest.fixture
def upstream(request):
    server = Upstream(**request.param)
    yield server
    server.stop()


@pytest.mark.parametrize("upstream", [{"delay_s": 0.005}], indirect=True)
def test_a_wait_is_that_of_the_reply(client, upstream, tmp_path):
    questions = [(f"n{i}.test.", "A" if i % 2 else "SRV") for i in range(10)]
    pacing.write_packets(tmp_path / "packets", questions)
    waits = client.ask(upstream.port, tmp_path / "packets", rate=40, seconds=0.5)
    assert 20 == len(waits.waited) == len(waits.late)
    assert 0 == waits.lost
    assert {"NXDOMAIN": 20} == waits.rcodes
    assert 5e6 <= min(waits.waited)
    asked = [f"{qname} IN {qtype}" for qname, qtype in questions]
    assert asked * 2 == upstream.names


@pytest.mark.parametrize("upstream", [{"delay_s": 0.05}], indirect=True)
def test_a_slow_server_is_asked_on_and_has_its_queue_against_it(client, upstream, tmp_path):
    """20 replies a second to 200 queries: the last ones wait for those before them."""
    pacing.write_packets(tmp_path / "packets", [("a.test.", "A")])
    began = time.monotonic_ns()
    waits = client.ask(upstream.port, tmp_path / "packets", rate=200, seconds=0.1)
    assert began < waits.start_ns < time.monotonic_ns()
    assert 20 == len(waits.waited)
    answered = [ns for ns in waits.waited if ns != pacing.LOST]
    assert len(answered) >= 15
    assert max(answered) - min(answered) > 0.5e9
    assert waits.between(waits.start_ns, waits.start_ns + 10**8) == waits.waited
    assert waits.between(waits.start_ns + 5 * 10**7, 2**62) == waits.waited[10:]


@pytest.mark.parametrize("upstream", [{"loses": 4}], indirect=True)
def test_what_is_lost_counts_as_longest(client, upstream, tmp_path):
    pacing.write_packets(tmp_path / "packets", [("a.test.", "A")])
    waits = client.ask(upstream.port, tmp_path / "packets", rate=1000, seconds=0.04)
    assert 10 == waits.lost
    quantiles = pacing.quantiles_us(waits.waited)
    assert quantiles["p50_us"] < 1e6
    assert quantiles["p99_us"] == quantiles["max_us"] == float("inf")


def test_quantiles():
    waits = array.array("I", [n * 1000 for n in range(1, 1001)])
    random.Random(1).shuffle(waits)
    expected = {"p50_us": 501, "p99_us": 991, "p99_9_us": 1000, "max_us": 1000}
    assert expected == pacing.quantiles_us(waits)


# ---- what is served and asked


def test_a_line_is_found():
    slope, base, farthest = findings.line_through([0.0, 1.0, 2.0], [5.0, 7.0, 9.0])
    assert (2, 5, 0) == pytest.approx((slope, base, farthest))
    assert findings.line_through([0.0, 1.0, 2.0], [0.0, 3.0, 0.0])[2] == pytest.approx(2)


def test_turns_change_every_address_and_stay_apart():
    for turn in range(1, 20):
        assert apicluster.service_address(7, turn) != apicluster.service_address(7, turn + 1)
        one, two = (
            {e["addresses"][0] for e in apicluster.endpoint_slice(7, 10, t)["endpoints"]}
            for t in (turn, turn + 1)
        )
        assert len(one) == len(two) == 10
        assert not one & two
    numbered = [apicluster.endpoint_address(n, 1) for n in range(0, 500_000, 997)]
    assert len(set(numbered)) == len(numbered)


def test_many_change_at_once(tmp_path):
    """What a burst says of its last object is true of a server that has taken it in."""
    with (
        apicluster.api_process(20, 3) as (url, api),
        apicluster.started(apicluster.CLUSTERDNS, url, tmp_path, 20) as server,
    ):
        apicluster.tell(api, "services 0 20 5")
        apicluster.tell(api, "slices 0 20 6")
        apicluster.tell(api, "3 9")
        number = 19 * 3
        expected = {
            apicluster.qname(19): apicluster.service_address(19, 5),
            apicluster.qname(3): apicluster.service_address(3, 9),
            apicluster.endpoint_qname(19, number, 6): apicluster.endpoint_address(number, 6),
        }
        for qname, address in expected.items():
            deadline = time.monotonic() + 10
            while answers(server.server.address, qname) != [address]:
                assert time.monotonic() < deadline, qname
                time.sleep(0.02)


def answers(address: tuple[str, int], qname: str) -> list[str]:
    reply = peers.ask_udp(address, dns.message.make_query(qname, "A").to_wire())
    assert reply is not None
    return [str(rdata) for rrset in dns.message.from_wire(reply).answer for rdata in rrset]


def test_endless_names_come_twice_and_everyday_ones_are_what_they_say():
    some = list(itertools.islice(growth.endless(100, random.Random(1)), 4 * growth.AT_ONCE))
    assert some[: growth.AT_ONCE] == some[growth.AT_ONCE : 2 * growth.AT_ONCE]
    assert len({qname for qname, _ in some}) > 1.8 * growth.AT_ONCE
    everyday = list(itertools.islice(growth.everyday(100, random.Random(1)), 2000))
    assert 500 == sum(1 for qname, _ in everyday[: 20 * 100] if is_new(qname))


def is_new(qname: str) -> bool:
    label = qname.removeprefix("www.").partition(".")[0]
    return len(label) == 12 and set(label) <= set("0123456789abcdef")


def test_a_respelled_name_is_the_same_name():
    rng = random.Random(1)
    spellings = {growth.respelled("s1.default.svc.cluster.local", rng) for _ in range(50)}
    assert len(spellings) > 45
    assert {"s1.default.svc.cluster.local"} == {spelling.lower() for spelling in spellings}


def test_packets_are_plain_queries(tmp_path):
    path = tmp_path / "packets"
    pacing.write_packets(path, [("a.test", "A"), ("_http._tcp.b.test", "SRV")])
    octets, found = path.read_bytes(), []
    while octets:
        (length,) = struct.unpack_from("!H", octets)
        found.append(str(dns.message.from_wire(octets[2 : 2 + length]).question[0]))
        octets = octets[2 + length :]
    assert ["a.test. IN A", "_http._tcp.b.test. IN SRV"] == found
    assert inputs.ZONE == "cluster.local"
