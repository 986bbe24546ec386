"""Which plugins there are, and the place of each in the chain.

A plugin of ours is a file under ``plugins/``, one of another package an entry point. CoreDNS's
directives have its order; any other plugin says in its own file which one it stands ``after`` or
``before``.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from clusterdns.chain.plugin import Plugin
from clusterdns.errors import ClusterDNSError
from clusterdns.metrics.family import Family

# The plugins with metrics without labels, which every CoreDNS exports, at 0 where it has no use for
# the plugin.
_ALWAYS_SHOWN = ("forward", "health", "hosts", "local", "reload")
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


def available() -> list[str]:
    """Return the names of all plugins, ours and those of other packages, sorted."""
    own = pkgutil.iter_modules([str(Path(__file__).parent.parent / "plugins")])
    return sorted({module.name for module in own} | _installed().keys())


def always_shown() -> dict[str, Family]:
    """Return the metric families of plugins that every exposition shows, used or not."""
    return {k: v for word in _ALWAYS_SHOWN for k, v in load(word).families.items() if not v.labels}


def load(word: str) -> type[Plugin]:
    """Return the plugin class of a directive: the one that ``plugins/<word>.py`` defines.

    Else it is the one that an installed package has under the entry point ``word``.

    Raises:
        PluginError: that package is broken.
    """
    return _load(word, ())


def _load(word: str, dependents: tuple[str, ...]) -> type[Plugin]:
    """Return the class of a directive, whose place ``dependents`` is relative to."""
    path = f"clusterdns.plugins.{word}"
    if importlib.util.find_spec(path) is not None:
        return _placed(word, _class_in(importlib.import_module(path)), dependents)
    entry = _installed()[word]
    try:
        found = entry.load()
        found = _class_in(found) if isinstance(found, ModuleType) else found
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise TypeError(f"{entry.value} is no plugin")
        return _placed(word, found, dependents)
    except PluginError:  # one that this is to stand beside
        raise
    except (Exception, SystemExit) as error:  # it is not ours, and may raise anything
        raise PluginError(f"cannot load {entry.value}: {type(error).__name__}: {error}") from error


def _installed() -> dict[str, EntryPoint]:
    """Return the plugins of installed packages, by the name of their directive."""
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
    elif anchor in available():
        neighbor = _load(anchor, (word, *dependents))
        order, depth = neighbor.order, neighbor.depth
    else:
        raise TypeError(f"wants `after` or `before` of a directive, and {anchor!r} is none")
    # Halves within halves: what stands beside a directive stays on its side of all others.
    found.depth = depth + 1
    found.order = order + (1 if found.after else -1) * 0.5**found.depth
    return found
