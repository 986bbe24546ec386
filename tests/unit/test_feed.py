"""feed: whatever happens to a connection, a worker's store becomes what the watcher knows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket

import pytest

from clusterdns.cluster import feed
from clusterdns.cluster.objects import NAMESPACES, SERVICES, SLICES
from clusterdns.cluster.store import Store
from clusterdns.host import channel

KINDS = (NAMESPACES, SERVICES, SLICES)


def service(address: str) -> tuple:
    return ("ClusterIP", (address,), (("http", "TCP", 80),), "", ())


class Pair:
    """A feeder and a subscription to it, in the running loop."""

    def __init__(self) -> None:
        self.listener = feed.listen()
        self.feeder = feed.Feeder(self.listener)
        self.store = Store(KINDS)
        self.facts: list[object] = []
        self.subscription = feed.Subscription(
            self.listener.getsockname(),
            self.store,
            kinds=KINDS,
            changed=self.facts.extend,
            clock=lambda: 1000.0,
        )

    async def __aenter__(self) -> Pair:
        self.feeder.start()
        self._task = asyncio.create_task(self.subscription.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        asyncio.get_running_loop().remove_reader(self.listener)
        self.feeder.break_off()
        self.listener.close()

    def sync(self) -> None:
        for kind in KINDS:
            self.feeder.synced(kind)

    async def settle(self) -> None:
        known = {key for kind, key in self.feeder.objects if kind == SERVICES}
        for _ in range(500):
            await asyncio.sleep(0.01)
            if set(self.store.keys(SERVICES)) == known and self.subscription.is_connected:
                await asyncio.sleep(0.02)
                return
        raise AssertionError("does not settle")


def run(test):
    return lambda: asyncio.run(test())


@run
async def test_objects_before_and_after_connecting():
    async with Pair() as pair:
        pair.feeder.put(SERVICES, ("a", "one"), service("10.0.0.1"))
        assert not pair.store.is_synced
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)
        assert pair.store.services.by_name["a", "one"].addresses == ("10.0.0.1",)
        pair.feeder.put(SERVICES, ("a", "two"), service("10.0.0.2"))
        await pair.settle()
        assert ("service", "a", "two") in pair.facts


@run
async def test_the_collector_does_not_look_through_a_full_store():
    before = gc.get_freeze_count()
    try:
        async with Pair() as pair:
            for i in range(2000):
                pair.feeder.put(SERVICES, ("a", f"s{i}"), service(f"10.0.{i >> 8}.{i & 255}"))
            pair.sync()
            await asyncio.wait_for(pair.subscription.filled.wait(), 5)
            assert gc.get_freeze_count() >= before + 2000
            known = set(map(id, gc.get_objects()))
            services = pair.store.services.by_name.values()
            assert not known & set(map(id, services))
    finally:
        gc.unfreeze()


@run
async def test_synced_comes_behind_the_objects():
    async with Pair() as pair:
        for i in range(5000):
            pair.feeder.put(SERVICES, ("a", f"s{i}"), service(f"10.0.{i >> 8}.{i & 255}"))
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)
        assert len(pair.store.services.by_name) == 5000


@run
async def test_changes_merge_while_a_worker_is_slow():
    async with Pair() as pair:
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)
        for i in range(10_000):
            pair.feeder.put(SERVICES, ("a", "one"), service(f"10.1.{i >> 8}.{i & 255}"))
        (only,) = pair.feeder._feeds
        assert len(only.pending) <= 1
        await pair.settle()
        assert pair.store.services.by_name["a", "one"].addresses == ("10.1.39.15",)


@run
async def test_the_loop_turns_between_frames():
    """Queries get their turn in a burst, also when all of its frames are there at once."""
    turns, seen = [0], list[int]()

    def turn() -> None:
        turns[0] += 1
        asyncio.get_running_loop().call_soon(turn)

    async with asyncio.timeout(10):
        frames = [
            channel.frame(("changes", [(SERVICES, ("a", f"s{i}"), service(f"10.0.0.{i}"))]))
            for i in range(20)
        ]
        gone = asyncio.Event()

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"".join(frames))
            await gone.wait()
            writer.close()
            await writer.wait_closed()

        def changed(_: object) -> None:
            seen.append(turns[0])
            if len(seen) == len(frames):
                gone.set()

        address = f"\0clusterdns-test-{os.urandom(8).hex()}"
        async with await asyncio.start_unix_server(send, address):
            subscription = feed.Subscription(
                address, Store(KINDS), kinds=KINDS, changed=changed, clock=lambda: 1000.0
            )
            reading = asyncio.create_task(subscription.run())
            turn()
            await gone.wait()
            reading.cancel()
            await asyncio.sleep(0.05)  # both ends close
    assert len(set(seen)) == len(frames)


@run
async def test_changes_from_many_threads_arrive():
    """As reflectors put them: each in its thread, while the loop writes what did not fit."""
    async with Pair() as pair:
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)

        def put(n: int) -> None:
            for turn in range(2):
                for i in range(2000):
                    key = ("a", f"s{n}-{i}")
                    pair.feeder.put(SERVICES, key, service(f"10.{turn}.{i >> 8}.{i & 255}"))

        await asyncio.gather(*(asyncio.to_thread(put, n) for n in range(4)))
        await pair.settle()
        known, last = pair.store.services.by_name, {("10.1.7.207",)}
        for _ in range(500):  # all keys are there before the last change of each is
            if last == {known["a", f"s{n}-1999"].addresses for n in range(4)}:
                break
            await asyncio.sleep(0.01)
        assert last == {known["a", f"s{n}-1999"].addresses for n in range(4)}
        (only,) = pair.feeder._feeds
        assert not only.pending


@run
async def test_a_worker_that_goes_is_dropped_by_the_thread_that_tells_it():
    async with Pair() as pair:
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)
        (first,) = pair.feeder._feeds
        first._sock.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(pair.feeder.put, SERVICES, ("a", "one"), service("10.0.0.1"))
        assert first not in pair.feeder._feeds
        await pair.settle()
        assert list(pair.store.services.by_name) == [("a", "one")]


def test_a_message_that_cannot_be_taken_ends_the_connection(caplog):
    async def test() -> None:
        ours, theirs = channel.pair()
        taken: list[object] = []

        def take(message: channel.Message) -> None:
            taken.append(message)
            raise ValueError("a bug")

        loop = asyncio.get_running_loop()
        _, frames = await loop.create_connection(lambda: channel.Frames(take), sock=ours)
        theirs.sendall(2 * channel.frame(("one",)))
        await asyncio.wait_for(frames.ended, 5)
        assert [("one",)] == taken
        assert "a message is not understood" in caplog.text
        theirs.close()

    asyncio.run(test())


@run
async def test_what_went_while_disconnected_is_gone():
    async with Pair() as pair:
        pair.feeder.put(SERVICES, ("a", "one"), service("10.0.0.1"))
        pair.feeder.put(SERVICES, ("a", "two"), service("10.0.0.2"))
        pair.sync()
        await asyncio.wait_for(pair.subscription.filled.wait(), 5)
        pair.feeder.break_off()
        pair.feeder.put(SERVICES, ("a", "one"), None)
        assert len(pair.store.services.by_name) == 2
        await pair.settle()
        assert list(pair.store.services.by_name) == [("a", "two")]
        assert pair.store.is_synced


@pytest.mark.parametrize("seed", range(3))
def test_replaying_equals_relisting(seed):
    """However events and broken connections fall, the store ends as the feeder."""

    async def test() -> None:
        rng = random.Random(seed)
        async with Pair() as pair:
            pair.sync()
            for _ in range(200):
                key = ("a", f"s{rng.randrange(20)}")
                value = service(f"10.0.0.{rng.randrange(250)}") if rng.random() < 0.6 else None
                if value is not None or (SERVICES, key) in pair.feeder.objects:
                    pair.feeder.put(SERVICES, key, value)
                if rng.random() < 0.05:
                    await asyncio.sleep(0.005)
                if rng.random() < 0.02:
                    pair.feeder.break_off()
            await pair.settle()
            expected = {key: value for (_, key), value in pair.feeder.objects.items()}
            assert expected == {
                key: feed.plain(s) for key, s in pair.store.services.by_name.items()
            }

    asyncio.run(test())
