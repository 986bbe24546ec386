"""Remarks on server blocks that can be served, but perhaps not as they were meant.

``remarks`` says in which order plugins act where the text has another, which blocks and plugins are
never asked, which zones take names from others, which queries come back to this server, and where
names that `policy` hides elsewhere can be seen. Zones that a plugin answers are those that it keeps
from the relay (``Plugin.relay``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from clusterdns.chain.plugin import Passive, Plugin
from clusterdns.chain.route import Route
from clusterdns.chain.view import View
from clusterdns.config.compile import Configuration
from clusterdns.corefile.parser import Directive, ServerBlock
from clusterdns.forwarding import destinations
from clusterdns.forwarding.destinations import Destination
from clusterdns.forwarding.outside import Outside
from clusterdns.host import addresses
from clusterdns.wire import name
from clusterdns.wire.name import ROOT, WireName

ORDER, NEVER, SHADOWS, LOOP, OPEN = "order", "never", "shadows", "loop", "open"
# Plugins that answer all names of their zones themselves.
_ANSWERING = frozenset(
    ("auto", "endpoint", "etcd", "file", "ingress", "k8s_external", "kubernetes", "secondary")
)
_OF_THE_CLUSTER = ("kubernetes", "k8s_external")
WITHOUT_ANSWER = "no plugin of this server block answers: its names are refused"


class Remark(NamedTuple):
    """A remark on a line; ``word`` stands on it."""

    kind: str
    file: str
    line: int
    word: str
    text: str


def remarks(
    blocks: Sequence[ServerBlock], configuration: Configuration, ours: Iterable[str] = ()
) -> list[Remark]:
    """Return the remarks on blocks and their configuration, by line.

    ``ours`` are addresses of Services that lead to this server.
    """
    views, found = configuration.views, list[Remark]()
    for block, view in zip(blocks, views, strict=True):
        found += _order(block, view)
        found += _without_answer(block, view)
        found += _behind_forward(view)
        found += _within_a_zone(block, view)
        found += _to_ourselves(view, frozenset(ours))
        found += _of_plugins(view)
    found += _behind_conditions(configuration)
    found += _taken_from_others(configuration)
    found += _circles(views)
    found += _without_policy(views)
    return sorted(dict.fromkeys(found), key=lambda each: (each.file, each.line, each.kind))


def _order(block: ServerBlock, view: View) -> Iterator[Remark]:
    """Yield the order of the plugins that see queries, if the text has another."""
    seeing = (plugin.name for plugin in view.chain if not isinstance(plugin, Passive))
    acting = list(dict.fromkeys(seeing))
    written = [each.name for each in block.directives if each.name in acting]
    if acting != list(dict.fromkeys(written)):
        text = f"plugins act in this order, whatever the text says: {', '.join(acting)}"
        yield Remark(ORDER, block.file, block.line, block.keys[0].text, text)


def _without_answer(block: ServerBlock, view: View) -> Iterator[Remark]:
    if not view.chain:
        yield Remark(NEVER, block.file, block.line, block.keys[0].text, WITHOUT_ANSWER)


def _behind_forward(view: View) -> Iterator[Remark]:
    """Yield the plugins after a `forward` that takes every name."""
    before: Plugin | None = None
    for plugin in view.chain:
        if isinstance(plugin, Passive):
            continue  # it only observes, or has conditions
        if before is not None and plugin.name != before.name:
            yield _never(plugin, f"{_title(before)} takes every name before it is asked")
        elif before is None:
            route = Route(ROOT)
            plugin.relay(route)
            is_all = route.forwarded is not None and not route.claimed and not route.is_claimed
            before = plugin if is_all else None


def _within_a_zone(block: ServerBlock, view: View) -> Iterator[Remark]:
    """Yield plugins with a zone that lies in that of a plugin before, which passes nothing on."""
    for i, plugin in enumerate(view.chain):
        if plugin.name not in _ANSWERING:
            continue
        for zone in claimed(plugin):
            for other in view.chain[:i]:
                above = [each for each in claimed(other) if name.is_within(zone, each)]
                if other.name == plugin.name or other.name not in _ANSWERING or not above:
                    continue
                if not _falls_through(block, other, zone):
                    text = f"{_title(other)} answers all of {name.text(above[0])} before"
                    yield _never(plugin, f"for {name.text(zone)}: {text}")


def _behind_conditions(configuration: Configuration) -> Iterator[Remark]:
    """Yield blocks of a zone that stand behind one without a `view`."""
    for router in configuration.routers.values():
        for zone, views in router.views.items():
            for i, view in enumerate(views):
                if view.filter is None:
                    for behind in views[i + 1 :]:
                        text = (
                            f"never chosen for {name.text(zone)}: the block of line "
                            f"{view.block.line} has no `view` and takes every query"
                        )
                        block = behind.block
                        yield Remark(NEVER, block.file, block.line, "", text)
                    break


def _taken_from_others(configuration: Configuration) -> Iterator[Remark]:
    """Yield server blocks that take names from a zone that a plugin of another block answers."""
    for router in configuration.routers.values():
        for views in router.views.values():
            for view in views:
                for plugin in view.chain:
                    if plugin.name not in _ANSWERING:
                        continue
                    for zone in claimed(plugin):
                        yield from _takers(zone, plugin, view, router.views)


def _takers(
    zone: WireName, plugin: Plugin, owner: View, all_views: dict[WireName, list[View]]
) -> Iterator[Remark]:
    for other, views in all_views.items():
        is_between = any(name.is_within(other, each) for each in owner.block.zones)
        if zone == ROOT or not name.is_below(other, zone) or not is_between:
            continue
        for view in views:
            if view is not owner:
                text = (
                    f"takes the names in {name.text(other)} from {_title(plugin)}, "
                    f"which answers {name.text(zone)}"
                )
                word = name.text(other).removesuffix(".")
                yield Remark(SHADOWS, view.block.file, view.block.line, word, text)


def _of_plugins(view: View) -> Iterator[Remark]:
    """Yield the remarks of plugins on their own lines."""
    for plugin in view.plugins:
        for place, text in plugin.remarks():
            yield Remark(NEVER, *_split(place), "", text)


def _without_policy(views: Sequence[View]) -> Iterator[Remark]:
    """Yield the blocks that tell names of the cluster without `policy`, if another block has it."""
    ruled = next((view.block for view in views if _has(view, "policy")), None)
    for view in views:
        teller = next((word for word in _OF_THE_CLUSTER if _has(view, word)), None)
        if ruled is not None and teller is not None and not _has(view, "policy"):
            text = (
                f"{teller} tells names here that policy may hide in the block of line "
                f"{ruled.line}: each block has its own rules"
            )
            yield Remark(OPEN, view.block.file, view.block.line, "", text)


def _has(view: View, word: str) -> bool:
    return any(plugin.name == word for plugin in view.plugins)


def _to_ourselves(view: View, ours: frozenset[str]) -> Iterator[Remark]:
    """Yield servers of `forward` that are a Service in front of this server."""
    for one in _upstreams(view):
        if one.host in ours:
            text = f"{one.host} is the Service of this DNS server: what is forwarded comes back"
            yield _at_forward(view, one, text)


def _circles(views: Sequence[View]) -> Iterator[Remark]:
    """Yield servers of `forward` from which queries come back to their own block."""
    leads = {
        i: [
            (one, j)
            for one in _upstreams(view)
            for j, other in enumerate(views)
            if destinations.is_ourselves(one, other.block.hosts, other.block.ports)
        ]
        for i, view in enumerate(views)
    }
    for i, view in enumerate(views):
        for one, first in leads[i]:
            if i in _reached(first, leads) and _may_return(view, views[first]):
                text = f"{addresses.host_and_port(one.host, one.port)} is this server: "
                yield _at_forward(view, one, text + "what is forwarded there comes back")


def _reached(start: int, leads: dict[int, list[tuple[Destination, int]]]) -> set[int]:
    """Return the blocks that a query may come to, once it is at ``start``, that one included."""
    found, ahead = set[int](), [start]
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += [to for _, to in leads[each]]
    return found


def _may_return(view: View, other: View) -> bool:
    """Tell whether a name of a block may lie in a zone of another one."""
    return any(
        name.is_within(zone, each) or name.is_within(each, zone)
        for zone in view.block.zones
        for each in other.block.zones
    )


def _upstreams(view: View) -> list[Destination]:
    """Return the servers that a block forwards to, those over plain DNS."""
    found = []
    for text in sorted(view.block.shared(Outside).upstreams):
        host, port = addresses.split(text)
        found.append(Destination(host, int(port or 53), destinations.DNS, ""))
    return found


def _at_forward(view: View, one: Destination, text: str) -> Remark:
    plugin = next(each for each in view.chain if each.name == "forward")
    file, line = _place(plugin)
    return Remark(LOOP, file, line, one.host, text)


def claimed(plugin: Plugin) -> list[WireName]:
    """Return the zones whose names a plugin answers: those that it keeps from the relay."""
    route = Route(ROOT)
    plugin.relay(route)
    return [*route.claimed, *route.parts]


def _falls_through(block: ServerBlock, plugin: Plugin, zone: WireName) -> bool:
    """Tell whether a plugin leaves missing names of a zone to the next one."""
    for directive in block.find(plugin.name):
        for line in directive.block:
            if line.name == "fallthrough" and _covers(line, zone):
                return True
    return False


def _covers(line: Directive, zone: WireName) -> bool:
    zones = [name.fold(name.parse(text)) for text in line.args]
    return not zones or any(name.is_within(zone, each) for each in zones)


def _never(plugin: Plugin, text: str) -> Remark:
    file, line = _place(plugin)
    return Remark(NEVER, file, line, plugin.name, f"never asked: {text}" if text[:4] != "for " else
                  f"never asked {text}")  # fmt: skip


def _title(plugin: Plugin) -> str:
    return f"{plugin.name} of line {_place(plugin)[1]}"


def _place(plugin: Plugin) -> tuple[str, int]:
    return _split(plugin.places[0] if plugin.places else ":0")


def _split(place: str) -> tuple[str, int]:
    """Return the file and the line of ``file:line``."""
    file, _, line = place.rpartition(":")
    return file, int(line)
