"""From a Corefile to what can be served: plugins, views and listeners.

``compile_text`` parses the text, makes the plugins of every server block and puts them into views,
and the views into one router for each listener. It returns a complete configuration, or raises a
ConfigError with file and line; it binds and starts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clusterdns.chain import registry
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import Plugin
from clusterdns.chain.registry import COREDNS_ORDER
from clusterdns.chain.view import Router, View
from clusterdns.cluster.source import Source
from clusterdns.config.fragments import settle
from clusterdns.corefile.checks import check_directives, check_overlaps
from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.lexer import Files
from clusterdns.corefile.parser import Directive, Fragments, ServerBlock, parse
from clusterdns.errors import ConfigError
from clusterdns.host import addresses, interfaces
from clusterdns.wire import name, trace
from clusterdns.wire.name import WireName

if TYPE_CHECKING:  # without TLS nothing imports ssl
    from clusterdns.host.encryption import Encryption

SCHEMES = ("dns", "tls", "https", "grpc")  # served
# The default of CoreDNS without a Corefile (coremain/run.go defaultLoader).
DEFAULT_COREFILE = ".:{port} {{\n    whoami\n    log\n}}\n"


class ListenAddress(NamedTuple):
    """An address to listen on: an IP address or "" for all, a port, and a scheme."""

    host: str
    port: int
    scheme: str = "dns"

    @property
    def label(self) -> str:
        """The metric label ``server``."""
        return f"{self.scheme}://{addresses.host_and_port(self.host, self.port)}"


class Configuration(NamedTuple):
    """A compiled Corefile. ``digest`` is that of its parsed content."""

    views: tuple[View, ...]
    routers: dict[ListenAddress, Router]
    digest: str
    workers: int
    refused: tuple[ConfigError, ...] = ()  # one mistake for each fragment left out
    is_default: bool = False  # the text has no server block
    blocks: tuple[ServerBlock, ...] = ()

    @property
    def plugins(self) -> list[Plugin]:
        """All plugins, in the order in which they start."""
        found = [plugin for view in self.views for plugin in view.plugins]
        return sorted(found, key=_place)

    @property
    def sources(self) -> list[Source]:
        """The Kubernetes sources, each once."""
        return list(dict.fromkeys(s for plugin in self.plugins for s in plugin.sources()))

    @property
    def sources_by_plugin(self) -> dict[str, Source]:
        """The source of each plugin that has one, by ``trace.plugin_key``."""
        return {
            trace.plugin_key(view.place, plugin.places[0]): source
            for view in self.views
            for plugin in view.plugins
            for source in plugin.sources()
        }

    @property
    def zones(self) -> list[str]:
        """The zones served, as ``zone:port``, in the order of the file."""
        return [
            f"{'' if scheme == 'dns' else scheme + '://'}{name.text(zone)}:{port}"
            for view in self.views
            for zone, port, scheme in _keys(view.block)
        ]

    def encryption(self, endpoint: ListenAddress) -> Encryption | None:
        """Return the TLS of a listener, None if it has none."""
        if endpoint.scheme == "dns":
            return None
        views = self.routers[endpoint].views.values()
        return next(view.block.encryption for some in views for view in some)

    def first_zone(self, view: View) -> str:
        """Return the zone of a block's first key."""
        return name.text(view.block.zones[0])

    @property
    def is_debug(self) -> bool:
        """Whether a block asks for debug lines."""
        return any(view.block.debug for view in self.views)


def compile_text(
    text: str,
    file: str,
    *,
    port: int,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    files: Files | None = None,
    unavailable: Mapping[ListenAddress | str, str] | None = None,
) -> Configuration:
    """Return the configuration of a Corefile; ``port`` is that of keys without one.

    Fragments with a mistake are left out, see `fragments`. So are those that listen where nobody
    can: ``unavailable`` says why, by the address, which is a text if it is one of HTTP.

    Raises:
        ConfigError: the text, or a file it imports by its name, has a mistake.
    """
    disk = files or DiskFiles()
    said = list[str]()

    def attempt(fragments: Fragments) -> Configuration:
        said.clear()
        blocks = parse(
            text, file, environ=environ, files=disk, warn=said.append, fragments=fragments
        )
        is_default = not blocks
        if is_default:
            default = DEFAULT_COREFILE.format(port=port)
            blocks = parse(default, "default Corefile", environ={}, files=disk, warn=said.append)
        compiled = compile_blocks(blocks, port=port)
        _check_available(blocks, compiled.views, unavailable or {})
        return compiled._replace(is_default=is_default)

    configuration, refused = settle(attempt)
    for reason in said:
        warn(reason)
    return configuration._replace(refused=refused)


def compile_blocks(blocks: list[ServerBlock], *, port: int) -> Configuration:
    """Return the configuration of parsed server blocks. Raises ConfigError."""
    known = _known(blocks)
    check_directives(blocks, known, [word for word in COREDNS_ORDER if word not in known])
    _check_schemes(blocks)
    views = _views(blocks, port, _classes(blocks))
    check_overlaps(blocks, port, [view.block.hosts for view in views])
    _check_listeners(blocks, views)
    digest = hashlib.sha512(repr(blocks).encode()).hexdigest()
    workers = max((view.block.workers for view in views), default=1)
    return Configuration(tuple(views), _routers(views), digest, workers, blocks=tuple(blocks))


def _known(blocks: list[ServerBlock]) -> Collection[str]:
    """Return the names of plugins; those of other packages only if necessary."""
    used = {directive.name for block in blocks for directive in block.directives}
    return registry.own() if used <= registry.own() else registry.available()


def _check_schemes(blocks: list[ServerBlock]) -> None:
    for block in blocks:
        for key in block.keys:
            if key.scheme not in SCHEMES:
                reason = f"{key.scheme}:// is not supported by clusterdns yet"
                raise ConfigError(block.file, block.line, key.text, reason)


def _views(blocks: list[ServerBlock], port: int, classes: Sequence[type[Plugin]]) -> list[View]:
    """Return the view of each server block.

    The order of ``classes`` decides only which of several mistakes is reported.
    """
    makings = [_Making(block, _block(block, port), classes) for block in blocks]
    for class_ in classes:
        for making in makings:
            making.make(class_)
    for making in makings:
        making.made.sort(key=_place)
        body = making.body
        body.server = _first_endpoint(body).label
        if not body.hosts:
            body.local_addresses = interfaces.non_loopback()
    return [View(making.body, making.made) for making in makings]


class _Making:
    """Makes the plugins of one server block, each when it is needed or in its turn."""

    def __init__(self, block: ServerBlock, body: Block, classes: Sequence[type[Plugin]]) -> None:
        self.body = body
        self.made: list[Plugin] = []
        self._directives = {each: block.find(each.name) for each in classes}
        self._waiting = dict.fromkeys(each for each in classes if self._directives[each])
        body.make_what_provides = self._make_what_provides

    def make(self, class_: type[Plugin]) -> None:
        """Make the plugins of a directive, unless that is done or under way."""
        if class_ in self._waiting:
            del self._waiting[class_]
            directives = self._directives[class_]
            made = class_.setup(directives, self.body)
            places = [f"{each.file}:{each.line}" for each in directives]
            for i, plugin in enumerate(made):
                is_own = len(made) == len(directives)
                plugin.places = (places[i],) if is_own else tuple(places)
            self.made += made

    def _make_what_provides(self, type_: type[object]) -> None:
        for class_ in [each for each in self._waiting if type_ in each.provides]:
            self.make(class_)


def _classes(blocks: list[ServerBlock]) -> list[type[Plugin]]:
    """Return the class of each directive that is used, in the order of the chain.

    Raises:
        ConfigError: a plugin of another package cannot be loaded.
    """
    used: dict[str, Directive] = {}
    for directive in (each for block in blocks for each in block.directives):
        used.setdefault(directive.name, directive)
    return sorted((_load(directive) for directive in used.values()), key=_place)


def _load(directive: Directive) -> type[Plugin]:
    try:
        return registry.load(directive.name)
    except registry.PluginError as error:
        raise directive.error(str(error)) from error


def _place(plugin: Plugin | type[Plugin]) -> tuple[float, str]:
    """Return the place of a plugin in the chain; the name decides between equal places."""
    return plugin.order, plugin.name


def _block(block: ServerBlock, port: int) -> Block:
    zones = [name.fold(name.parse(key.zone)) for key in block.keys]
    body = Block(zones, block.file, block.line)
    body.ports = tuple(key.effective_port(port) for key in block.keys)
    body.schemes = tuple(key.scheme for key in block.keys)
    return body


def _keys(block: Block) -> Iterator[tuple[WireName, int, str]]:
    """Yield zone, port and scheme of each key."""
    return zip(block.zones, block.ports, block.schemes, strict=True)


def _first_endpoint(block: Block) -> ListenAddress:
    return ListenAddress((block.hosts or [""])[0], block.ports[0], block.schemes[0])


def _check_listeners(blocks: list[ServerBlock], views: list[View]) -> None:
    """Check that a port is served in one way, with one certificate. Raises ConfigError."""
    first: dict[tuple[str, int], tuple[ListenAddress, View, WireName]] = {}
    streams: dict[ListenAddress, int] = {}
    for block, view in zip(blocks, views, strict=True):
        for key, (zone, port, scheme) in zip(block.keys, _keys(view.block), strict=True):
            for host in view.block.hosts or [""]:
                endpoint = ListenAddress(host, port, scheme)
                other, before, its_zone = first.setdefault((host, port), (endpoint, view, zone))
                reason = ""
                if other.scheme != scheme:
                    reason = f"the port is that of {other.label}, too"
                elif scheme != "dns" and (conflict := _conflict(before.block, view.block)):
                    reason = (
                        f"conflicting TLS configuration for shared listener {endpoint.label} "
                        f'between zones "{name.text(its_zone)}" and "{name.text(zone)}": {conflict}'
                    )
                elif scheme == "https":
                    reason = _conflict_of_streams(streams, view.block, endpoint)
                if reason:
                    raise ConfigError(block.file, block.line, key.text, reason)


def _check_available(
    blocks: list[ServerBlock],
    views: Sequence[View],
    unavailable: Mapping[ListenAddress | str, str],
) -> None:
    """Check that no block listens on an address that cannot be had. Raises ConfigError."""
    for block, view in zip(blocks, views, strict=True):
        for key, (_, port, scheme) in zip(block.keys, _keys(view.block), strict=True):
            for host in view.block.hosts or [""]:
                if reason := unavailable.get(ListenAddress(host, port, scheme)):
                    raise ConfigError(block.file, block.line, key.text, reason)
        for plugin in view.plugins:
            if plugin.web_address and (reason := unavailable.get(plugin.web_address)):
                found = block.find(plugin.name)
                with_address = [each for each in found if each.args]
                raise (with_address or found)[-1].error(reason)


def _conflict(block: Block, other: Block) -> str:
    """Return why two blocks cannot share a TLS listener, "" if they can."""
    if block.encryption is None or other.encryption is None:
        is_same = block.encryption is other.encryption
        return "" if is_same else "TLS is configured for only one server block"
    return block.encryption.conflict(other.encryption)


def _conflict_of_streams(
    known: dict[ListenAddress, int], block: Block, endpoint: ListenAddress
) -> str:
    """Return why a block cannot share a listener of HTTPS with those before it, "" if it can."""
    most = block.web.most_streams
    if most is None:
        return ""
    other = known.setdefault(endpoint, most)
    if other == most:
        return ""
    shared = f"shared HTTPS listener {endpoint.label}"
    return f"conflicting max_streams values for {shared}: {other} and {most}"


def _routers(views: list[View]) -> dict[ListenAddress, Router]:
    """Return one router per listener, and tell each block which one is its own."""
    tables: dict[ListenAddress, dict[WireName, list[View]]] = {}
    for view in views:
        for zone, port, scheme in _keys(view.block):
            for host in view.block.hosts or [""]:
                at = tables.setdefault(ListenAddress(host, port, scheme), {}).setdefault(zone, [])
                if view not in at:
                    at.append(view)
    routers = {endpoint: Router(table) for endpoint, table in tables.items()}
    for view in views:
        view.block.resolver = routers[_first_endpoint(view.block)]
    return routers
