"""loop: whether a probe comes back is found out, and found out again; nothing ever ends for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError, UpstreamError
from clusterdns.forwarding.upstream import Upstream, UpstreamOptions
from clusterdns.plugins import loop
from clusterdns.plugins.loop import Loop
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response, failure, render_reply

CORE = "example.org {\n bind 127.0.0.1\n loop\n whoami\n}\n"
NXDOMAIN = Response(rr.NXDOMAIN)
SERVFAIL = failure(rr.SERVFAIL)


def make(corefile: str = CORE) -> Loop:
    """Return the plugin of a Corefile."""
    plugins = compile_text(corefile, "Corefile", port=53, environ={}, warn=print).plugins
    return next(plugin for plugin in plugins if isinstance(plugin, Loop))


class Listener(asyncio.DatagramProtocol):
    """The block's listener: `loop`, and a `forward` that sends back to itself while ``loops``."""

    def __init__(self, plugin: Loop) -> None:
        self.plugin = plugin
        self.loops = True
        self.queries = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queries += 1
        task = asyncio.get_running_loop().create_task(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, addr: tuple[str, int]) -> None:
        query = reading.read_query(data)
        assert isinstance(query, Query)
        assert query.question is not None
        query.client = addr
        response = self.plugin.answer(query.question, lambda _question: NXDOMAIN)
        if response is None:
            response = await self.plugin.handle(query, self._forward)
        self.transport.sendto(render_reply(query, response, 512), addr)

    async def _forward(self, query: Query) -> Response:
        assert query.question is not None
        if self.plugin._outside.is_broken(query.question):
            return SERVFAIL
        if not self.loops:
            return NXDOMAIN
        try:
            asked = Upstream("127.0.0.1", self.port, UpstreamOptions(read_timeout_s=1))
            reply = await asked.ask(asked.begin(query.question, message.RD, None), "udp")
        except UpstreamError:
            return SERVFAIL
        return Response(reply.rcode)


@contextlib.asynccontextmanager
async def listening(plugin: Loop) -> AsyncIterator[Listener]:
    listener = Listener(plugin)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: listener, local_addr=("127.0.0.1", 0)
    )
    plugin._block.ports = (listener.port,)
    try:
        yield listener
    finally:
        await plugin.stop()
        transport.close()


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(loop, "RETEST_S", 0.02)
    monkeypatch.setattr(loop, "RETRY_S", 0.02)


def run(test: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def errors(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_loop_is_found_logged_once_and_heals(caplog):
    caplog.set_level(logging.INFO)
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            await plugin.start(None)
            await until(lambda: plugin._outside.is_looping)
            seen = listener.queries
            assert seen <= 4  # the probe, and its way through the loop until the third time
            await until(lambda: listener.queries >= seen + 9)  # tested three times more
            assert len(errors(caplog)) == 1
            listener.loops = False
            await until(lambda: plugin._task.done())
            assert not plugin._outside.is_looping
            assert "loop is gone" in caplog.messages[-1]

    run(test)
    (line,) = errors(caplog)
    assert line.startswith("plugin/loop: Loop (127.0.0.1:")
    assert ' -> 127.0.0.1:53) detected for zone "example.org."' in line


def test_without_a_loop_one_probe_is_enough(caplog):
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            await plugin.start(None)
            await until(lambda: plugin._task.done())
            assert (1, False) == (listener.queries, plugin._outside.is_looping)

    run(test)
    assert [] == errors(caplog)


def test_a_loop_that_closes_later_is_found_by_what_comes_back(caplog, monkeypatch):
    """The question comes back while it is out: as often as `forward` joins it, which is once."""
    monkeypatch.setattr(loop, "DOUBT_S", 0.02)
    caplog.set_level(logging.INFO)
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            for times in (1, 2):  # found, healed, found again
                if times == 1:
                    await plugin.start(None)
                await until(lambda: plugin._task.done())
                plugin._quiet_until = 0
                listener.loops = True
                release = asyncio.Event()
                client = asyncio.create_task(plugin.handle(asked("www."), waiting(release)))
                await asyncio.sleep(0)
                again = asyncio.create_task(plugin.handle(asked("www."), waiting(release)))
                await until(lambda: plugin._outside.is_looping)
                release.set()
                assert [NXDOMAIN, NXDOMAIN] == await asyncio.gather(client, again)
                assert times == len(errors(caplog))
                listener.loops = False
                await until(lambda: plugin._task.done())
                assert not plugin._outside.is_looping

    run(test)


def test_what_comes_again_and_is_answered_in_time_is_no_reason_to_test(monkeypatch):
    monkeypatch.setattr(loop, "DOUBT_S", 0.05)
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            await plugin.start(None)
            await until(lambda: plugin._task.done())
            seen, release = listener.queries, asyncio.Event()
            herd = [plugin.handle(asked("www."), waiting(release)) for _ in range(50)]
            others = [plugin.handle(asked(f"w{i}."), waiting(asyncio.Event())) for i in range(9)]
            tasks = [asyncio.create_task(one) for one in herd + others]
            await asyncio.sleep(0)
            assert len(plugin._out) == 1 + 9
            release.set()
            await asyncio.wait(tasks[:50])
            await asyncio.sleep(0.1)  # the nine are still out, each of them once
            assert seen == listener.queries
            for task in tasks[50:]:
                task.cancel()
            await asyncio.wait(tasks[50:])
            assert {} == plugin._out

    run(test)


def test_tests_for_a_loop_that_may_have_closed_are_a_second_apart(monkeypatch):
    monkeypatch.setattr(loop, "DOUBT_S", 0.01)
    monkeypatch.setattr(loop, "RETRY_S", 10)
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            await plugin.start(None)
            await until(lambda: plugin._task.done())
            seen = listener.queries
            for i in range(5):
                release = asyncio.Event()
                pair = [plugin.handle(asked(f"w{i}."), waiting(release)) for _ in range(2)]
                tasks = [asyncio.create_task(one) for one in pair]
                await asyncio.sleep(0.03)
                release.set()
                await asyncio.wait(tasks)
            assert seen + 1 == listener.queries

    run(test)


def asked(qname: str) -> Query:
    """Return a query such as a client sends."""
    wire = name.parse(qname)
    return Query(1, message.RD, Question(wire, name.fold(wire), rr.A), None, 50)


def waiting(release: asyncio.Event) -> Callable[[Query], Awaitable[Response]]:
    """Return the chain behind: it answers when it is let."""

    async def answer(_query: Query) -> Response:
        await release.wait()
        return NXDOMAIN

    return answer


def test_only_hinfo_of_the_very_name_is_counted():
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            probe = probe_of(plugin).folded
            others = [
                Question(probe, probe, rr.A),
                Question(plugin._base, plugin._base, rr.HINFO),
                Question(b"\1a" + probe, name.fold(b"\1a" + probe), rr.HINFO),
            ]
            for _ in range(5):
                for question in others:
                    await ask(listener.port, question)
            assert not plugin._outside.is_looping
            plugin._own.add(probe)  # a test runs that has sent it
            for times in range(1, 4):
                await ask(listener.port, Question(probe.upper(), probe, rr.HINFO))
                assert plugin._outside.is_looping == (times == 3)

    run(test)


def test_a_listener_that_is_late_is_waited_for():
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as gone:
            pass
        await plugin.start(None)
        await asyncio.sleep(0.05)
        assert not plugin._task.done()
        listener = Listener(plugin)
        listener.loops = False
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: listener, local_addr=("127.0.0.1", gone.port)
        )
        await until(lambda: plugin._task.done())
        assert listener.queries == 1
        transport.close()

    run(test)


def test_a_test_that_nobody_answers_ends(monkeypatch):
    monkeypatch.setattr(loop, "TEST_S", 0.1)
    plugin = make()

    async def test() -> None:
        async with listening(plugin):
            pass
        await plugin.start(None)
        await until(lambda: plugin._task.done())
        assert not plugin._outside.is_looping

    run(test)


def test_stop_ends_the_test():
    plugin = make()

    async def test() -> None:
        async with listening(plugin):
            await plugin.start(None)
            await until(lambda: plugin._outside.is_looping)
        assert plugin._task.done()

    run(test)


def test_probes_of_many_workers_are_no_loop():
    """Each worker sends its own, and any of them may receive them all."""
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            for question in [probe_of(plugin) for _ in range(loop.MAX_PROBES + 10)]:
                for _ in range(loop.MAX_SEEN):
                    await ask(listener.port, question)
            assert not plugin._outside.is_looping
            assert len(plugin._seen) <= loop.MAX_PROBES

    run(test)


def test_a_name_that_was_seen_is_no_loop_when_the_test_is_over():
    """Who sees probes upstream could shut out all names outside with four packets."""
    plugin = make()

    async def test() -> None:
        async with listening(plugin) as listener:
            listener.loops = False
            await plugin.start(None)
            await until(lambda: plugin._task.done())
            (seen,) = plugin._seen
            for _ in range(4):
                await ask(listener.port, Question(seen, seen, rr.HINFO))
                assert not plugin._outside.is_looping
            await until(lambda: plugin._task.done())  # what it made us test
            assert not plugin._outside.is_looping
            assert (2, 5) == (len(plugin._seen), plugin._seen[seen])

    run(test)


def test_two_workers_each_find_a_loop_and_each_that_it_is_gone():
    """Probes of one come to the other: it must neither take them for its own nor break them."""
    plugins = [make(), make()]
    plugins[1]._base = plugins[0]._base

    async def test() -> None:
        async with listening(plugins[0]) as listener:
            plugins[1]._block.ports = plugins[0]._block.ports
            turns = itertools.cycle((0, 1, 1, 0, 0, 1, 0, 1, 1))

            async def answer(data: bytes, addr: tuple[str, int]) -> None:
                listener.plugin = plugins[next(turns)]
                await Listener._answer(listener, data, addr)

            listener._answer = answer
            listener.loops = False
            await plugins[0].start(None)
            await plugins[1].start(None)
            for _ in range(2):
                await until(lambda: all(plugin._task.done() for plugin in plugins))
                listener.loops = True
                for plugin in plugins:
                    plugin._quiet_until = 0
                plugins[0]._test_again()
                await until(lambda: all(each._outside.is_looping for each in plugins))
                listener.loops = False
                await until(lambda: all(plugin._task.done() for plugin in plugins))
                assert not any(each._outside.is_looping for each in plugins)
            await plugins[1].stop()

    run(test)


def test_names_differ_from_one_start_to_the_next():
    assert len({make()._base for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "corefile",
    [
        CORE.replace("loop", "loop twice"),
        CORE.replace("loop", "loop\n loop"),
        CORE.replace("loop", "loop {\n often\n }"),
        CORE.replace("example.org", ".".join(["a" * 63] * 3 + ["b" * 40])),
    ],
)
def test_mistakes_name_their_line(corefile):
    with pytest.raises(ConfigError, match=r"^Corefile:[345]: "):
        make(corefile)


def probe_of(plugin: Loop) -> Question:
    """Return a probe such as the plugin sends, in whichever worker."""
    qname = name.parse(f"{secrets.randbelow(2**62)}.{name.text(plugin._base)}")
    return Question(qname, name.fold(qname), rr.HINFO)


async def ask(port: int, question: Question) -> None:
    server = Upstream("127.0.0.1", port, UpstreamOptions())
    await server.ask(server.begin(question, 0, None), "udp")
