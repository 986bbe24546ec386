"""A child forked while the supervisor's loop runs has a loop of its own, and ends with its status."""

from __future__ import annotations

import asyncio
import os

import pytest

from clusterdns.processes import process


@pytest.mark.parametrize(("fails", "status"), [(False, 0), (True, 1)])
def test_a_child_runs_a_loop_of_its_own(fails, status):
    """asyncio has to forget the loop that runs in the parent: nothing of ours tells it to."""
    read, write = os.pipe()

    async def child() -> None:
        await asyncio.sleep(0)
        os.write(write, str(os.getpid()).encode())
        if fails:
            raise ValueError("as it should")

    async def parent() -> tuple[int, int]:
        pid = process.fork(child, [write])
        _, how = os.waitpid(pid, 0)  # noqa: ASYNC222 - its loop is what runs
        return pid, os.waitstatus_to_exitcode(how)

    try:
        pid, ended = asyncio.run(parent())
        os.close(write)
        assert (str(pid).encode(), status) == (os.read(read, 100), ended)
    finally:
        os.close(read)
