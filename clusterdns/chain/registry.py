"""The plugins, and the place of each in the chain.

A plugin of ours is a file under ``plugins/``, one of another package an entry point. CoreDNS's
directives have its order; any other plugin names, in its own file, the directive it is placed
``after`` or ``before``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clusterdns.chain.plugin import Plugin
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.family import Family

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_PLUGINS = Path(__file__).parent.parent / "plugins"
_IS_ALWAYS_SHOWN = re.compile(r"^    always_shown = True$", re.MULTILINE)
ENTRY_POINTS = "clusterdns.plugins"  # the group of other packages

# The order of the chain (CoreDNS 1.15.0: core/dnsserver/zdirectives.go).
COREDNS_ORDER: tuple[str, ...] = (
    "root", "metadata", "geoip", "cancel", "proxyproto", "quic", "grpc_server", "https",
    "https3", "timeouts", "multisocket", "reload", "nsid", "bufsize", "bind", "debug", "trace",
    "ready", "health", "pprof", "shed", "prometheus", "errors", "log", "dnstap", "local",
    "dns64", "siit", "any", "chaos", "loadbalance", "tsig", "rewrite", "autopath", "acl", "cache",
    "header", "dnssec", "tls", "minimal", "template", "transfer", "dynupdate", "hosts",
    "route53", "azure", "clouddns", "k8s_external", "kubernetes", "file", "auto", "secondary",
    "etcd", "loop", "forward", "grpc", "erratic", "whoami", "on", "sign", "view", "nomad",
)  # fmt: skip


class PluginError(ClusterDNSError):
    """A plugin of another package that cannot be loaded."""


@functools.cache
def own() -> frozenset[str]:
    """Return the names of our plugins."""
    return frozenset(module.name for module in pkgutil.iter_modules([str(_PLUGINS)]))


def available() -> list[str]:
    """Return the names of all plugins, ours and those of other packages, sorted.

    The first call reads the metadata of every installed package, which takes 20 ms.
    """
    return sorted(own() | _installed().keys())


@functools.cache
def always_shown() -> dict[str, Family]:
    """Return the metric families that every exposition shows, whether their plugin is used or not.

    Our plugins are found by a search of their files, since importing all takes 0.2 s.
    """
    found = sorted(
        path.stem
        for path in _PLUGINS.glob("*.py")
        if _IS_ALWAYS_SHOWN.search(path.read_text("utf-8"))
    )
    families = [load(word).families for word in found]
    return {k: v for each in families for k, v in each.items() if not v.labels}


def load(word: str) -> type[Plugin]:
    """Return the plugin class of a directive: the one that ``plugins/<word>.py`` defines.

    Otherwise it is the entry point ``word`` of an installed package.

    Raises:
        PluginError: that package cannot be loaded.
    """
    return _load(word, ())


def _load(word: str, dependents: tuple[str, ...]) -> type[Plugin]:
    """Return the class of a directive, which the places of ``dependents`` refer to."""
    if word in own():
        module = importlib.import_module(f"clusterdns.plugins.{word}")
        return _placed(word, _class_in(module), dependents)
    entry = _installed()[word]
    try:
        found = entry.load()
        found = _class_in(found) if isinstance(found, ModuleType) else found
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise TypeError(f"{entry.value} is no plugin")
        return _placed(word, found, dependents)
    except PluginError:  # of the directive it is placed beside
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise PluginError(f"cannot load {entry.value}: {type(error).__name__}: {error}") from error


def manual(word: str) -> str:
    """Return the manual of a plugin, the docstring of its module. Raises PluginError."""
    return inspect.getdoc(inspect.getmodule(load(word))) or ""


def purpose(manual: str) -> str:
    """Return the purpose that the first line of a manual states."""
    return manual.partition("\n")[0].partition(" - ")[2]


def _installed() -> dict[str, EntryPoint]:
    """Return the plugins of installed packages, by the name of their directive.

    The search and its import, which takes 15 ms, are done only when needed.
    """
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _class_in(module: ModuleType) -> type[Plugin]:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Plugin)
            and value.__module__ == module.__name__
        ):
            return value
    raise TypeError(f"{module.__name__} defines no plugin")


def _placed(word: str, found: type[Plugin], dependents: tuple[str, ...]) -> type[Plugin]:
    """Give a class its name and its place, and return it."""
    found.name = word
    if word in COREDNS_ORDER:
        found.order = COREDNS_ORDER.index(word)
        return found
    anchor = found.after or found.before
    if not anchor or (found.after and found.before):
        raise TypeError("wants `after` or `before`, one directive in the chain")
    depth = 0
    if anchor in COREDNS_ORDER:
        order: float = COREDNS_ORDER.index(anchor)
    elif anchor in (word, *dependents):
        raise TypeError(f"its place is relative to {anchor}, whose place is relative to it")
    elif anchor in own() or anchor in _installed():
        neighbor = _load(anchor, (word, *dependents))
        order, depth = neighbor.order, neighbor.depth
    else:
        raise TypeError(f"wants `after` or `before` of a directive, and {anchor!r} is none")
    # Each step halves the distance, so a plugin stays between its directive and the next.
    found.depth = depth + 1
    found.order = order + (1 if found.after else -1) * 0.5**found.depth
    return found
