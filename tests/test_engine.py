"""engine: what is in the table does not wait for what is not, and the queue of misses is bounded."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
from faultyupstream import A, query
from inprocess import InProcess

from clusterdns import engine
from clusterdns.engine import Engine, WildcardEngine

CORE = ".:53 {\n kubernetes cluster.local {\n  manifests .\n }\n}\n"
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}
SERVICE = {
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
}
WEB = "web.default.svc.cluster.local."
HIT = 0xFFFF  # the ID of queries for WEB


@pytest.fixture(autouse=True, params=["in C", "in Python"])
def packet_path(request, monkeypatch):
    if request.param == "in C" and not engine.HAS_DRAIN:
        pytest.skip("not compiled: apt-get install gcc python3-dev, then pip install -e . again")
    monkeypatch.setattr(engine, "HAS_DRAIN", request.param == "in C")


class Listener:
    """An engine on a socket of its own, and a client beside it, in one thread."""

    def __init__(self, inside: InProcess, address: str = "127.0.0.1") -> None:
        self._sock = bound(address)
        self.client = bound("127.0.0.1")
        self.client.connect(("127.0.0.1", self._sock.getsockname()[1]))
        made: type[Engine] = Engine if address == "127.0.0.1" else WildcardEngine
        self.engine = made(inside.server, self._sock)
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


def run(test: Callable[[Listener], object], address: str = "127.0.0.1") -> None:
    async def main() -> None:
        async with InProcess(CORE, [NAMESPACE, SERVICE]) as inside:
            listener = Listener(inside, address)
            try:
                await test(listener)
            finally:
                listener.close()

    asyncio.run(asyncio.wait_for(main(), 20))


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
            listener.send(f"n{i}.{WEB}", i)
        listener.send(WEB, HIT)
        await until(lambda: len(listener.replies()) == 41)
        assert HIT == listener.order[0]
        assert [*range(40)] == listener.order[1:]
        listener.engine.stop()

    run(test, address)


def test_what_overflows_is_dropped_the_oldest_first(monkeypatch):
    monkeypatch.setattr(engine, "MAX_MISSED", 20)

    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(60):
            listener.send(f"n{i}.{WEB}", i)
        await until(lambda: len(listener.replies()) == 20)
        await asyncio.sleep(0.02)
        assert [*range(40, 60)] == listener.replies()
        assert (40, 0) == (listener.engine.shed, len(listener.engine._missed))
        assert [("clusterdns_shed_queries_total", ("dns://:53",), 40)] == listener.engine.samples()
        listener.send(f"again.{WEB}", 7)  # it goes on as before
        await until(lambda: listener.replies()[-1] == 7)
        listener.engine.stop()

    run(test)


def test_what_has_been_read_is_answered_before_the_end():
    async def test(listener: Listener) -> None:
        await warm(listener)
        for i in range(40):
            listener.send(f"n{i}.{WEB}", i)
        await until(lambda: listener.engine._missed)
        listener.engine.stop()
        assert [*range(40)] == listener.replies()
        await asyncio.sleep(0.02)  # the call that was due finds nothing

    run(test)
