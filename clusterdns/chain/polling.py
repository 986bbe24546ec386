"""Plugins that poll files and load those that changed."""

from __future__ import annotations

import asyncio

from clusterdns.chain.plugin import Plugin, Worker
from clusterdns.host.tasks import end

LEAST_S = 0.1  # more often costs more than anybody gains


class Polling(Plugin):
    """Looks at its files every ``reload_s`` seconds, unless that is 0."""

    reload_s: float
    _task: asyncio.Task[None] | None = None

    async def look(self) -> bool:
        """Take up what has changed; return whether anything has."""
        raise NotImplementedError

    def look_again(self, worker: Worker) -> None:
        """Start to poll until ``stop``."""
        if self.reload_s:
            self._task = asyncio.create_task(self._poll_files(worker))

    async def stop(self) -> None:
        """Stop polling."""
        await end(self._task)

    async def _poll_files(self, worker: Worker) -> None:
        every_s = max(self.reload_s, LEAST_S)
        while True:
            # All workers load a change at the same time, so that they answer alike.
            await asyncio.sleep(every_s - worker.now() % every_s)
            if await self.look():
                worker.forget_all()
