"""feed: whatever happens to a connection, a worker's store becomes what the watcher knows."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from clusterdns.cluster import feed
from clusterdns.cluster.objects import NAMESPACES, SERVICES, SLICES
from clusterdns.cluster.store import Store

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
                fields = service(f"10.0.0.{rng.randrange(250)}") if rng.random() < 0.6 else None
                if fields is not None or (SERVICES, key) in pair.feeder.objects:
                    pair.feeder.put(SERVICES, key, fields)
                if rng.random() < 0.05:
                    await asyncio.sleep(0.005)
                if rng.random() < 0.02:
                    pair.feeder.break_off()
            await pair.settle()
            expected = {key: fields for (_, key), fields in pair.feeder.objects.items()}
            assert expected == {
                key: feed.plain(s) for key, s in pair.store.services.by_name.items()
            }

    asyncio.run(test())
