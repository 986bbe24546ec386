"""flight and choice: equal queries that share one, `policy fastest`, servers that change meanwhile.

In this process, against upstream servers on loopback sockets; what the binary makes of all this is
in test_forward.py and test_upstream_faults.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import faultyupstream as faulty
import peers
import pytest
from faultyupstream import FaultyUpstream

from clusterdns.config.compile import compile_text
from clusterdns.forwarding import destinations, flight, lookup
from clusterdns.forwarding.choice import BAND_S, EXPLORE, HEDGE_LEAST_S, Pace, hedge_s, order
from clusterdns.forwarding.upstream import Upstream
from clusterdns.host import addresses, interfaces
from clusterdns.plugins import forward
from clusterdns.plugins.forward import Forward
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Edns, Query, Question
from clusterdns.wire.response import Response


def query_of(
    qname: str = "www.test.", *, qtype: int = rr.A, flags: int = message.RD,
    edns: Edns | None = None, transport: str = "udp", qclass: int = rr.CLASS_IN,
) -> Query:  # fmt: skip
    wire = name.parse(qname)
    do = edns is not None and bool(edns.flags & message.EDNS_DO)
    question = Question(wire, name.fold(wire), qtype, qclass, do, bool(flags & message.CD))
    query = Query(1, flags, question, edns, 50)
    query.transport = transport
    return query


@contextlib.asynccontextmanager
async def started(text: str):
    """Compile a block with one `forward`, start it, and yield it."""
    made = compile_text(f". {{\n{text}\n}}\n", "Corefile", port=53, environ={}, warn=print)
    (plugin,) = made.plugins
    assert isinstance(plugin, Forward)
    await plugin.start(None)
    try:
        yield plugin
    finally:
        await plugin.stop()
        await asyncio.sleep(0.02)  # the servers' threads see connections end


def ask(plugin: Forward, query: Query) -> asyncio.Task[Response]:
    return asyncio.ensure_future(plugin.handle(query, None))


def run(test: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def address_in(response: Response) -> bytes:
    (record,) = response.answer
    return record.rdata


# ---- joining


def test_equal_queries_under_way_are_one():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.1)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                for _ in range(2):
                    replies = await asyncio.gather(*(ask(plugin, query_of()) for _ in range(200)))
                    assert {faulty.address_of("www.test.")} == {address_in(r) for r in replies}
                assert upstream.asked("www.test.") == 2  # the second time it is asked anew
                counts = {metric: value for metric, _, value in plugin.samples()}
                assert counts["clusterdns_forward_joined_total"] == 2 * 199

    run(test)


OTHERS = [
    query_of("ww.test."),
    query_of(qtype=rr.AAAA),
    query_of(qclass=3),
    query_of(flags=0),
    query_of(flags=message.RD | message.CD),
    query_of(edns=Edns(1232, 0, message.EDNS_DO)),
    query_of(transport="tcp"),
]


HEADERS = [message.AD, message.Z, message.RA, message.TC, message.AA]
ALIKE = [
    *(query_of(flags=message.RD | flag) for flag in HEADERS),
    *(query_of(edns=Edns(size, 0, 0)) for size in (0, 512, 1231, 1400, 65535)),
    *(query_of(edns=Edns(1232, 0, flag)) for flag in (1, 0x4000)),
    *(query_of(edns=Edns(1232, 0, 0, struct.pack("!HHQ", 10, 8, i))) for i in range(1000)),
    query_of(edns=Edns(1232, 0, 0, b"\0\x08\0\x07\0\1\x18\0\xc0\0\2")),  # a client subnet
]


def test_what_a_client_may_choose_besides_the_question_makes_no_query_of_its_own():
    """A forger has one ID and port to hit, however many sizes, cookies and flags he sends."""

    async def test() -> None:
        with FaultyUpstream(faulty.late(0.5)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                replies = await asyncio.gather(*(ask(plugin, query) for query in ALIKE))
                assert upstream.total == 1
                assert {faulty.address_of("www.test.")} == {address_in(r) for r in replies}

    run(test)


def test_ad_is_for_who_understands_it():
    """It is always asked for, so that all share one query (RFC 6840 section 5.7)."""
    flags = faulty.QR | faulty.RD | faulty.RA | message.AD

    async def test() -> None:
        with FaultyUpstream(lambda asked: asked.reply(asked.message(flags=flags))) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                for query, is_told in [
                    (query_of(), False),
                    (query_of(flags=message.RD | message.AD), True),
                    (query_of(edns=Edns(1232, 0, message.EDNS_DO)), True),
                ]:
                    response = await ask(plugin, query)
                    assert is_told == bool(response.flags & message.AD)

    run(test)


@pytest.mark.parametrize("proto", ["udp", "tcp"])
@pytest.mark.parametrize("has_question", [True, False])
def test_a_server_that_knows_no_edns_is_asked_without(proto, has_question):
    async def test() -> None:
        fault = faulty.without_edns(has_question=has_question)
        with FaultyUpstream(fault, tcp="as udp") as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                for total in (2, 3):  # then it is known
                    response = await ask(plugin, query_of(transport=proto))
                    assert faulty.address_of("www.test.") == address_in(response)
                    assert total == upstream.total
                upstream.fault = faulty.says(1)
                assert rr.FORMERR == (await ask(plugin, query_of())).rcode

    run(test)


def test_formerr_that_has_another_reason_is_passed_on():
    async def test() -> None:
        with FaultyUpstream(faulty.says(1)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                assert rr.FORMERR == (await ask(plugin, query_of())).rcode
                assert upstream.total == 1, "its OPT says that it knows EDNS"
            upstream.fault = lambda asked: asked.reply(
                struct.pack("!HHHHHH", asked.ident, 0x8181, 1, 0, 0, 0) + asked.question
            )
            async with started(f"forward . {upstream.address}") as plugin:
                for total in (3, 5):  # whether it knows EDNS is not known
                    assert rr.FORMERR == (await ask(plugin, query_of())).rcode
                    assert total == upstream.total

    run(test)


@pytest.mark.parametrize("tcp", ["as udp", "refused"])
@pytest.mark.parametrize("size", [0, 1232, 4096])
def test_who_takes_more_than_we_ask_for_over_udp_gets_the_whole_of_it(tcp, size):
    async def test() -> None:
        with FaultyUpstream(faulty.long(100), tcp=tcp) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                edns = Edns(size, 0, 0) if size else None
                response = await ask(plugin, query_of(edns=edns))
                is_whole = size == 4096 and tcp != "refused"
                assert (100 if is_whole else 0) == len(response.answer)
                assert is_whole != bool(response.flags & message.TC)
                assert is_whole == bool(upstream.over_tcp)

    run(test)


def test_what_may_be_answered_differently_is_asked_by_itself():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.2)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                tasks = [ask(plugin, query) for query in [query_of(), *OTHERS] * 2]
                await asyncio.sleep(0)
                assert plugin._pool is not None
                assert plugin._pool.joined == len(OTHERS) + 1
                await asyncio.wait(tasks)
                assert upstream.total == len(OTHERS) + 1

    run(test)


def test_probes_of_a_loop_are_not_joined_as_long_as_they_may_be_some():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.2)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                for total in (5, 5 + flight.MAX_PROBES):
                    probes = [query_of(qtype=rr.HINFO) for _ in range(5 if total == 5 else 999)]
                    await asyncio.gather(*(ask(plugin, probe) for probe in probes))
                    assert upstream.total == total

    run(test)


def test_everybody_gets_the_name_as_he_spells_it():
    spellings = ["www.test.", "WWW.test.", "wWw.TeSt.", "www.test."]

    async def test() -> None:
        with FaultyUpstream(faulty.late(0.05)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                asked = [query_of(spelling) for spelling in spellings]
                replies = await asyncio.gather(*(ask(plugin, query) for query in asked))
                assert upstream.total == 1
                for spelling, reply in zip(spellings, replies, strict=True):
                    assert name.parse(spelling) == reply.answer[0].owner

    run(test)


def test_a_client_that_goes_away_leaves_the_others_alone():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.1)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                tasks = [ask(plugin, query_of()) for _ in range(3)]
                await asyncio.sleep(0.02)
                tasks[0].cancel()
                replies = await asyncio.gather(*tasks[1:])
                assert all(reply.answer for reply in replies)
                assert (upstream.total, plugin._under_way) == (1, 0)
                assert plugin._pool is not None
                assert not plugin._pool._flights

    run(test)


def test_a_failure_is_everybodys_and_the_next_one_is_asked_anew():
    async def test() -> None:
        with FaultyUpstream(faulty.silent) as upstream:
            options = "{\n read_timeout 100ms\n max_connect_attempts 1\n}"
            async with started(f"forward . {upstream.address} {options}") as plugin:
                replies = await asyncio.gather(*(ask(plugin, query_of()) for _ in range(9)))
                error = f"read udp {upstream.address}: i/o timeout"
                assert {(rr.SERVFAIL, True, error)} == {(r.rcode, r.bare, r.error) for r in replies}
                assert upstream.asked("www.test.") == 1
                upstream.fault = faulty.good
                assert (await ask(plugin, query_of())).answer

    run(test)


def test_no_reply_frees_more_than_so_many(monkeypatch):
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.1)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                replies = await asyncio.gather(*(ask(plugin, query_of()) for _ in range(10)))
                assert (10, 3) == (len(replies), upstream.total)

    monkeypatch.setattr(flight, "MAX_WAITERS", 4)
    run(test)


def test_joined_queries_count_as_concurrent():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.1)) as upstream:
            async with started(f"forward . {upstream.address} {{\n max_concurrent 3\n}}") as plugin:
                replies = await asyncio.gather(*(ask(plugin, query_of()) for _ in range(5)))
                assert Counter({rr.NOERROR: 3, rr.REFUSED: 2}) == Counter(r.rcode for r in replies)

    run(test)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_worker_that_stops_leaves_nobody_waiting(kind):
    async def test() -> None:
        proto = "udp" if kind == socket.SOCK_DGRAM else "tcp"
        with socket.socket(type=kind) as mute:
            mute.bind(("127.0.0.1", 0))
            if proto == "tcp":
                mute.listen()
            async with started(f"forward . 127.0.0.1:{mute.getsockname()[1]}") as plugin:
                task = ask(plugin, query_of(transport=proto))
                await asyncio.sleep(0.05)
                assert not task.done()
            began = time.monotonic()
            assert (await task).rcode == rr.SERVFAIL
            assert time.monotonic() - began < 0.5

    run(test)


# ---- replies that are none


def test_another_question_is_waited_out():
    async def test() -> None:
        kinds = ["another name", "another type", "another opcode", "QR 0", "two questions"]
        with FaultyUpstream(faulty.forged(5, 0.1, kinds)) as upstream:
            async with started(f"forward . {upstream.address}") as plugin:
                assert faulty.address_of("www.test.") == address_in(await ask(plugin, query_of()))
                (count,) = [
                    value
                    for metric, labels, value in plugin.samples()
                    if metric == "clusterdns_forward_mismatches_total"
                    and labels == (upstream.address,)
                ]
                assert count > 0

    run(test)


def test_a_reply_that_is_lost_among_forged_ones_is_asked_for_again():
    """And the server is not thought to have failed: a forger would decide who is asked."""
    forge_all = faulty.forged(3, 0.1, ["another name"])
    is_lost = True

    def lose_the_first(asked: faulty.Asked) -> None:
        nonlocal is_lost
        if is_lost:
            asked.reply(
                asked.message(question=faulty.question_of("evil.test."), answer=faulty.EVIL)
            )
            is_lost = False
        else:
            forge_all(asked)

    async def test() -> None:
        with FaultyUpstream(lose_the_first) as upstream:
            text = f"forward . {upstream.address} {{\n read_timeout 300ms\n}}"
            async with started(text) as plugin:
                assert faulty.address_of("www.test.") == address_in(await ask(plugin, query_of()))
                assert 2 == upstream.asked("www.test.")
                assert [0] == [each.fails for each in plugin._pool.upstreams]  # type: ignore[union-attr]

    run(test)


# ---- policy fastest


def paces(*seconds: float | None) -> list[Pace]:
    made = [Pace() for _ in seconds]
    for pace, value in zip(made, seconds, strict=True):
        pace.seconds = value
    return made


def test_a_pace_is_smoothed_and_lateness_only_makes_it_worse():
    (pace,) = paces(None)
    pace.replied(0.08)
    assert pace.seconds == 0.08
    pace.replied(0.16)
    assert pace.seconds == pytest.approx(0.09)
    pace.late(0.01)
    assert pace.seconds == pytest.approx(0.09)
    pace.late(1.09)
    assert pace.seconds == pytest.approx(0.59)
    for _ in range(60):
        pace.replied(0.01)
    assert pace.seconds == pytest.approx(0.01, abs=0.001)


def test_the_best_says_how_long_is_too_long():
    assert hedge_s(paces(None, 3.0)) == HEDGE_LEAST_S
    assert hedge_s(paces(0.01, 3.0)) == HEDGE_LEAST_S
    assert hedge_s(paces(0.1, 3.0)) == pytest.approx(0.4)
    assert hedge_s([]) == HEDGE_LEAST_S


def test_the_fastest_band_shares_the_load_and_the_others_follow_by_pace():
    rng = random.Random(5)
    near = 0.02 + BAND_S
    known = paces(0.9, near, 0.02, 0.4)
    found = [order("fastest", 4, 0, rng, known) for _ in range(400)]
    firsts = Counter(one[0] for one in found)
    assert set(firsts) == {1, 2}
    assert min(firsts.values()) > 150
    assert all(one[2:] == [3, 0] for one in found)
    # Nothing is known of the second: it is tried before the slow ones.
    assert all(order("fastest", 3, 0, rng, paces(0.5, None, 0.7))[0] == 1 for _ in range(20))


def test_a_silent_server_costs_one_hedge_and_is_left():
    async def test() -> None:
        with FaultyUpstream(faulty.silent) as dead, FaultyUpstream(faulty.good) as well:
            servers = f"{dead.address} {well.address}"
            async with started(f"forward . {servers} {{\n policy fastest\n}}") as plugin:
                took = []
                for i in range(40):
                    began = time.monotonic()
                    assert (await ask(plugin, query_of(f"n{i}.test."))).answer
                    took.append(time.monotonic() - began)
                assert max(took) < HEDGE_LEAST_S + 0.2
                assert sum(1 for one in took if one > HEDGE_LEAST_S / 2) <= 5
                assert plugin._pool is not None
                assert plugin._pool.hedges[dead.address] <= 5

    run(test)


@pytest.mark.parametrize("rcode", [faulty.SERVFAIL, faulty.REFUSED])
def test_a_lame_server_is_bettered_by_one_other(rcode):
    async def test() -> None:
        with contextlib.ExitStack() as stack:
            lame = stack.enter_context(FaultyUpstream(faulty.says(rcode)))
            well = stack.enter_context(FaultyUpstream(faulty.good))
            text = f"forward . {lame.address} {well.address} {{\n policy fastest\n}}"
            async with started(text) as plugin:
                for i in range(50):
                    assert (await ask(plugin, query_of(f"n{i}.test."))).answer
                assert lame.total < 15  # it counts as slow, and is asked to find out only
        with contextlib.ExitStack() as stack:
            bad = [stack.enter_context(FaultyUpstream(faulty.says(rcode))) for _ in range(3)]
            servers = " ".join(upstream.address for upstream in bad)
            async with started(f"forward . {servers} {{\n policy fastest\n}}") as plugin:
                assert (await ask(plugin, query_of())).rcode == rcode
                assert sum(upstream.total for upstream in bad) in (2, 3)  # 3 when exploring

    run(test)


def test_exploring_costs_nobody_time_and_finds_who_has_become_fast():
    async def test() -> None:
        with FaultyUpstream(faulty.late(0.3)) as slow, FaultyUpstream(faulty.good) as well:
            servers = f"{slow.address} {well.address}"
            async with started(f"forward . {servers} {{\n policy fastest\n}}") as plugin:
                assert plugin._pool is not None
                plugin._pool.random = random.Random(1)
                for i in range(5):
                    await ask(plugin, query_of(f"a{i}.test."))
                seen, began = slow.total, time.monotonic()
                for i in range(int(5 / EXPLORE)):
                    await ask(plugin, query_of(f"b{i}.test."))
                assert slow.total > seen
                assert time.monotonic() - began < 3
                slow.fault = faulty.good
                deadline, i = time.monotonic() + 15, 0
                while max(u.pace.seconds or 9 for u in plugin._pool.upstreams) > BAND_S:
                    assert time.monotonic() < deadline
                    i += 1
                    await ask(plugin, query_of(f"c{i}.test."))

    run(test)


def test_where_all_are_down_and_it_fails_fast_nobody_waits():
    async def test() -> None:
        with FaultyUpstream(faulty.silent) as upstream:
            options = "read_timeout 100ms\n failfast_all_unhealthy_upstreams\n max_fails 1"
            async with started(f"forward . {upstream.address} {{\n {options}\n}}") as plugin:
                assert plugin._pool is not None
                (server,) = plugin._pool.upstreams
                deadline = time.monotonic() + 10
                while server.fails <= 1:
                    assert time.monotonic() < deadline
                    await ask(plugin, query_of())
                began = time.monotonic()
                assert (await ask(plugin, query_of())).error == "no healthy proxies"
                assert time.monotonic() - began < 0.005
                upstream.fault = faulty.good
                began = time.monotonic()
                while (await ask(plugin, query_of())).bare:  # noqa: ASYNC110 - that is the question
                    await asyncio.sleep(0.01)
                assert time.monotonic() - began < 1

    run(test)


# ---- a file of servers


@contextlib.contextmanager
def answering(host: str, port: int, last: int, delay_s: float = 0.0) -> Iterator[Counter[str]]:
    """Run a UDP server that gives every name the address 192.0.2.``last``; yield what it counts."""
    counts = Counter[str]()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))

        def serve() -> None:
            while True:
                query, client = sock.recvfrom(4096)
                if query == b"stop":
                    return
                counts["queries"] += 1
                time.sleep(delay_s)
                rdata = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2" + bytes((last,))
                end = query.index(b"\0", 12) + 5
                sock.sendto(
                    query[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + query[12:end] + rdata,
                    client,
                )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield counts
        finally:
            with socket.socket(type=socket.SOCK_DGRAM) as stopper:
                stopper.sendto(b"stop", sock.getsockname())
            thread.join(5)


def write(path: Path, *hosts: str) -> None:
    """Replace a file at once, as kubelet does."""
    made = path.with_suffix(".new")
    made.write_text("".join(f"nameserver {host}\n" for host in hosts))
    made.replace(path)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_file_of_servers_is_taken_anew(monkeypatch, tmp_path, caplog):
    port, path = peers.free_port(), tmp_path / "resolv.conf"
    monkeypatch.setitem(destinations._PORTS, destinations.DNS, port)
    monkeypatch.setattr(forward, "RECHECK_S", 0.02)

    def texts(plugin: Forward) -> list[str]:
        assert plugin._pool is not None
        return [upstream.host for upstream in plugin._pool.upstreams]

    async def test() -> None:
        write(path, "127.0.0.1", "127.0.0.2")
        text = f"forward . {path} 127.0.0.4:{port} {{\n policy sequential\n}}"
        with (
            answering("127.0.0.1", port, 1, 0.2) as first,
            answering("127.0.0.2", port, 2) as second,
        ):
            async with started(text) as plugin:
                assert texts(plugin) == ["127.0.0.1", "127.0.0.2", "127.0.0.4"]
                assert plugin._pool is not None
                kept: Upstream = plugin._pool.upstreams[1]
                kept.health.fails = 1
                flying = ask(plugin, query_of("flying.test."))
                await until(lambda: first["queries"])
                write(path, "127.0.0.2", "127.0.0.3")
                await until(lambda: texts(plugin) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"])
                assert plugin._pool.upstreams[0] is kept  # with its health and counts
                assert kept.fails == 1
                assert address_in(await flying) == b"\xc0\0\2\1"  # lost by nobody
                assert address_in(await ask(plugin, query_of("a.test."))) == b"\xc0\0\2\2"
                assert (first["queries"], second["queries"]) == (1, 1)
                durations = [s for s in plugin.samples() if s[0].startswith("proxy_request")]
                assert len(durations) == 2  # what was counted of the first stays

                path.write_text("search example.com\n")
                await until(lambda: "names no server" in caplog.text)
                path.unlink()
                await until(lambda: "No such file" in caplog.text)
                assert texts(plugin) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
                write(path, "127.0.0.1")
                await until(lambda: texts(plugin) == ["127.0.0.1", "127.0.0.4"])
                assert address_in(await ask(plugin, query_of("b.test."))) == b"\xc0\0\2\1"

    run(test)
    assert caplog.text.count("names no server") == 1


def test_a_file_that_names_nobody_yet_is_no_mistake(monkeypatch, tmp_path):
    port, path = peers.free_port(), tmp_path / "resolv.conf"
    monkeypatch.setitem(destinations._PORTS, destinations.DNS, port)
    monkeypatch.setattr(forward, "RECHECK_S", 0.02)
    path.write_text("")

    async def test() -> None:
        with answering("127.0.0.1", port, 1):
            async with started(f"forward . {path}") as plugin:
                response = await ask(plugin, query_of())
                assert (response.rcode, response.bare) == (rr.SERVFAIL, True)
                write(path, "127.0.0.1")
                await until(lambda: plugin._pool and plugin._pool.upstreams)
                assert (await ask(plugin, query_of())).answer

    run(test)


def test_the_binary_follows_a_file(tmp_path):
    """Port 53 of two loopback addresses, where that is allowed."""
    path = tmp_path / "resolv.conf"
    with contextlib.ExitStack() as stack:
        try:
            for host, last in (("127.0.53.1", 1), ("127.0.53.2", 2)):
                stack.enter_context(answering(host, 53, last))
        except OSError as error:
            pytest.skip(f"port 53 of {host} cannot be had: {error.strerror}")
        write(path, "127.0.53.1")
        server = stack.enter_context(peers.clusterdns(f". {{\n forward . {path}\n}}\n", tmp_path))

        def told() -> bytes:
            reply = peers.ask_udp(server.address, faulty.query("www.test.", os.getpid() & 0xFFFF))
            assert reply is not None
            return reply[-4:]

        assert told() == b"\xc0\0\2\1"
        write(path, "127.0.53.2")
        deadline = time.monotonic() + 3 * forward.RECHECK_S
        while told() != b"\xc0\0\2\2":
            assert time.monotonic() < deadline
            time.sleep(0.1)


# ---- words of TO


@pytest.mark.parametrize(
    ("text", "is_warned"),
    [
        (".:5300 {\n forward . 127.0.0.1:5300\n}", True),
        (".:5300 {\n forward . 127.0.0.53:5300 192.0.2.1\n}", True),
        (".:5300 {\n forward . [::1]:5300\n}", True),
        (".:5300 {\n forward . 127.0.0.1:53\n}", False),
        (".:5300 {\n forward . 192.0.2.1:5300\n}", False),
        (".:5300 {\n bind 127.0.0.1\n forward . 127.0.0.1:5300\n}", True),
        (".:5300 {\n bind 127.0.0.1\n forward . 127.0.0.2:5300\n}", False),
    ],
)
def test_servers_that_are_ourselves_are_named(text, is_warned, caplog):
    compile_text(text + "\n", "Corefile", port=53, environ={}, warn=print)
    assert is_warned == ("is this server: what is forwarded there comes back" in caplog.text)


def test_an_address_of_this_host_is_ourselves_too(caplog):
    for address in interfaces.non_loopback()[:1]:
        text = f". {{\n forward . {addresses.host_and_port(address, 53)}\n}}\n"
        compile_text(text, "Corefile", port=53, environ={}, warn=print)
        assert f"{addresses.host_and_port(address, 53)} is this server" in caplog.text


def test_host_names_are_looked_up_where_the_options_say(tmp_path):
    with FaultyUpstream(faulty.good) as resolver:
        octets = faulty.address_of("dns.test.")
        text = (
            f". {{\n forward . dns.test:5300 tls://dns.test%name.test {{\n"
            f"  resolver {resolver.address}\n }}\n}}\n"
        )
        (plugin,) = compile_text(text, "Corefile", port=53, environ={}, warn=print).plugins
        assert isinstance(plugin, Forward)
        host = socket.inet_ntoa(octets)
        assert (host, 5300, "dns", "") == plugin._destinations[0]
        assert (host, 853, "tls", "name.test") in plugin._destinations


def test_a_resolver_that_says_nothing_is_a_mistake_in_time(monkeypatch):
    monkeypatch.setattr(lookup, "LOOKUP_TIMEOUT_S", 0.2)
    with FaultyUpstream(faulty.silent) as one, FaultyUpstream(faulty.says(3)) as other:
        options = f"{{\n resolver {one.address} {other.address}\n}}"
        text = f". {{\n forward . dns.test {options}\n}}\n"
        began = time.monotonic()
        with pytest.raises(Exception, match=r"^Corefile:2: forward: 'dns.test' is no address"):
            compile_text(text, "Corefile", port=53, environ={}, warn=print)
        assert time.monotonic() - began < 1
