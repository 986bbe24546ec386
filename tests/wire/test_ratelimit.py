"""`ratelimit`: the buckets in Python and in C, what hits get by them, and the real server under them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import socket
import statistics
import time
from pathlib import Path

import beside
import dns.flags
import dns.message
import peers
import pytest
from faultyupstream import FaultyUpstream, good
from fuzz import fuzz_drain
from hypothesis import given
from hypothesis import strategies as st
from inprocess import InProcess

from clusterdns.chain.limits import ANSWER, ENTRY_OCTETS, STAY_SILENT, TRUNCATE, Buckets, Rates
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, rr
from clusterdns.wire.message import Edns
from clusterdns.wire.response import Response

drain = fuzz_drain.built()
needs_drain = pytest.mark.skipif(drain is None, reason="not compiled")
SECRET = bytes(range(16))
ENTRIES = 4096


def buckets(rates: Rates, entries: int = ENTRIES) -> Buckets:
    return Buckets(bytearray(entries * ENTRY_OCTETS), SECRET, rates)


def in_c(rates: Rates, entries: int = ENTRIES):
    assert drain is not None
    return drain.Buckets(
        bytearray(entries * ENTRY_OCTETS), SECRET, rates.interval_s, rates.slack_s, rates.slip,
        rates.bits4, rates.bits6, rates.exempt,
    )  # fmt: skip


MAKERS = [buckets, pytest.param(in_c, marks=needs_drain)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("rate", "burst"), [(10, 10), (1, 1), (3, 7), (1_000_000, 1), (7, 1000)])
def test_a_client_has_its_burst_and_then_its_rate(make, rate, burst):
    for start in (0.0, 0.1, 12345.678, 9e6):
        found = make(Rates(rate, burst))
        said = [found.judge("10.0.0.1", start) for _ in range(burst + 5)]
        assert [ANSWER] * burst + [TRUNCATE, STAY_SILENT] * 2 + [TRUNCATE] == said
        assert (3, 2) == (found.truncated, found.dropped)
        assert ANSWER == found.judge("10.0.0.2", start)
    now, answered = 1000.0, 0
    steps = 10 * rate if rate < 100 else 1000
    for _ in range(10 * steps):  # ten times its rate
        now += 1 / (10 * rate)
        answered += found.judge("10.0.0.3", now) == ANSWER
    expected = min(burst + steps, 10 * steps)
    assert expected - 2 <= answered <= expected + 2


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("slip", "expected"),
    [
        (0, [STAY_SILENT] * 4), (1, [TRUNCATE] * 4),
        (3, [TRUNCATE, STAY_SILENT, STAY_SILENT, TRUNCATE]),
    ],
)  # fmt: skip
def test_every_slipth_query_over_the_limit_gets_tc(make, slip, expected):
    found = make(Rates(1, 1, slip))
    for _ in range(2):
        assert ANSWER == found.judge("10.0.0.1", 5.0)
        assert expected == [found.judge("10.0.0.1", 5.0) for _ in range(4)]
        found = make(Rates(1, 1, slip))


@pytest.mark.parametrize("make", MAKERS)
def test_prefixes_and_networks_that_are_exempt(make):
    exempt = ((bytes((10, 1, 0, 0)), 16), (bytes.fromhex("fd00" + "00" * 14), 9))
    found = make(Rates(1, 1, 1, 24, 56, exempt))
    alike = [
        ("192.0.2.1", "192.0.2.255", "::ffff:192.0.2.77"), ("192.0.3.1", "192.0.3.9"),
        ("2001:db8::1", "2001:db8:0:ff::1", "2001:db8::9%eth0"), ("2001:db8:0:100::1",),
    ]  # fmt: skip
    for first, *others in alike:
        assert ANSWER == found.judge(first, 5.0)
        assert [TRUNCATE] * len(others) == [found.judge(each, 5.0) for each in others]
    for host in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::7", "fd7f::1", "", "not an address"):
        assert [ANSWER] * 3 == [found.judge(host, 5.0) for _ in range(3)]
    assert TRUNCATE == [found.judge("fd80::1", 5.0) for _ in range(2)][1]


@pytest.mark.parametrize("make", MAKERS)
def test_many_clients_take_the_places_of_quiet_ones(make):
    """However many there are, the memory is the same, and the one who floods stays limited."""
    found = make(Rates(1, 5), 64)
    flood = sum(found.judge("10.9.9.9", 5.0 + i / 3000) == ANSWER for i in range(1000))
    assert flood == 5
    for i in range(5000):
        assert ANSWER == found.judge(f"10.0.{i >> 8}.{i & 255}", 6.0)
        flood += found.judge("10.9.9.9", 6.0) == ANSWER
    assert flood < 10
    assert make(Rates(1, 1), 4).judge("10.0.0.1", 0.0) == ANSWER


@needs_drain
@given(
    st.integers(1, 50), st.integers(1, 20), st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=200),
)  # fmt: skip
def test_c_judges_as_python_does(rate, burst, slip, queries):
    hosts = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "::1", "2001:db8::1", "::ffff:10.0.0.1")
    rates = Rates(rate, burst, slip, 24, 64, ((bytes(15) + b"\1", 128),))
    one, other, now = buckets(rates), in_c(rates), 77.0
    for host, wait in queries:
        now += wait / 1000
        assert one.judge(hosts[host], now) == other.judge(hosts[host], now)
    assert (one.truncated, one.dropped) == (other.truncated, other.dropped)


@needs_drain
def test_what_are_no_buckets_is_refused():
    assert drain is not None
    room = bytearray(4096)
    for bad, error in (
        ((bytes(4096), SECRET, 1.0, 1.0, 2, 32, 128, ()), BufferError),
        ((room, b"short", 1.0, 1.0, 2, 32, 128, ()), ValueError),
        ((bytearray(95), SECRET, 1.0, 1.0, 2, 32, 128, ()), ValueError),
        ((room, SECRET, 1.0, 1.0, 2, 32, 128, [(b"abcd", 8)]), TypeError),
        ((room, SECRET, 1.0, 1.0, 2, 32, 128, ((b"abc", 8),)), ValueError),
        ((room, SECRET, 1.0, 1.0, 2, 32, 128, (("abcd", 8),)), TypeError),
        ((room, SECRET, 1.0, 1.0, 2, 32, 128, ((b"abcd", 8),) * 65), ValueError),
    ):
        with pytest.raises(error):
            drain.Buckets(*bad)


def limited_table(made, **options):
    """Return a table with an answer that counts, one that somebody observes too, and a free one."""
    table = AnswerTable(**options)
    for text, note, counts in (
        ("out.example.", None, True), ("seen.example.", (0, 7), True), ("free.example.", None, False),
    ):  # fmt: skip
        asked = fuzz_drain.question(text)
        answer = fuzz_drain.addresses(asked.qname, 3)
        response = Response(answer=answer, facts=("f",), flags=message.AA | message.AD)
        found = made if counts else None
        table.remember(asked, response, fuzz_drain.NOW, lambda: 0, note, found)
    return table


def packets(count: int, seed: int = 1) -> list[bytes]:
    rng, found = random.Random(seed), []
    opts = [b"", *(message.write_opt(Edns(size, 0, 0)) for size in (0, 1232, 65535))]
    opts += [message.write_opt(Edns(1232, 0, message.EDNS_DO, b"\0\x0a\0\x08" + bytes(8)))]
    for i in range(count):
        wire = fuzz_drain.question(rng.choice(("out", "seen", "free")) + ".example.").wire
        opt, flags = rng.choice(opts), rng.choice((0, message.RD, message.RD | message.AD))
        found.append(message.HEADER.pack(i, flags, 1, 0, 0, 1 if opt else 0) + wire + opt)
    return found


@needs_drain
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("options", [{}, {"bounds": (600, 600)}, {"keeps_replies": True}])
def test_hits_over_the_limit_are_cut_or_dropped_alike(host, options):
    rates = Rates(1, 9)
    ours, theirs = limited_table(in_c(rates), **options), limited_table(in_c(rates), **options)
    by_python, by_c, seen, records = [0] * 12, [0] * 12, [], []
    with fuzz_drain.Sockets(host) as sockets:
        for seed in range(3):
            some = packets(fuzz_drain.BATCH, seed)
            said = [
                ours.reply(packet, fuzz_drain.NOW, by_python, False, seen, lambda: host)
                for packet in some
            ]
            for packet in some:
                sockets.client.send(packet)
            fd = sockets.server.fileno()
            _, unsent, left = drain.drain(fd, theirs.maps(by_c, records), fuzz_drain.NOW)
            assert unsent == 0
            assert [p for p, reply in zip(some, said, strict=True) if reply is None] == [
                packet for packet, *_ in left
            ]
            assert [reply for reply in said if reply] == sockets.received()
            assert b"" in said
    assert by_python == by_c
    assert [each[:2] for each in seen] == [each[:2] for each in records]
    cut = [dns.message.from_wire(each) for each in said if each and each[2] & 2]
    assert cut
    assert all(not each.answer and each.flags & dns.flags.QR for each in cut)


def test_a_stream_is_not_limited():
    table = limited_table(buckets(Rates(1, 1)))
    packet = beside.query("out.example")
    for stream, expected in ((True, 5), (False, 1)):
        said = [
            table.reply(packet, fuzz_drain.NOW, [0] * 4, stream, None, lambda: "10.0.0.1")
            for _ in range(5)
        ]
        assert expected == sum(bool(each and not each[2] & 2) for each in said)


# ---- the real server

CLUSTER = """
apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.3.0.1, ports: [{port: 80, protocol: TCP}]}
"""
WEB, NONE = "web.demo.svc.cluster.local", "none.demo.svc.cluster.local"
COREFILE = """.:{{PORT}} {{
    {more}
    kubernetes cluster.local in-addr.arpa {{
        manifests cluster
        fallthrough in-addr.arpa
    }}
    ratelimit {limit} {{
        burst 20
        except free.example
        {rules}
    }}
    cache 60
    prometheus 127.0.0.1:{metrics}
    forward . {upstream}
}}
"""
PATHS = ["relay", "chain", "Python"]


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What answers; all but Python needs what is compiled."""
    if request.param == "Python":
        monkeypatch.setenv("CLUSTERDNS_PURE", "1")
    elif drain is None:
        pytest.skip("not compiled")
    return request.param


class Client:
    """A client at a loopback address of its own, with one socket."""

    def __init__(self, host: str, server: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.connect(server)

    def ask(self, texts: list[str], qtype: str = "A", wait_s: float = 0.3) -> dict[str, str]:
        """Ask for names; return for each "answer", "tc" or "silence", of ``wait_s`` since the last."""
        for i, text in enumerate(texts):
            packet = beside.query(text, qtype, edns=1232 if i % 2 else None)
            self.sock.send(i.to_bytes(2, "big") + packet[2:])
            if i % 16 == 15:
                time.sleep(0.002)
        found = dict.fromkeys(texts, "silence")
        self.sock.settimeout(wait_s)
        with contextlib.suppress(TimeoutError):
            for _ in texts:
                reply = self.sock.recv(65535)
                text = texts[int.from_bytes(reply[:2], "big")]
                found[text] = "tc" if reply[2] & 2 else "answer"
        self.sock.close()
        return found


def serve(
    tmp_path: Path, upstream: FaultyUpstream, more: str = "", rules: str = "", limit: int = 5
):
    (tmp_path / "cluster").mkdir(exist_ok=True)
    (tmp_path / "cluster" / "all.yaml").write_text(CLUSTER)
    metrics = peers.free_port()
    text = COREFILE.format(
        more=more, rules=rules, limit=limit, metrics=metrics, upstream=upstream.address
    )
    return peers.clusterdns(text, tmp_path), metrics


def counted(metrics: int, word: str) -> float:
    found = beside.samples(metrics, f"clusterdns_ratelimit_{word}_total")
    return sum(found.values())


@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_names_outside_are_limited_and_the_cluster_is_not(tmp_path, path):
    with FaultyUpstream(good) as upstream:
        server, metrics = serve(tmp_path, upstream, "cancel 2s" if path == "chain" else "")
        with server as running:
            new = [f"n{i}.example" for i in range(60)]
            said = [*Client("127.0.0.2", running.address).ask(new).values()]
            assert 20 <= said.count("answer") <= 30
            assert 10 <= said.count("tc") <= 25
            assert 10 <= said.count("silence") <= 25
            for host in ("127.0.0.4", "127.0.0.5"):
                hot = Client(host, running.address).ask([f"n{i % 8}.example" for i in range(8)])
                assert ["answer"] * 8 == [*hot.values()]
            # Names of the cluster are free, known and unknown ones, and so is `except`.
            for text in (WEB, NONE, "a.free.example"):
                names = [f"{i}.{text}" for i in range(5)] if text != WEB else [WEB]
                for _ in range(8):
                    said = Client("127.0.0.2", running.address).ask(names)
                    assert {"answer"} == {*said.values()}, text
            for _ in range(5):
                tcp = peers.ask_tcp(running.address, beside.query("hot.example"))
                assert tcp is not None
                assert dns.message.from_wire(tcp).answer
            assert counted(metrics, "truncated") >= 10
            assert counted(metrics, "dropped") >= 10
            assert "panic" not in running.output


def paced(client: Client, texts: list[str], rate: float) -> list[float | None]:
    """Ask for names at a rate, each in turn; return how long the answer took, None for no answer."""
    took: list[float | None] = []
    client.sock.settimeout(2)
    start = time.monotonic()
    for i, text in enumerate(texts):
        time.sleep(max(0.0, start + i / rate - time.monotonic()))
        began = time.monotonic()
        client.sock.send(i.to_bytes(2, "big") + beside.query(text)[2:])
        found = None
        with contextlib.suppress(TimeoutError):
            reply = client.sock.recv(65535)
            if int.from_bytes(reply[:2], "big") == i and not reply[2] & 2:
                found = time.monotonic() - began
        took.append(found)
    client.sock.close()
    return took


def at_a_rate(sock: socket.socket, rate: int, seconds: float) -> tuple[int, int]:
    """Ask for ever new names at a rate; return how many were asked, and answered without TC."""
    sent = answers = 0
    sock.setblocking(False)
    start = time.monotonic()
    while (spent := time.monotonic() - start) < seconds:
        while sent < spent * rate:
            sock.send((sent % 65536).to_bytes(2, "big") + beside.query(f"x{sent}.example")[2:])
            sent += 1
        time.sleep(0.003)
        with contextlib.suppress(BlockingIOError):
            while True:
                answers += not sock.recv(65535)[2] & 2
    sock.close()
    return sent, answers


@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_who_asks_ten_times_its_share_changes_nothing_for_others(tmp_path, path):
    """A client at ten times the limit gets the limit; others miss nothing, and wait no longer."""
    limit, seconds, others, rate = 100, 3, 6, 30
    count = rate * seconds

    def quiet(word: str) -> list[float | None]:
        asking = []
        for n in range(1, others + 1):
            names = [f"{word}{n}-{i}.example" if i % 2 else WEB for i in range(count)]
            asking.append(pool.submit(paced, Client(f"127.0.1.{n}", running.address), names, rate))
        return [each for one in asking for each in one.result()]

    more = "cancel 2s" if path == "chain" else ""
    with FaultyUpstream(good) as upstream, concurrent.futures.ThreadPoolExecutor(9) as pool:
        server, _ = serve(tmp_path, upstream, more, limit=limit)
        with server as running:
            before = quiet("a")
            flood = Client("127.0.0.66", running.address)
            flooding = pool.submit(at_a_rate, flood.sock, 10 * limit, seconds + 0.5)
            after = quiet("b")
            sent, answers = flooding.result()
    assert others * count == len(before) == len(after)
    assert (0, 0) == (before.count(None), after.count(None)), "cut or lost"
    assert sent > 7 * limit * seconds, "the machine is too busy for the flood"
    assert 0.6 * limit * seconds < answers <= limit * (seconds + 1.5) + 20
    first, then = (statistics.median(filter(None, each)) for each in (before, after))
    assert then < 3 * first + 0.005


@pytest.mark.parametrize("path", ["C", "Python"], indirect=True)
def test_hits_of_a_client_over_its_limit(tmp_path, path):
    with FaultyUpstream(good) as upstream:
        server, _ = serve(tmp_path, upstream, rules="exempt 127.0.0.9/32")
        with server as running:
            packet = beside.query("hot.example")
            for host, most in (("127.0.0.9", 200), ("127.0.0.2", 30), ("127.0.0.9", 200)):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.bind((host, 0))
                    sock.connect(running.address)
                    sock.settimeout(0.3)
                    got = {"answer": 0, "tc": 0}
                    for i in range(200):
                        sock.send(i.to_bytes(2, "big") + packet[2:])
                        if i % 8 == 7:
                            time.sleep(0.001)
                    try:
                        while got["answer"] + got["tc"] < 200:
                            got["tc" if sock.recv(4096)[2] & 2 else "answer"] += 1
                    except TimeoutError:
                        pass
                if most == 200:
                    assert got == {"answer": 200, "tc": 0}
                else:
                    assert 20 <= got["answer"] <= most
                    assert 60 <= got["tc"] <= 90  # and as many times nothing


def test_reverse_names_and_name_errors(tmp_path):
    """PTR of what the cluster knows is free; `errors` counts NXDOMAIN of the cluster."""
    with FaultyUpstream(good) as upstream:
        server, _ = serve(tmp_path, upstream, rules="errors")
        with server as running:
            known = "1.0.3.10.in-addr.arpa"
            for _ in range(40):
                said = Client("127.0.0.2", running.address).ask([known], "PTR")
                assert {known: "answer"} == said
            others = [f"{i}.2.0.192.in-addr.arpa" for i in range(40)]
            said = [*Client("127.0.0.2", running.address).ask(others, "PTR").values()]
            assert 20 <= said.count("answer") <= 26
            wrong = [f"x{i}.demo.svc.cluster.local" for i in range(40)]
            for _ in range(2):  # by the chain, and from the table
                said = [*Client("127.0.0.2", running.address).ask(wrong).values()]
                assert said.count("answer") <= 22
            assert {WEB: "answer"} == Client("127.0.0.2", running.address).ask([WEB])


def test_workers_count_together(tmp_path):
    with FaultyUpstream(good) as upstream:
        server, _ = serve(tmp_path, upstream, "multisocket 2")
        with server as running:
            answered, began = 0, time.monotonic()
            for i in range(16):  # each from a port of its own, so by either worker
                names = [f"m{i}x{k}.example" for k in range(5)]
                said = Client("127.0.0.2", running.address).ask(names, wait_s=0.1)
                answered += [*said.values()].count("answer")
            seconds = time.monotonic() - began
            # 20 at one time, and 5 a second while it takes; two buckets would have twice as many.
            assert 20 <= answered <= 20 + 5 * seconds + 1


MISTAKES = {
    "ratelimit": "takes one argument",
    "ratelimit 0": "wants a whole number from 1 to 1000000, got '0'",
    "ratelimit x": "wants a whole number",
    "ratelimit 1 2": "takes one argument",
    "ratelimit 5 {\n burst 0\n}": "from 1 to 1000000",
    "ratelimit 5 {\n ipv4 33\n}": "from 8 to 32",
    "ratelimit 5 {\n ipv6 31\n}": "from 32 to 128",
    "ratelimit 5 {\n slip -1\n}": "from 0 to 1000",
    "ratelimit 5 {\n clients 9\n}": "from 1024",
    "ratelimit 5 {\n exempt\n}": "needs an argument",
    "ratelimit 5 {\n exempt 10.0.0.0/33\n}": "10.0.0.0/33",
    "ratelimit 5 {\n errors all\n}": "takes no argument",
    "ratelimit 5 {\n brust 3\n}": "burst",
    "ratelimit 5 {\n exempt "
    + " ".join(f"10.0.{i}.0/24" for i in range(65))
    + "\n}": "65 networks",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_their_line(text):
    with pytest.raises(ConfigError) as caught:
        compile_text(f". {{\n{text}\n}}", "Corefile", port=53, environ={}, warn=print)
    assert "Corefile:" in str(caught.value)
    assert MISTAKES[text] in str(caught.value)


def test_denials_below_a_name_that_count_are_kept_apart_from_those_that_do_not():
    """A cut that holds a free zone denies nothing for others."""

    async def main() -> None:
        corefile = (
            "example {\nratelimit 1 {\n burst 2\n except a.b.example\n}\n"
            "template ANY ANY {\n rcode NXDOMAIN\n}\n}"
        )
        async with InProcess(corefile, []) as server:
            rcodes = []
            for i in range(6):
                for text in (f"x{i}.example", f"y{i}.a.b.example", f"z{i}.b.example"):
                    reply = await server.ask_chain(beside.query(text), "udp")
                    rcodes.append(None if reply is None else (reply[3] & 15, reply[2] & 2))
            free = rcodes[1::3]
            assert [(rr.NXDOMAIN, 0)] * 6 == free
            assert 2 == sum(each == (rr.NXDOMAIN, 0) for each in rcodes) - 6

    asyncio.run(main())
