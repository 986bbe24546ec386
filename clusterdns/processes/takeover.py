"""Whether the next generation knows as much as this one, zone by zone.

A reload may change what is watched while the API server is down. The workers of the next generation
would then deny nothing and answer SERVFAIL, where those of this one answer. So it has to wait until
each zone is known as well as before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from clusterdns.cluster.source import Source
from clusterdns.config.compile import Configuration

Zone = tuple[int, str, bytes]  # port, scheme, apex
KnownZones = Mapping[Zone, frozenset[str]]


def known_zones(
    configuration: Configuration, was_known: Callable[[Source], Collection[str]]
) -> KnownZones:
    """Return the kinds that a configuration knows of each of its zones.

    ``was_known`` returns the kinds that workers have been told of a source.
    """
    return {
        zone: frozenset.intersection(*(frozenset(was_known(source)) for source in sources))
        for zone, sources in _sources(configuration).items()
    }


def wanted_kinds(before: KnownZones, new: Configuration) -> dict[Source, frozenset[str]]:
    """Return the kinds that are known of a zone and that ``new`` watches, too, by its source."""
    found: dict[Source, frozenset[str]] = {}
    for zone, sources in _sources(new).items():
        for source in sources:
            wanted = before.get(zone, frozenset()).intersection(source.kinds)
            found[source] = found.get(source, frozenset()) | wanted
    return found


def unknown_kinds(
    before: KnownZones, new: Configuration, is_known: Callable[[Source], Collection[str]]
) -> dict[Source, list[str]]:
    """Return the kinds that are known of a zone and that ``new`` does not know yet, by its source.

    ``is_known`` returns those that the watcher of a source would tell a new worker. Kinds that only
    one of the two watches do not count.
    """
    wanted = wanted_kinds(before, new)
    lacking = {source: kinds.difference(is_known(source)) for source, kinds in wanted.items()}
    return {source: sorted(kinds) for source, kinds in lacking.items() if kinds}


def _sources(configuration: Configuration) -> dict[Zone, list[Source]]:
    """Return the sources that each zone is answered from."""
    found: dict[Zone, list[Source]] = {}
    for view in configuration.views:
        listeners = set(zip(view.block.ports, view.block.schemes, strict=True))
        for plugin in view.plugins:
            for source, zones in plugin.sources().items():
                for port, scheme in listeners:
                    for zone in zones:
                        found.setdefault((port, scheme, zone), []).append(source)
    return found
