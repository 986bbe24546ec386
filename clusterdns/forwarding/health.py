"""Probes of one upstream server, which notice when a failed server replies again.

A failed query starts the probes, and the first reply ends them. In between, each probe without a
reply counts as one failure. (CoreDNS: plugin/pkg/up, plugin/pkg/proxy/health.go)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clusterdns.errors import UpstreamError
from clusterdns.forwarding.datagrams import Ask, Done
from clusterdns.forwarding.exchange import Mismatch
from clusterdns.wire.reading import Reply

PROBE_TIMEOUT_S = 1.0
MAX_PROBES = 2  # under way at one time: a late reply counts, too


class UpstreamHealth:
    """The health of one server: ``fails`` counts failed probes in a row, ``failures`` all of them.

    ``send`` sends a probe, whose ``done`` is called within ``PROBE_TIMEOUT_S``; ``cancel`` cancels
    one.
    """

    def __init__(
        self, send: Callable[[Done], Ask], cancel: Callable[[Ask], None], interval_s: float
    ) -> None:
        self.fails = self.failures = 0
        self._send = send
        self._cancel = cancel
        self._interval_s = interval_s
        self._probing: asyncio.Task[None] | None = None

    def suspect(self) -> None:
        """Start the probes, unless they are running."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe())

    def stop(self) -> None:
        """Stop the probes."""
        if self._probing is not None:
            self._probing.cancel()

    async def _probe(self) -> None:
        """Send one probe each interval until one of them gets any reply.

        A probe does not wait for the one before it, so a server that works again is noticed within
        one interval.
        """
        is_alive = asyncio.Event()
        out = set[Ask]()

        def send() -> None:
            def done(found: Reply | UpstreamError) -> None:
                out.discard(ask)
                if isinstance(found, Reply | Mismatch):  # even a reply to another question
                    self.fails = 0
                    is_alive.set()
                else:
                    self.fails += 1
                    self.failures += 1

            ask = self._send(done)
            out.add(ask)

        try:
            while not is_alive.is_set():
                if len(out) < MAX_PROBES:
                    send()
                try:
                    async with asyncio.timeout(self._interval_s):
                        await is_alive.wait()
                except TimeoutError:
                    pass
        finally:
            for ask in [*out]:
                self._cancel(ask)
