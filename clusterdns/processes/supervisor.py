"""The first process: it binds, forks and replaces the others; no query passes it.

``Supervisor.run`` starts a ``Generation`` - the workers and watchers of one configuration - and
waits for signals. A reload starts the first worker of the next generation on the sockets of the one
in its place, waits until it serves, and only then replaces the old ones, a few at a time, so that
queries are answered at every moment, and memory is needed for few workers more. An error in the new
configuration ends only the reload; if its workers end soon after each start, the configuration
before is in force again. (CoreDNS: coremain/run.go, caddy.go)

At SIGUSR2 a new version of the program takes the place of this one, see handover.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

from clusterdns import __version__
from clusterdns.chain import registry
from clusterdns.chain.plugin import Respond
from clusterdns.cluster.source import Source
from clusterdns.config.compile import Configuration, ListenAddress
from clusterdns.config.loader import Loader
from clusterdns.errors import ClusterDNSError, ConfigError
from clusterdns.metrics.family import Family
from clusterdns.metrics.ledger import Ledger
from clusterdns.processes import handover, observation, takeover
from clusterdns.processes.binding import BindError, is_free
from clusterdns.processes.estate import Estate
from clusterdns.processes.generation import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Generation,
    GenerationError,
    Sockets,
    Watchers,
)
from clusterdns.processes.handover import Inherited
from clusterdns.processes.inquiry import Answer, Inquiries
from clusterdns.processes.process import Nursery
from clusterdns.processes.web import AddressError, Site, Web, bound
from clusterdns.serving import native

WATCHDOG_S = 0.5
LATE_S = 1.0  # by which the watchdog may wake too late and still judge others
TAKE_OVER_S = 1.0  # between two attempts
PROBATION_S = 30.0  # behind a reload: if workers end soon after each start, it is undone
KNOWING_S = 3.0  # a reload waits so long for what is to be watched, before it is put off
_log = logging.getLogger(__name__)


class _Unaware(ClusterDNSError):
    """A generation does not know, by source, some kinds that the one in force knows."""

    def __init__(self, unknown: Mapping[Source, Collection[str]]) -> None:
        super().__init__("it knows less than what is in force")
        self.unknown = unknown


class Duties:
    """The requests of the plugins of one generation to the supervisor (plugin.Supervisor)."""

    def __init__(self, supervisor: Supervisor, generation: Generation) -> None:
        self.paths: dict[str, dict[str, Respond]] = {}  # HTTP address -> path -> responder
        self.sites: dict[str, Site] = {}  # by HTTP address: what answers for all other paths
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

    def show_status(self, address: str) -> None:
        """Serve the page about this server at ``address``."""
        from clusterdns.processes.statuspage import StatusPage  # rarely used

        self.paths.setdefault(address, {})
        self.sites[address] = StatusPage(address, self._supervisor.answers).respond

    def lameduck(self, seconds: float) -> None:
        """Go on serving for ``seconds`` after the signal to stop."""
        self.lameduck_s = max(self.lameduck_s, seconds)

    def poll_configuration(self, interval_s: float) -> None:
        """Compare the configuration every ``interval_s`` and reload it when it changed."""
        self.interval_s = interval_s


class Supervisor:
    """Keeps one generation serving until told to stop."""

    def __init__(
        self,
        loader: Loader,
        configuration: Configuration | None,
        text: str | None,
        estate: Estate | None = None,
    ) -> None:
        """Take what is to be served, or the estate of the version before: that loads it itself."""
        self.is_stopping = False
        self._loader = loader
        self._text = text
        self._estate = estate or Estate()
        self._nursery = Nursery()
        self._families: dict[str, Family] = {}  # also of plugins removed by a reload
        self._ledger = Ledger(self._families)
        self._ledger.close(self._estate.samples)
        self._watchers = Watchers(self._nursery, self._ledger, self._estate.feeds)
        self._inherited: Inherited | None = None
        self._generation: Generation
        if configuration is None:
            self._inherited = Inherited(self._estate, self._nursery, self._watchers, self._ledger)
            self._generation = self._inherited
        else:
            self._generation = self._generation_of(configuration)
        self._duties = Duties(self, self._generation)
        self._duties.lameduck_s = self._estate.lameduck_s
        self._inherited_webs = {
            address: Web(address, [socket.socket(fileno=number) for number in some])
            for address, some in self._estate.webs.items()
        }
        self._webs: dict[str, Web] = {}
        self._reloading = asyncio.Lock()
        self._stop = asyncio.Event()
        self._last_signal: signal.Signals | None = None
        self._reload_failures = self._estate.reload_failures
        self._is_started = self._inherited is not None
        self._is_handing_over = False
        self._put_off: Configuration | None = None  # it knows less than what is in force
        self._leaving: list[Generation] = []  # being replaced: some of their workers may serve
        self._before: Configuration | None = None  # the last good one, on probation
        self._probation_ends = 0.0
        self._fragments_refused = len(configuration.refused) if configuration else 0
        self._reloaded_digest = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = time.time()
        self.answers: dict[str, Answer] = {
            "explain": self.explain,
            "explained": self.explained,
            "about": self.about,
            "status": self.status,
            "top": self.top,
            "tail": self.tail,
        }
        self._inquiries = Inquiries(self.answers)

    async def run(self, announce: Callable[[Configuration], None]) -> int:
        """Serve until a signal ends it; return the exit status.

        Raises:
            ClusterDNSError: the first start fails.
        """
        self._handle_signals()
        start = self._take_over() if self._inherited else self._start(announce)
        starting = asyncio.create_task(start)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        else:
            await _cancel([starting])
        await stopping
        await self._shut_down()
        return 0

    async def rehearse(self) -> None:
        """Start all that is to be served, but read no socket: another version serves.

        Raises:
            ClusterDNSError: this version could not serve.
        """
        self._handle_signals()
        loop = asyncio.get_running_loop()
        self._text = await loop.run_in_executor(None, self._loader.read)
        compiled = await loop.run_in_executor(None, self._loader.compile, self._text)
        if not await self._knows_enough(compiled):
            raise GenerationError("it does not know yet what is known of each zone")
        generation, _, _ = await self._bound(compiled, self._generation.sockets)
        generation.start(is_rehearsal=True, is_first_alone=True)  # the others would be the same
        serving = asyncio.create_task(generation.wait_until_serving())
        ending = asyncio.create_task(generation.wait_for_an_end())
        await asyncio.wait((serving, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not serving.done():
            serving.cancel()
            raise GenerationError("a worker has ended")
        serving.result()

    async def _take_over(self) -> None:
        """Replace the workers of the version before, as a reload does, until that succeeds."""
        assert self._inherited is not None
        await self._inherited.adopt()
        self._nursery.reap()  # processes that have ended meanwhile
        self._spawn(self._kill_stalled())
        while self._generation is self._inherited:
            self._text = None
            await self.reload()
            if self._generation is self._inherited:
                await asyncio.sleep(TAKE_OVER_S)
        for web in self._inherited_webs.values():
            web.stop()
        self._inherited_webs.clear()
        self._inherited = None
        self._watchers.inherited.clear()
        if self._generation.configuration.is_debug:
            logging.getLogger().setLevel(logging.DEBUG)
        await self._inquiries.start()
        if not self._leaving:
            _log.info("Hand-over complete: %s took over from %s", __version__, self._estate.version)
        self._estate = Estate()
        self._spawn(self._poll_configuration())

    async def hand_over(self) -> None:
        """Let a new version of the program take the place of this one, if it can serve."""
        if self._is_handing_over or self._inherited or not self._is_started:
            _log.warning("SIGUSR2: ignored: a start or a hand-over is under way")
            return
        self._is_handing_over = True
        try:
            async with self._reloading:
                _log.info("SIGUSR2: Handing over to the program on disk")
                self._generation.spare(handover.REHEARSAL_S)
                self._watchers.spare()
                await handover.rehearse(self._left(), self._nursery)
                await self._become_new_version()
        except (ClusterDNSError, OSError) as error:
            _log.error("Hand-over failed, this version goes on serving: %s", error)
        except Exception:
            _log.exception("Hand-over failed, this version goes on serving")
        finally:
            self._is_handing_over = False

    async def _become_new_version(self) -> None:
        """Execute the new version in place of this one. Raises OSError or ClusterDNSError."""
        webs = self._webs.values()
        handover.hold_signals()
        try:
            for web in webs:
                await web.pause()
            # The loop still hears of signals that came before they were held.
            await asyncio.sleep(0.01)
            if self.is_stopping:
                return
            await self._generation.samples()  # those of processes that end from now on
            workers = (heir for generation in self._generations for heir in generation.heirs())
            heirs = (*workers, *self._watchers.heirs())
            handover.become_new_version(self._left()._replace(heirs=heirs))
        finally:
            handover.let_signals_in()
            for web in webs:
                await web.start()

    def _left(self) -> Estate:
        """Return the estate of this version, without its processes."""
        return Estate(
            sockets=tuple(
                tuple(sock.fileno() for group in some.values() for sock in group)
                for some in self._generation.sockets
            ),
            webs={address: tuple(web.descriptors()) for address, web in self._webs.items()},
            feeds=self._watchers.feeds(),
            zones=self._generation.known_zones(),
            samples=tuple(self._ledger.closed),
            reload_failures=self._reload_failures,
            lameduck_s=self._duties.lameduck_s,
            given=self._loader.given,
        )

    async def _start(self, announce: Callable[[Configuration], None]) -> None:
        generation, duties, webs = await self._bound(self._generation.configuration, [])
        self._generation, self._duties = generation, duties
        await self._take_up(duties, webs)
        generation.start()
        self._spawn(self._kill_stalled())
        await generation.wait_until_serving()
        await self._inquiries.start()
        self._is_started = True
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
                self._refuse_emptied(compiled)
                if compiled.digest == self._generation.configuration.digest:
                    self._forget_put_off()
                    return
                if not await self._knows_enough(compiled):
                    return
                _log.info("Reloading")
                before = self._last_good()
                if before is not None:
                    self._reloaded_digest = compiled.digest  # also if it fails, as in CoreDNS
                await self._replace(compiled)
                self._put_off, self._before = None, before
                self._probation_ends = time.monotonic() + PROBATION_S
                _log.info("plugin/reload: Running configuration SHA512 = %s", compiled.digest)
                _log.info("Reloading complete")
            except _Unaware as error:
                self._tell_of_delay(error.unknown)
            except (ClusterDNSError, OSError) as error:
                self._forget_put_off()
                self._reload_failures += 1
                _log.error("Reload failed, the last good configuration stays in force: %s", error)
            except Exception:
                self._forget_put_off()
                self._reload_failures += 1
                _log.exception("Reload failed, the last good configuration stays in force")

    def _last_good(self) -> Configuration | None:
        """Return what comes back if the next configuration fails; None in a hand-over."""
        if self._inherited is not None:
            return None
        is_failing = self._before is not None and self._generation.failing
        return self._before if is_failing else self._generation.configuration

    def _refuse_emptied(self, configuration: Configuration) -> None:
        """Raise ConfigError if the text has lost all its server blocks.

        An editor empties a file before it writes it. In CoreDNS all names are gone until the next
        reload.
        """
        if configuration.is_default and not self._generation.configuration.is_default:
            raise ConfigError("the configuration", 0, "", "no server block is left in it")

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
                    self._tell_of_delay(unknown)
                return False
            await asyncio.sleep(0.02)
        return True

    def _tell_of_delay(self, unknown: Mapping[Source, Collection[str]]) -> None:
        self._reload_failures += 1
        what = "; ".join(f"{', '.join(kinds)} of {s.title}" for s, kinds in unknown.items())
        _log.error(
            "Reload put off, the last good configuration stays in force until there is an answer "
            "about %s", what,
        )  # fmt: skip

    def _unknown(self, configuration: Configuration) -> dict[Source, list[str]]:
        known = self._generation.known_zones()
        return takeover.unknown_kinds(known, configuration, self._watchers.known)

    def _forget_put_off(self) -> None:
        if self._put_off is not None:
            self._put_off = None
            self._watchers.keep_only(self._generation.configuration.sources)

    def _has_cause(self) -> bool:
        """Tell whether to reload although the text of the Corefile is the same."""
        return (
            self._put_off is not None
            or self._loader.imports.have_changed
            or any(map(_is_free, self._loader.unavailable))
        )

    async def explain(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the explanation of a query, see ``explanation.explain``."""
        from clusterdns.processes import explanation  # rarely used

        return await explanation.explain(self._generation, self._watchers, request)

    async def about(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return what tells this server from others that run, see ``explanation.about``."""
        from clusterdns.processes import explanation  # rarely used

        return explanation.about(self._generation)

    async def top(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what was seen of all queries, see ``observation.top``."""
        return await observation.top(self._generation, request)

    async def tail(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the last queries, see ``observation.tail``."""
        return await observation.tail(self._generation, request)

    async def explained(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the explanation of a question with its evidence, see ``explanation.explained``."""
        from clusterdns.processes import explanation  # rarely used

        return await explanation.explained(self._generation, self._watchers, request)

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return how this server does, see ``status.status``."""
        from clusterdns.processes import status  # rarely used

        since = status.Since(self._began, self._reload_failures, self._former_workers())
        return await status.status(self._generation, self._watchers, since)

    async def metrics(self) -> bytes:
        """Return the exposition of all metrics."""
        from clusterdns.metrics import (
            exposition,  # imports a large library, used only here
        )

        living = await asyncio.gather(
            self._watchers.samples(), *(each.samples() for each in self._generations)
        )
        samples = self._ledger.total([sample for some in living for sample in some])
        samples += self._generation.configuration_samples()
        samples.append(("reload_failed_total", (), self._reload_failures))
        samples.append(("clusterdns_build_info", tuple(native.build()), 1))
        samples.append(("clusterdns_fragments_refused", (), self._fragments_refused))
        samples.append(("clusterdns_former_workers", (), len(self._former_workers())))
        if self._reloaded_digest and "reload_version_info" in self._families:
            samples.append(("reload_version_info", ("sha512", self._reloaded_digest), 1))
        pids = [os.getpid(), *self._nursery.pids()]
        declared = registry.always_shown() | self._families
        return exposition.exposition(samples, pids, declared)

    async def _replace(self, configuration: Configuration) -> None:
        """Start the next generation on the sockets of this one, and replace this one by it.

        Raises:
            ClusterDNSError: the next one cannot serve; this one is in force.
            _Unaware: its watcher has lost what it knew.
        """
        old, duties_before = self._generation, self._duties
        new, duties, webs = await self._bound(configuration, old.sockets)
        if new.configuration.digest == old.configuration.digest:
            for web in webs:
                web.stop()
            return  # but for fragments that are left out again
        try:
            wanted = takeover.wanted_kinds(old.known_zones(), configuration)
            old.spare(START_TIMEOUT_S)
            new.start(wanted, is_first_alone=True)
            await self._wait_until_serving(new)
            await self._take_up(duties, webs)
        except BaseException as error:
            # Those that serve have queries under way, if the process is to stop.
            await new.stop(STOP_TIMEOUT_S if isinstance(error, asyncio.CancelledError) else 0)
            for web in webs:
                web.stop()
            new.unbind(old.sockets)
            raise
        self._generation, self._duties = new, duties
        self._leaving.append(old)
        try:
            await self._relieve()
        except GenerationError as error:
            if old is not self._inherited:
                await self._go_back(old, duties_before)
                raise
            _log.error("Hand-over not complete, workers of the version before go on: %s", error)

    async def _relieve(self) -> None:
        """Replace the workers that still serve for those in force. Raises GenerationError."""
        await self._generation.relieve(self._leaving)
        for old in self._leaving:
            await old.stop()
            old.unbind(self._generation.sockets)
        self._leaving = []
        self._watchers.keep_only(self._generation.configuration.sources)

    async def _relieve_again(self) -> None:
        """Go on with what could not be completed; a reload may come in between."""
        async with self._reloading:
            with contextlib.suppress(GenerationError):  # it was logged the first time
                if self._leaving:
                    await self._relieve()
                    _log.info("Hand-over complete: no worker from before serves any more")

    async def _go_back(self, old: Generation, duties: Duties) -> None:
        """Let a generation be in force again, some of whose workers have ended."""
        self._leaving.remove(old)
        self._leaving.append(self._generation)
        self._generation, self._duties = old, duties
        try:
            await self._take_up(duties, await self._bound_webs(duties))
            await self._relieve()
        except ClusterDNSError as error:
            _log.error("the last good configuration is not in force everywhere: %s", error)

    async def _undo_reload(self) -> None:
        """Let the configuration before be in force again if the workers of this one fail."""
        async with self._reloading:
            before, self._before = self._before, None
            failing = self._generation.failing
            if before is None or not failing:
                return
            self._reload_failures += 1
            _log.error("Reload failed, the last good configuration comes back: %s", failing)
            try:
                await self._replace(before)
                _log.info("The last good configuration is in force again")
            except (ClusterDNSError, OSError) as error:
                _log.error("the last good configuration does not come back: %s", error)

    @property
    def _generations(self) -> tuple[Generation, ...]:
        """The generation in force, and those from before whose workers may still serve."""
        return self._generation, *self._leaving

    def _former_workers(self) -> list[str]:
        """Return the names of the workers from before that still serve."""
        return [name for old in self._leaving for name in old.serving()]

    async def _wait_until_serving(self, new: Generation) -> None:
        """Return when the workers serve; they wait for what is known of each zone.

        Raises:
            GenerationError: they do not in time.
            _Unaware: a watcher has ended, and its successor does not know that in ``KNOWING_S``.
        """
        serving = asyncio.create_task(new.wait_until_serving())
        knew_at = time.monotonic()
        try:
            while not serving.done():
                unknown = self._unknown(new.configuration)
                if not unknown:
                    knew_at = time.monotonic()
                elif time.monotonic() - knew_at > KNOWING_S:
                    raise _Unaware(unknown)
                await asyncio.wait((serving,), timeout=0.1)
            serving.result()
        finally:
            await _cancel((serving,))

    async def _bound(
        self, configuration: Configuration, old: list[Sockets]
    ) -> tuple[Generation, Duties, list[Web]]:
        """Return the generation of a configuration with its sockets, its duties, and new webs.

        Fragments that listen where nobody can are left out.

        Raises:
            BindError, AddressError: an address cannot be had, and the Corefile itself names it.
        """
        while True:
            generation = self._generation_of(configuration)
            duties = Duties(self, generation)
            for plugin in configuration.plugins:
                plugin.supervise(duties)
            try:
                generation.bind(old)
                return generation, duties, await self._bound_webs(duties)
            except (BindError, AddressError) as error:
                generation.unbind(old)
                configuration = await self._without(error)

    async def _bound_webs(self, duties: Duties) -> list[Web]:
        """Return the webs that are not served yet, bound. Raises AddressError."""
        made = list[Web]()
        try:
            for address in duties.paths.keys() - self._webs.keys():
                web = self._inherited_webs.get(address) or Web(address)
                await web.bind()
                made.append(web)
        except BaseException:
            for web in made:
                if web is not self._inherited_webs.get(web.address):
                    web.stop()
            raise
        return made

    async def _without(self, error: BindError | AddressError) -> Configuration:
        """Return the configuration without the fragments for which a bind failed, or raise that."""
        unavailable = self._loader.unavailable
        if error.at in unavailable or self._text is None:
            raise error
        unavailable[error.at] = str(error)
        try:
            loop = asyncio.get_running_loop()
            compiled = await loop.run_in_executor(None, self._loader.compile, self._text)
        except ClusterDNSError:
            del unavailable[error.at]
            raise error from None
        self._fragments_refused = len(compiled.refused)
        return compiled

    def _generation_of(self, configuration: Configuration) -> Generation:
        for plugin in configuration.plugins:
            self._families.update(plugin.families)
        return Generation(configuration, self._nursery, self._watchers, self._ledger)

    async def _take_up(self, duties: Duties, added: Iterable[Web]) -> None:
        """Apply the requests of the plugins of a generation. Raises AddressError."""
        for web in added:
            web.paths, web.site = duties.paths[web.address], duties.sites.get(web.address)
            await web.start()
        for address in self._webs.keys() - duties.paths.keys():
            self._webs.pop(address).stop()
        for web in added:
            self._webs[web.address] = web
            self._inherited_webs.pop(web.address, None)
        for address, paths in duties.paths.items():
            self._webs[address].paths = paths
            self._webs[address].site = duties.sites.get(address)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self.reload()))
        loop.add_signal_handler(signal.SIGCHLD, self._nursery.reap)
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self.hand_over()))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        handover.let_signals_in()  # if the version before held them

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
        await _cancel(self._tasks)
        await asyncio.gather(*(each.stop(is_last=True) for each in self._generations))
        for web in self._webs.values():
            web.stop()

    async def _kill_stalled(self) -> None:
        """Kill each process that has stopped beating; it is started again."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(WATCHDOG_S)
            # Who was stopped itself, as a frozen container is, has not read the others' beats yet.
            if time.monotonic() - began < WATCHDOG_S + LATE_S:
                for generation in self._generations:
                    generation.kill_stalled()
                self._watchers.kill_stalled()
            if not self._reloading.locked():
                self._go_on()

    def _go_on(self) -> None:
        """Go on with what could not be completed before."""
        if time.monotonic() > self._probation_ends:
            self._before = None
        if self._before and self._generation.failing:
            self._spawn(self._undo_reload())
        elif self._leaving:
            self._spawn(self._relieve_again())
        elif self._put_off and not self._unknown(self._put_off):
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


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S + 1)


def _is_free(address: ListenAddress | str) -> bool:
    """Tell whether an address that could not be bound can be had by now."""
    if isinstance(address, ListenAddress):
        return is_free(address)
    with contextlib.suppress(AddressError):
        for sock in bound(address):
            sock.close()
        return True
    return False
