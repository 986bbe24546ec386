"""Checks a Corefile without serving it: what it would serve, and all its mistakes.

``check`` compiles the text that `configmap` has read, as a start would. A start ends at the first
mistake; here it is noted and removed, and the rest is compiled again, until it could be served. A
directive whose arguments are refused hides its block, which is read with other arguments.
Warnings, which a start logs, are among the findings, each once.

The check may run outside the Pod. A `kubernetes` directive for the cluster it runs in therefore
gets an API server, which is never asked; and in a Corefile from a ConfigMap, a missing file or
interface that the Pod may have is noted and is not a mistake.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from clusterdns.chain import registry
from clusterdns.chain.plugin import Plugin, Repeats
from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.chain.route import Route
from clusterdns.chain.view import View
from clusterdns.config.advice import LOOP, NEVER, OPEN, WITHOUT_ANSWER, Remark, remarks
from clusterdns.config.compile import Configuration, compile_blocks
from clusterdns.config.configmap import Subject
from clusterdns.config.fragments import settle
from clusterdns.config.places import Places
from clusterdns.corefile.parser import Directive, Fragments, ServerBlock, parse
from clusterdns.errors import ConfigError
from clusterdns.wire import name, trace
from clusterdns.wire.name import WireName

ERROR, WARNING, NOTICE = "error", "warning", "notice"  # severities
NOT_HERE = "not here"
MAX_MISTAKES = 100
MOST_EXAMPLES = 3  # of arguments, for a directive whose own are refused
MOST_ZONES = 3  # of a server block, that are named in front of a reason
_NO_RELAY = "sees each query for a name outside, so none takes the relay in C"
Blocks = list[ServerBlock]
_API_SERVER = "https://kubernetes.default.svc"
_SOURCES = ("endpoint", "kubeconfig", "manifests")


class Findings(NamedTuple):
    """The zones a Corefile would serve, as ``zone:port``, and its mistakes."""

    zones: list[str]
    refused: list[ConfigError]
    unsupported: list[str]  # directives of CoreDNS among them
    elsewhere: list[ConfigError]  # files and interfaces missing on this machine
    left_out: list[ConfigError]  # mistakes for which imported files would be left out
    warnings: list[str]
    slow: list[str]  # plugins that keep queries off the fast path, with place and reason
    remarks: list[Remark]  # on what can be served, but perhaps not as it was meant

    @property
    def mistakes(self) -> int:
        """The number of mistakes."""
        return len(self.refused) + len(self.elsewhere) + len(self.left_out)


def check(subject: Subject, *, port: int, ours: Collection[str] = ()) -> Findings:
    """Return the findings on ``subject``; ``port`` is that of keys without one.

    ``ours`` are addresses of Services that lead to this server.
    """
    found = Findings([], [], [], [], [], [], [], [])
    with logged(found.warnings):
        _check(subject, port, found, ours)
    found.warnings[:] = dict.fromkeys(found.warnings)
    return found


def _check(subject: Subject, port: int, found: Findings, ours: Collection[str]) -> None:
    fragments = Fragments()
    blocks = _blocks(subject, port, found, fragments)
    if not (blocks or found.refused):
        found.warnings.append(f"{subject.file}: no server block; `whoami` would be served")
    written = _by_place(blocks)
    while blocks:
        sourced = [_with_source(block) for block in blocks]
        try:
            configuration = compile_blocks(sourced, port=port)
        except ConfigError as error:
            is_elsewhere = subject.is_mounted and _is_about_surroundings(error)
            refused = found.left_out if error.file in fragments.found else found.refused
            (found.elsewhere if is_elsewhere else refused).append(error)
            left = _without(blocks, error)
            if left == blocks or found.mistakes >= MAX_MISTAKES:
                break
            known = {_at_error(each) for each in (*found.refused, *found.elsewhere)}
            for hidden in _hidden(blocks, error, port):
                if _at_error(hidden) not in known and found.mistakes < MAX_MISTAKES:
                    is_elsewhere = subject.is_mounted and _is_about_surroundings(hidden)
                    (found.elsewhere if is_elsewhere else refused).append(hidden)
            blocks = left
        else:
            found.zones.extend(configuration.zones)
            found.warnings.extend(_repeated(blocks))
            cut = {at for at, block in _by_place(blocks).items() if block != written.get(at)}
            found.remarks.extend(
                each
                for each in remarks(sourced, configuration, ours)
                # A block that lacks what is refused may answer with it.
                if each.text != WITHOUT_ANSWER or (each.file, each.line) not in cut
            )
            said = {each.text for each in found.remarks}  # with a line, and so not without it
            found.warnings[:] = [w for w in found.warnings if w.partition(": ")[2] not in said]
            for view in configuration.views:
                found.slow.extend(_slow(view, configuration))
            break
    found.refused.sort(key=lambda error: (error.file, error.line))
    found.left_out.sort(key=lambda error: (error.file, error.line))
    there = {error.word for error in found.refused + found.left_out} & set(COREDNS_ORDER)
    there -= registry.own()
    found.unsupported.extend(sorted(there - set(registry.available()) if there else ()))


def _by_place(blocks: Iterable[ServerBlock]) -> dict[tuple[str, int], ServerBlock]:
    return {_at(block): block for block in blocks}


def _blocks(
    subject: Subject, port: int, found: Findings, fragments: Fragments
) -> list[ServerBlock]:
    """Return the server blocks, without fragments that cannot be parsed or inserted.

    Mistakes in other fragments are found line by line.
    """

    def read(fragments: Fragments, broken: Callable[[ConfigError], None] | None = None) -> Blocks:
        found.warnings.clear()
        return parse(
            subject.text,
            subject.file,
            environ=os.environ,
            files=subject.files,
            warn=found.warnings.append,
            fragments=fragments,
            broken=broken,
        )

    with contextlib.suppress(ConfigError):  # of the Corefile itself: reported below
        _, refused = settle(
            lambda those: compile_blocks([_with_source(each) for each in read(those)], port=port)
        )
        for error in refused:
            if not error.line:
                fragments.left_out.add(error.file)
                found.left_out.append(error)
    while True:
        broken = list[ConfigError]()
        blocks = read(fragments, broken.append)
        if not broken:
            return blocks
        (error,) = broken
        if error.file not in fragments.found or len(found.left_out) >= MAX_MISTAKES:
            found.refused.append(error)  # the text behind it cannot be checked
            return blocks
        found.left_out.append(error)
        fragments.left_out.add(error.file)


@contextlib.contextmanager
def logged(into: list[str]) -> Iterator[None]:
    """Collect warnings in a list instead of logging them."""
    handler = _Into(into)
    root = logging.getLogger()
    others, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = others


class _Into(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(record.getMessage())


def _repeated(blocks: list[ServerBlock]) -> Iterator[str]:
    """Yield the effect of each directive that is repeated in a block.

    Some directives may be repeated for zones or rules; for others the first or the last counts.
    """
    for block in blocks:
        seen = set[str]()
        for each in block.directives:
            repeats = registry.load(each.name).repeats
            if each.name in seen and repeats is not Repeats.NEVER:
                yield f"{each.file}:{each.line}: {each.name}: given once more; {repeats.value}"
            seen.add(each.name)


def _slow(view: View, configuration: Configuration) -> Iterator[str]:
    """Yield what keeps queries of a server block off the fast paths: ``place: zones reason``."""
    zones_of = dict[tuple[str, str], list[str]]()
    shared = {
        zone
        for router in configuration.routers.values()
        for zone, views in router.views.items()
        if len(views) > 1
    }
    for zone in dict.fromkeys(view.block.zones):
        for place, reason in _slow_in(view, zone, is_shared=zone in shared):
            zones_of.setdefault((place, reason), []).append(name.text(zone))
    for (place, reason), zones in zones_of.items():
        yield f"{place}: {trace.some_text(zones, ' ', MOST_ZONES)} {reason}"


def _slow_in(view: View, zone: WireName, *, is_shared: bool) -> Iterator[tuple[str, str]]:
    """Yield each plugin that keeps queries of a zone off a fast path: its line, and the reason.

    The relay needs no reason if no query is forwarded, or if a plugin answers all names of the
    zone. Plugins after `forward` are not asked.
    """
    route, of_relay = Route(zone), list[tuple[str, str]]()
    denies = any(each.denies for each in view.chain)
    for each in view.chain:
        at = each.places[0] if each.places else view.place
        if type(each).answer is Plugin.answer:
            reason = "sees each query, so no answer behind it is repeated from the table"
            yield at, f"{each.name}: {reason}"
        if each.slow:
            yield at, f"{each.name}: {each.slow}"
        route.reasons.clear()
        if not (route.is_claimed or each.relay(route) or route.is_claimed):
            reasons = route.reasons or [_NO_RELAY]
            of_relay += [(at, f"{each.name}: {reason}") for reason in reasons]
        if route.forwarded is not None:
            break
        if denies and type(each).treats_alike is Plugin.treats_alike:
            reason = "may treat names differently, so each name error is found by itself"
            yield at, f"{each.name}: {reason}"
        denies = denies and not each.denies
    if route.forwarded is not None and not route.is_claimed:
        if view.filter is not None or is_shared:
            reason = "depends on the query, so none for a name outside takes the relay in C"
            yield view.place, f"view: {reason}"
        yield from of_relay


class Message(NamedTuple):
    """A finding for other programs; line and column count from 1 on, 0 for none."""

    severity: str
    kind: str
    file: str
    line: int
    column: int
    text: str

    @property
    def place(self) -> str:
        """``file:line:column`` as far as it is known, "" without a line."""
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}" if self.line else ""


def messages(subject: Subject, found: Findings) -> Iterator[Message]:
    """Yield all findings: mistakes, then warnings, then remarks."""
    places = Places(subject)
    for kind, errors in (("refused", found.refused), ("left out", found.left_out)):
        yield from (_of_error(ERROR, kind, each, places) for each in errors)
    yield from (_of_error(WARNING, NOT_HERE, each, places) for each in found.elsewhere)
    for text in found.warnings:
        file, line, rest = places.split(text)
        yield Message(WARNING, WARNING, file, line, places.column(file, line, ""), rest)
    for text in found.slow:
        file, line, rest = places.split(text)
        yield Message(NOTICE, "slow", file, line, places.column(file, line, ""), rest)
    for each in found.remarks:
        severity = WARNING if each.kind in (LOOP, NEVER, OPEN) else NOTICE
        column = places.column(each.file, each.line, each.word)
        yield Message(severity, each.kind, each.file, each.line, column, each.text)


def _of_error(severity: str, kind: str, error: ConfigError, places: Places) -> Message:
    text = f"{error.word}: {error.reason}" if error.word else error.reason
    column = places.column(error.file, error.line, error.word)
    return Message(severity, kind, error.file, error.line, column, text)


def report(subject: Subject, found: Findings) -> Iterator[str]:
    """Yield the lines of the report."""
    places = Places(subject)
    yield subject.title
    yield from (f"  serves    {zone}" for zone in found.zones)
    yield from (f"  refused   {places.of(error)}" for error in found.refused)
    yield from (f"  left out  {places.of(error)}" for error in found.left_out)
    for error in found.elsewhere:
        yield f"  not here  {places.of(error)}; see that the Pod has it"
    for each in messages(subject, found):
        if each.severity in (WARNING, NOTICE) and each.kind != NOT_HERE:
            yield f"  {each.kind:<8}  {each.place}{': ' if each.place else ''}{each.text}"
    if found.unsupported:
        yield f"plugins of CoreDNS that clusterdns does not have: {', '.join(found.unsupported)}"
    if found.refused:
        yield f"{len(found.refused)} refused: clusterdns would not start with it"
    elif found.left_out:
        files = len({error.file for error in found.left_out})
        yield f"clusterdns can serve it without {files} file{'s' if files > 1 else ''} left out"
    else:
        yield "clusterdns can serve it as it is"


def _with_source(block: ServerBlock) -> ServerBlock:
    """Return the block with an API server for `kubernetes` directives without one."""
    return block._replace(directives=tuple(_sourced(each) for each in block.directives))


def _sourced(directive: Directive) -> Directive:
    if directive.name != "kubernetes" or any(line.name in _SOURCES for line in directive.block):
        return directive
    line = directive._replace(name="endpoint", args=(_API_SERVER,), block=(), has_block=False)
    return directive._replace(block=(*directive.block, line), has_block=True)


def _is_about_surroundings(error: ConfigError) -> bool:
    """Tell whether a mistake is a file or an interface that only this machine lacks."""
    if error.word == "bind" and isinstance(error.__cause__, ValueError):
        return True
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return cause is not None


def _without(blocks: list[ServerBlock], error: ConfigError) -> list[ServerBlock]:
    """Return the blocks without the line of the mistake.

    The line is one of a directive's block, else a directive, else a whole server block.
    """
    at = (error.file, error.line)
    lines = [
        block._replace(
            directives=tuple(
                each._replace(block=tuple(line for line in each.block if _at(line) != at))
                for each in block.directives
            )
        )
        for block in blocks
    ]
    if lines != blocks:
        return lines
    directives = [
        block._replace(directives=tuple(each for each in block.directives if _at(each) != at))
        for block in blocks
    ]
    if directives != blocks:
        return directives
    # The last of them: of two overlapping blocks the first one stays.
    with contextlib.suppress(StopIteration):
        i = next(i for i in reversed(range(len(blocks))) if _at(blocks[i]) == at)
        return blocks[:i] + blocks[i + 1 :]
    return blocks


def _hidden(blocks: list[ServerBlock], error: ConfigError, port: int) -> Iterator[ConfigError]:
    """Yield the mistakes in the block of a directive whose arguments are refused.

    A plugin that refuses its arguments does not read on. So the directive is tried with those that
    its manual has in an example, until the lines of its block are good, or with the next ones.
    """
    at = (error.file, error.line)
    found = next((d for block in blocks for d in block.directives if _at(d) == at), None)
    if found is None or not found.block:
        return
    lines, told = {_at(line) for line in found.block}, set[tuple[str, int]]()
    for args in _examples(found.name):
        probe = [block._replace(
            directives=tuple(d._replace(args=args) if _at(d) == at else d for d in block.directives)
        ) for block in blocks]  # fmt: skip
        for _ in range(MAX_MISTAKES):
            mistake = _mistake(probe, port)
            if mistake is None or _at_error(mistake) == at:
                break
            if _at_error(mistake) in lines and _at_error(mistake) not in told:
                told.add(_at_error(mistake))
                yield mistake
            left = _without(probe, mistake)
            if left == probe:
                break
            probe = left
        if mistake is None:
            return


def _mistake(blocks: list[ServerBlock], port: int) -> ConfigError | None:
    """Return what a start with these blocks ends at, None if nothing; the log is not told."""
    with logged([]):
        try:
            compile_blocks([_with_source(block) for block in blocks], port=port)
        except ConfigError as error:
            return error
    return None


def _examples(word: str) -> list[tuple[str, ...]]:
    """Return the arguments that a directive has in the examples of its manual."""
    try:
        manual = sys.modules[registry.load(word).__module__].__doc__ or ""
    except (KeyError, ImportError, registry.PluginError):
        return []
    _, _, examples = manual.partition("\nExamples:\n")
    found = re.findall(rf"^ +{re.escape(word)}((?: [^\s{{}}]+)*)(?: {{)?$", examples, re.MULTILINE)
    return [*dict.fromkeys(tuple(each.split()) for each in found)][:MOST_EXAMPLES]


def _at_error(error: ConfigError) -> tuple[str, int]:
    return error.file, error.line


def _at(of: Directive | ServerBlock) -> tuple[str, int]:
    return of.file, of.line
