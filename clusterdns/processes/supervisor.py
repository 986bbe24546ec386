"""The first process: it binds, forks and replaces the others; no query passes it.

``Supervisor.run`` starts a ``Generation`` - the workers and watchers of one configuration - and
waits for signals. A reload starts the next generation on the same sockets, waits until it serves,
and only then stops the old one, so that queries are answered at every moment. An error in the new
configuration ends only the reload. (CoreDNS: coremain/run.go, caddy.go)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from clusterdns.chain import registry
from clusterdns.chain.plugin import Respond
from clusterdns.cluster.source import Source
from clusterdns.config.compile import Configuration
from clusterdns.config.loader import Loader
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.family import Family
from clusterdns.metrics.ledger import Ledger
from clusterdns.processes import takeover
from clusterdns.processes.binding import BindError, is_free
from clusterdns.processes.generation import Generation, Sockets, Watchers
from clusterdns.processes.inquiry import Inquiries
from clusterdns.processes.process import Nursery
from clusterdns.processes.web import AddressError, Web

WATCHDOG_S = 0.5
LATE_S = 1.0  # by which the watchdog may wake too late and still judge others
KNOWING_S = 3.0  # a reload waits so long for what is to be watched, before it is put off
_log = logging.getLogger(__name__)


class Duties:
    """The requests of the plugins of one generation to the supervisor (plugin.Supervisor)."""

    def __init__(self, supervisor: Supervisor, generation: Generation) -> None:
        self.paths: dict[str, dict[str, Respond]] = {}  # HTTP address -> path -> responder
        self.lameduck_s = 0.0
        self.interval_s = 0.0
        self._supervisor = supervisor
        self._generation = generation

    @property
    def is_stopping(self) -> bool:
        """Whether the process is stopping."""
        return self._supervisor.is_stopping

    def serve(self, address: str, path: str, respond: Respond) -> None:
        """Answer GET of ``path`` at ``address`` with what ``respond`` returns."""
        self.paths.setdefault(address, {}).setdefault(path, respond)

    def not_ready(self) -> list[str]:
        """Return the names of the plugins that are not ready, sorted."""
        return self._generation.not_ready()

    async def metrics(self) -> bytes:
        """Return the exposition of all metrics."""
        return await self._supervisor.metrics()

    def lameduck(self, seconds: float) -> None:
        """Go on serving for ``seconds`` after the signal to stop."""
        self.lameduck_s = max(self.lameduck_s, seconds)

    def poll_configuration(self, interval_s: float) -> None:
        """Compare the configuration every ``interval_s`` and reload it when it changed."""
        self.interval_s = interval_s


class Supervisor:
    """Keeps one generation serving until told to stop."""

    def __init__(self, loader: Loader, configuration: Configuration, text: str) -> None:
        self.is_stopping = False
        self._loader = loader
        self._text = text
        self._nursery = Nursery()
        self._families: dict[str, Family] = {}  # also of plugins removed by a reload
        self._ledger = Ledger(self._families)
        self._watchers = Watchers(self._nursery, self._ledger)
        self._generation = self._generation_of(configuration)
        self._duties = Duties(self, self._generation)
        self._webs: dict[str, Web] = {}
        self._reloading = asyncio.Lock()
        self._stop = asyncio.Event()
        self._last_signal: signal.Signals | None = None
        self._reload_failures = 0
        self._put_off: Configuration | None = None  # it knows less than what is in force
        self._fragments_refused = len(configuration.refused)
        self._reloaded_digest = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._inquiries = Inquiries({"explain": self.explain})

    async def run(self, announce: Callable[[Configuration], None]) -> int:
        """Serve until a signal ends it; return the exit status.

        Raises:
            ClusterDNSError: the first start fails.
        """
        self._handle_signals()
        starting = asyncio.create_task(self._start(announce))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        else:
            starting.cancel()
        await stopping
        await self._shut_down()
        return 0

    async def _start(self, announce: Callable[[Configuration], None]) -> None:
        self._generation = generation = await self._bound(self._generation.configuration, [])
        self._duties = Duties(self, generation)
        await self._take_up(generation, self._duties)
        generation.start()
        self._spawn(self._kill_stalled())
        await generation.wait_until_serving()
        await self._inquiries.start()
        announce(generation.configuration)
        if self._duties.interval_s:
            digest = generation.configuration.digest
            _log.info("plugin/reload: Running configuration SHA512 = %s", digest)
        self._spawn(self._poll_configuration())

    async def reload(self) -> None:
        """Load the configuration if it has changed; after an error keep the one in force."""
        async with self._reloading:
            try:
                loop = asyncio.get_running_loop()
                text = await loop.run_in_executor(None, self._loader.read)
                if text == self._text and not await loop.run_in_executor(None, self._has_cause):
                    return
                self._loader.unavailable.clear()
                self._text = text  # a failed text is not tried again until it changes
                compiled = await loop.run_in_executor(None, self._loader.compile, text)
                self._fragments_refused = len(compiled.refused)
                if compiled.digest == self._generation.configuration.digest:
                    self._forget_put_off()
                    return
                if not await self._knows_enough(compiled):
                    return
                self._put_off = None
                _log.info("Reloading")
                self._reloaded_digest = compiled.digest
                await self._replace(compiled)
                _log.info("plugin/reload: Running configuration SHA512 = %s", compiled.digest)
                _log.info("Reloading complete")
            except (ClusterDNSError, OSError) as error:
                self._forget_put_off()
                self._reload_failures += 1
                _log.error("Reload failed, the last good configuration stays in force: %s", error)
            except Exception:
                self._forget_put_off()
                self._reload_failures += 1
                _log.exception("Reload failed, the last good configuration stays in force")

    async def _knows_enough(self, configuration: Configuration) -> bool:
        """Watch what a configuration wants; tell whether it knows as much as what is in force.

        If it does not in ``KNOWING_S``, it is put off until it does, or is replaced by another.
        """
        is_news = self._put_off is None or self._put_off.digest != configuration.digest
        self._put_off = configuration
        self._watchers.keep_only([*self._generation.configuration.sources, *configuration.sources])
        for source in configuration.sources:
            self._watchers.address_of(source)
        deadline = time.monotonic() + (KNOWING_S if is_news else 0)
        while unknown := self._unknown(configuration):
            if time.monotonic() >= deadline:
                if is_news:
                    self._reload_failures += 1
                    what = "; ".join(f"{', '.join(k)} of {s.title}" for s, k in unknown.items())
                    _log.error(
                        "Reload put off, the last good configuration stays in force until there "
                        "is an answer about %s", what,
                    )  # fmt: skip
                return False
            await asyncio.sleep(0.02)
        return True

    def _unknown(self, configuration: Configuration) -> dict[Source, list[str]]:
        return takeover.unknown_kinds(
            self._generation.configuration,
            configuration,
            was_known=self._watchers.ever_known,
            is_known=self._watchers.known,
        )

    def _forget_put_off(self) -> None:
        if self._put_off is not None:
            self._put_off = None
            self._watchers.keep_only(self._generation.configuration.sources)

    def _has_cause(self) -> bool:
        """Tell whether to reload although the text of the Corefile is the same."""
        return (
            self._put_off is not None
            or self._loader.imports.have_changed
            or any(is_free(endpoint) for endpoint in self._loader.unavailable)
        )

    async def explain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the explanation of a query, see ``explanation.explain``."""
        from clusterdns.processes import explanation  # rarely used

        return await explanation.explain(self._generation, self._watchers, request)

    async def metrics(self) -> bytes:
        """Return the exposition of all metrics."""
        from clusterdns.metrics import (
            exposition,  # imports a large library, used only here
        )

        living = await asyncio.gather(self._generation.samples(), self._watchers.samples())
        samples = self._ledger.total([*living[0], *living[1]])
        samples += self._generation.configuration_samples()
        samples.append(("reload_failed_total", (), self._reload_failures))
        samples.append(("clusterdns_fragments_refused", (), self._fragments_refused))
        if self._reloaded_digest:
            samples.append(("reload_version_info", ("sha512", self._reloaded_digest), 1))
        pids = [os.getpid(), *self._nursery.pids()]
        declared = registry.always_shown() | self._families
        return exposition.exposition(samples, pids, declared)

    async def _replace(self, configuration: Configuration) -> None:
        """Start the next generation on the sockets of this one, then stop this one.

        Raises:
            ClusterDNSError: the next one cannot start; this one stays in force.
        """
        old = self._generation
        new = await self._bound(configuration, old.sockets)
        if new.configuration.digest == old.configuration.digest:
            return  # but for fragments that are left out again
        duties = Duties(self, new)
        try:
            new.start()
            await new.wait_until_serving()
            await self._take_up(new, duties)
        except BaseException:
            await new.stop(0)
            new.unbind(old.sockets)
            self._watchers.keep_only(old.configuration.sources)
            raise
        self._generation, self._duties = new, duties
        await old.stop()
        old.unbind(new.sockets)
        self._watchers.keep_only(new.configuration.sources)

    async def _bound(self, configuration: Configuration, old: list[Sockets]) -> Generation:
        """Return the generation of a configuration with its sockets.

        Fragments that listen where nobody can are left out.

        Raises:
            BindError: an address cannot be had, and the Corefile itself names it.
        """
        while True:
            generation = self._generation_of(configuration)
            try:
                generation.bind(old)
                return generation
            except BindError as error:
                generation.unbind(old)
                configuration = await self._without(error)

    async def _without(self, error: BindError) -> Configuration:
        """Return the configuration without the fragments for which a bind failed, or raise that."""
        unavailable = self._loader.unavailable
        if error.endpoint in unavailable:
            raise error
        unavailable[error.endpoint] = str(error)
        try:
            loop = asyncio.get_running_loop()
            compiled = await loop.run_in_executor(None, self._loader.compile, self._text)
        except ClusterDNSError:
            del unavailable[error.endpoint]
            raise error from None
        self._fragments_refused = len(compiled.refused)
        return compiled

    def _generation_of(self, configuration: Configuration) -> Generation:
        for plugin in configuration.plugins:
            self._families.update(plugin.families)
        return Generation(configuration, self._nursery, self._watchers, self._ledger)

    async def _take_up(self, generation: Generation, duties: Duties) -> None:
        """Apply the requests of the plugins of a generation. Raises AddressError."""
        for plugin in generation.configuration.plugins:
            plugin.supervise(duties)
        added: dict[str, Web] = {}
        try:
            for address in duties.paths.keys() - self._webs.keys():
                added[address] = Web(address)
                await added[address].start()
        except AddressError:
            for web in added.values():
                web.stop()
            raise
        for address in self._webs.keys() - duties.paths.keys():
            self._webs.pop(address).stop()
        self._webs |= added
        for address, paths in duties.paths.items():
            self._webs[address].paths = paths

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self.reload()))
        loop.add_signal_handler(signal.SIGCHLD, self._nursery.reap)
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGQUIT:
            os._exit(0)
        if number == signal.SIGINT and self._last_signal == signal.SIGINT:
            os._exit(2)
        self._last_signal = number
        self.is_stopping = True
        self._stop.set()

    async def _shut_down(self) -> None:
        if self._last_signal == signal.SIGTERM:
            _log.info("SIGTERM: Shutting down servers then terminating")
            if self._duties.lameduck_s:
                seconds = self._duties.lameduck_s
                _log.info("plugin/health: Going into lameduck mode for %gs", seconds)
                await asyncio.sleep(seconds)
        else:
            _log.info("SIGINT: Shutting down")
        self._inquiries.stop()
        for task in self._tasks:
            task.cancel()
        await self._generation.stop(is_last=True)
        for web in self._webs.values():
            web.stop()

    async def _kill_stalled(self) -> None:
        """Kill each process that has stopped beating; it is started again."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(WATCHDOG_S)
            # Who was stopped itself, as a frozen container is, has not read the others' beats yet.
            if time.monotonic() - began < WATCHDOG_S + LATE_S:
                self._generation.kill_stalled()
                self._watchers.kill_stalled()
            if self._put_off and not self._reloading.locked() and not self._unknown(self._put_off):
                self._spawn(self.reload())

    async def _poll_configuration(self) -> None:
        """Reload at intervals, if the configuration in force asks for it."""
        while True:
            await asyncio.sleep(self._duties.interval_s or 30.0)
            if self._duties.interval_s:
                await self.reload()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
