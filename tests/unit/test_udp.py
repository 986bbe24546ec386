"""engine: what is in the table does not wait for what is not, and the queue of misses is bounded."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest
from faultyupstream import A, query
from inprocess import InProcess, in_packet_loop, replace_method

from clusterdns.serving import native, packetloop, udp
from clusterdns.serving.udp import Engine

CORE = ".:53 {\n kubernetes cluster.local {\n  manifests .\n }\n}\n"
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}
SERVICE = {
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
WEB = "web.default.svc.cluster.local."
HIT = 0xFFFF  # the ID of queries for WEB
MISS = "example."  # in no zone: answers below it are never kept


@pytest.fixture(
    autouse=True,
    params=["in C", "in C, by asyncio's loop", "in Python", "in Python, by asyncio's loop"],
)
def packet_path(request, monkeypatch):
    if "in Python" in request.param:
        monkeypatch.setattr(native, "compiled", None)
    elif native.compiled is None:
        pytest.skip("not compiled: apt-get install gcc python3-dev, then pip install -e . again")
    if "asyncio" in request.param:
        monkeypatch.setattr("inprocess.PacketLoop", asyncio.SelectorEventLoop)
    return request.param


class Listener:
    """An engine on a socket of its own, and a client beside it, in one thread."""

    def __init__(self, inside: InProcess, address: str = "127.0.0.1") -> None:
        self._sock = bound(address)
        self.client = bound("127.0.0.1")
        self.client.connect(("127.0.0.1", self._sock.getsockname()[1]))
        self.engine = Engine(inside.server, self._sock)
        self.order: list[int] = []  # the IDs of the replies as they came

    def send(self, qname: str, ident: int) -> None:
        self.client.send(query(qname, ident, A))

    def replies(self) -> list[int]:
        """Return the IDs of what has come so far."""
        while True:
            try:
                self.order.append(int.from_bytes(self.client.recv(512)[:2]))
            except BlockingIOError:
                return self.order

    def close(self) -> None:
        self._sock.close()
        self.client.close()


def bound(address: str) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    sock.setblocking(False)
    sock.bind((address, 0))
    return sock


in_a_worker = pytest.mark.parametrize("packet_path", ["in C", "in Python"], indirect=True)


def run(test: Callable[[Listener], object], address: str = "127.0.0.1") -> None:
    async def main() -> None:
        async with InProcess(CORE, [NAMESPACE, SERVICE]) as inside:
            listener = Listener(inside, address)
            try:
                await test(listener)
            finally:
                listener.close()

    in_packet_loop(asyncio.wait_for(main(), 20))


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


async def warm(listener: Listener) -> None:
    """Have WEB in the table."""
    listener.engine.start()
    listener.send(WEB, HIT)
    await until(listener.replies)
    listener.order.clear()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_hit_overtakes_the_misses_before_it(address):
    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(40):
            listener.send(f"n{i}.{MISS}", i)
        listener.send(WEB, HIT)
        await until(lambda: len(listener.replies()) == 41)
        assert HIT == listener.order[0]
        assert [*range(40)] == listener.order[1:]
        listener.engine.stop()

    run(test, address)


def test_what_overflows_is_dropped_the_oldest_first(monkeypatch):
    monkeypatch.setattr(udp, "MAX_MISSED", 20)

    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(60):
            listener.send(f"n{i}.{MISS}", i)
        await until(lambda: len(listener.replies()) == 20)
        await asyncio.sleep(0.02)
        assert [*range(40, 60)] == listener.replies()
        assert (40, 0) == (listener.engine.shed, len(listener.engine._missed))
        shed = ("clusterdns_shed_queries_total", ("dns://:53",), 40)
        assert shed in listener.engine.samples()
        listener.send(f"again.{WEB}", 7)  # it goes on as before
        await until(lambda: listener.replies()[-1] == 7)
        listener.engine.stop()

    run(test)


def test_clients_take_turns(monkeypatch):
    """Who asks much waits for himself, and loses what overflows."""
    monkeypatch.setattr(udp, "MAX_MISSED", 50)

    async def test(listener: Listener) -> None:
        await warm(listener)
        port = listener.client.getpeername()[1]
        with bound("127.0.0.2") as other:
            for i in range(55):
                listener.send(f"n{i}.{MISS}", i)
            for i in range(3):
                other.sendto(query(f"o{i}.{WEB}", 100 + i, A), ("127.0.0.1", port))
            await until(lambda: listener.engine.shed)
            await until(lambda: len(listener.replies()) == 47)
            assert [100, 101, 102] == [int.from_bytes(other.recv(512)[:2]) for _ in range(3)]
            assert 8 == listener.engine.shed
        listener.engine.stop()

    run(test)


def test_a_quiet_client_is_not_behind_a_flood():
    async def test(listener: Listener) -> None:
        await warm(listener)
        answered: list[str] = []
        as_ever = listener.engine.server.resolve

        def resolve(packet, client, *others, **more):
            answered.append(client[0])
            return as_ever(packet, client, *others, **more)

        replace_method(listener.engine.server, "resolve", resolve)
        port = listener.client.getpeername()[1]
        with bound("127.0.0.2") as other:
            for i in range(40):
                listener.send(f"n{i}.{MISS}", i)
            other.sendto(query(f"o.{MISS}", 100, A), ("127.0.0.1", port))
            await until(lambda: len(answered) == 41)
        assert answered.index("127.0.0.2") < 2 * udp.MISSES
        listener.engine.stop()

    run(test)


def test_hits_are_read_however_long_misses_take():
    """Else a few costly names, asked for often enough, fill the socket and no hit gets in."""

    async def test(listener: Listener) -> None:
        await warm(listener)
        server, spent_s, resolved = listener.engine.server, 0.0, 0
        clock, as_ever = server.clock, server.resolve
        server.clock = lambda: clock() + spent_s

        def resolve(*query, **more):
            nonlocal spent_s, resolved
            spent_s, resolved = spent_s + 0.05, resolved + 1
            return as_ever(*query, **more)

        replace_method(server, "resolve", resolve)
        for i in range(40):
            listener.send(f"n{i}.{MISS}", i)
        for _ in range(800):
            listener.send(WEB, HIT)
        await until(lambda: listener.replies().count(HIT) == 800)
        assert resolved <= 5, "a few before the next reads, not one for each batch"
        listener.engine.stop()

    run(test)


def test_what_has_waited_for_longer_than_clients_do_is_dropped():
    async def test(listener: Listener) -> None:
        await warm(listener)
        server, late_s = listener.engine.server, 0.0
        clock = server.clock
        server.clock = lambda: clock() + late_s
        for i in range(40):
            listener.send(f"n{i}.{MISS}", i)
        await until(lambda: listener.engine._missed)
        already, late_s = len(listener.replies()), udp.MAX_WAIT_S + 0.1
        await until(lambda: not listener.engine._missed)
        await asyncio.sleep(0.02)
        assert 40 - already == listener.engine.shed > 0
        assert already == len(listener.replies())
        listener.engine.stop()

    run(test)


def test_what_has_been_read_is_answered_before_the_end():
    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(40):
            listener.send(f"n{i}.{MISS}", i)
        await until(lambda: listener.engine._missed)
        listener.engine.stop()
        assert [*range(40)] == listener.replies()
        await asyncio.sleep(0.02)  # the call that was due finds nothing

    run(test)


@in_a_worker
def test_what_the_wait_answers_is_counted_with_its_time(packet_path):
    async def test(listener: Listener) -> None:
        await warm(listener)
        tally = listener.engine.server.tally
        already = sum(tally.batches.counts)
        calls = before(listener.engine, "_read_batch" if "Python" in packet_path else "_drain")
        began = time.monotonic()
        for _ in range(50):
            listener.send(WEB, HIT)
            await asyncio.sleep(0.001)
        await until(lambda: len(listener.replies()) == 50)
        assert not calls, "asyncio has been asked"
        listener.engine.add_up()
        listener.engine.add_up()
        assert 50 == sum(tally.batches.counts) - already
        assert 0 < tally.batches.total < time.monotonic() - began
        listener.engine.stop()

    run(test)


def before(owner: object, name: str) -> list[None]:
    """Have calls of a method noted that has been handed out already: as a reader it is bound."""
    calls: list[None] = []
    reads = getattr(owner, name)
    loop = asyncio.get_running_loop()

    def noted() -> None:
        calls.append(None)
        reads()

    loop.add_reader(owner._sock, noted)  # type: ignore[attr-defined]
    return calls


@in_a_worker
def test_timers_threads_and_other_sockets_end_the_wait(packet_path):
    async def test(listener: Listener) -> None:
        await warm(listener)
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                listener.client.send(query(WEB, HIT, A))

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            for _ in range(20):
                began = time.monotonic()
                await asyncio.sleep(0.01)
                await loop.run_in_executor(None, time.sleep, 0.01)
                reader, writer = socket.socketpair()
                with reader, writer:
                    reader.setblocking(False)
                    loop.call_later(0.01, writer.send, b"x")
                    assert b"x" == await loop.sock_recv(reader, 1)
                assert 0.03 <= time.monotonic() - began < 1
        finally:
            stop.set()
            flooding.join()
        listener.engine.stop()

    run(test)


@in_a_worker
def test_a_reader_that_fails_leaves_the_rest_to_asyncio(packet_path, caplog):
    async def test(listener: Listener) -> None:
        await warm(listener)
        loop = asyncio.get_running_loop()
        loop.packets.readers[listener.engine.number] = ()
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                listener.send(WEB, HIT)
                await asyncio.sleep(0.01)
        assert 3 == len(listener.replies())
        assert {} == loop.packets.readers
        assert 1 == sum("packet loop" in record.message for record in caplog.records)
        listener.engine.stop()

    run(test)


def test_what_the_wait_leaves_is_answered(packet_path):
    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(200):
            listener.send(f"n{i}.{MISS}" if i % 3 else WEB, i)
        await asyncio.sleep(0.2)
        assert [*range(200)] == sorted(listener.replies())
        for i in range(20):
            listener.send(f"m{i}.{WEB}", i)
            await asyncio.sleep(0.005)
        assert 220 == len(listener.replies())
        listener.engine.stop()

    run(test)


def test_equal_misses_in_line_are_resolved_once(packet_path):
    """As when the answers of hot names end: else each in line costs as much as the first."""

    async def test(listener: Listener) -> None:
        await warm(listener)
        server, seen = listener.engine.server, []
        resolve = server.resolve

        def resolved(packet, *rest, **more):
            seen.append(packet[12:])
            return resolve(packet, *rest, **more)

        replace_method(server, "resolve", resolved)
        server.table.clear()
        for i in range(300):
            listener.send(WEB if i % 2 else f"n{i % 5}.{WEB}", i)
        await until(lambda: len(listener.replies()) == 300)
        assert [*range(300)] == sorted(listener.order)
        assert len(seen) < 30, "MISSES at once, and names asked for twice until they are remembered"
        listener.engine.stop()

    run(test)


def test_who_has_stopped_is_not_read(packet_path):
    async def test(listener: Listener) -> None:
        await warm(listener)
        listener.engine.stop()
        listener.send(WEB, HIT)
        await asyncio.sleep(0.05)
        assert [] == listener.replies()

    run(test)


@in_a_worker
def test_what_a_reader_schedules_is_not_kept_waiting(packet_path):
    async def test(listener: Listener) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        schedule = [
            lambda: loop.call_soon(done.set),
            lambda: loop.call_later(0.01, done.set),
            lambda: loop.create_task(set_(done)),
        ]

        async def set_(event: asyncio.Event) -> None:
            event.set()

        def read() -> None:
            listener._sock.recv(512)
            schedule[0]()

        packetloop.register(listener._sock, read)
        began = time.monotonic()
        for each in list(schedule):
            schedule[0] = each
            done.clear()
            listener.send(WEB, HIT)
            async with asyncio.timeout(5):
                await done.wait()
        assert time.monotonic() - began < 1
        packetloop.unregister(listener._sock)

    run(test)


@in_a_worker
def test_a_reader_in_python_that_fails_once_costs_the_others_nothing(packet_path, caplog):
    async def test(listener: Listener) -> None:
        await warm(listener)
        other = bound("127.0.0.1")
        told = [OSError(28, "no space"), None]

        def read() -> None:
            other.recv(512)
            error = told.pop(0)
            if error is not None:
                raise error

        packetloop.register(other, read)
        attended = {*asyncio.get_running_loop().packets.readers}
        for i in range(2):
            listener.client.sendto(b"x", other.getsockname())
            listener.send(f"n{i}.{MISS}", i)  # left over in the same round
            await asyncio.sleep(0.05)
        assert [0, 1] == listener.replies()
        assert [] == told
        assert attended == {*asyncio.get_running_loop().packets.readers}
        assert 1 == sum("packet loop" in record.message for record in caplog.records)
        packetloop.unregister(other)
        other.close()
        listener.engine.stop()

    run(test)
