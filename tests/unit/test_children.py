"""Children of the supervisor: when one is failing, and when it is forgotten."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from clusterdns.processes import process
from clusterdns.processes.process import Child, Nursery

NO_PROCESS = 2**22 + 1  # beyond the largest process ID


class Clock:
    """In place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(process, "time", found)
    return found


def test_a_child_is_failing_until_it_has_lived_for_longer(clock: Clock) -> None:
    async def main() -> None:
        child = Child("one", lambda: NO_PROCESS)
        for _ in range(Child.MAX_SHORT_LIVES):
            assert not child.is_failing
            child.start()
            clock.now += 0.5
            child.on_exit(1)
        assert child.is_failing
        child.start()
        clock.now += 0.5
        assert child.is_failing, "it may end as soon as the others"
        clock.now += Child.SHORT_LIFE_S
        assert not child.is_failing, "it gets on"
        child.on_exit(1)
        assert not child.is_failing

    asyncio.run(main())


def test_a_child_that_has_ended_and_is_not_wanted_is_forgotten() -> None:
    """Its configuration hangs on it: each reload that fails would keep one."""

    async def main() -> None:
        nursery, child = Nursery(), Child("one", lambda: NO_PROCESS)
        seen = weakref.ref(child)
        nursery.start(child)
        child.on_exit(1)  # it is to be started again
        child.is_wanted = False
        del child
        await asyncio.sleep(Child.FIRST_DELAY_S * 2)
        other = Child("two", lambda: NO_PROCESS)
        nursery.start(other)
        gc.collect()
        assert seen() is None
        assert [NO_PROCESS] == nursery.pids()

    asyncio.run(main())
