"""Checks that need all server blocks.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from clusterdns.corefile.keys import Key
from clusterdns.corefile.lexer import shorten
from clusterdns.corefile.parser import ServerBlock, did_you_mean
from clusterdns.errors import ConfigError

# Directives of CoreDNS, past or present, that are not planned here, with the reason.
_REFUSED = {
    "azure": "reads zones from Azure DNS, which clusterdns does not",
    "clouddns": "reads zones from Google Cloud DNS, which clusterdns does not",
    "federation": "CoreDNS has removed it, and Kubernetes has no federation",
    "https3": "clusterdns does not speak HTTP/3",
    "nomad": "reads names from Nomad, which clusterdns does not",
    "on": "runs commands of the system, which clusterdns does not",
    "pprof": "serves profiles of Go programs, which clusterdns is not",
    "proxy": "CoreDNS has removed it; use forward",
    "proxyproto": "clusterdns reads no PROXY headers, so clients would be taken for the proxy",
    "quic": "clusterdns does not speak QUIC",
    "reverse": "CoreDNS has removed it; use template",
    "route53": "reads zones from Amazon Route 53, which clusterdns does not",
    "shed": "leave it out: clusterdns never waits to send a reply, and drops what is too late",
    "trace": "sends traces of the plugins of CoreDNS, which clusterdns does not",
    "upstream": "CoreDNS has removed it, and nothing takes its place",
}
# The same for options, by directive and option.
_REFUSED_OPTIONS = {
    ("kubernetes", "resyncperiod"): "CoreDNS has removed it; leave it out",
    ("kubernetes", "upstream"): "CoreDNS has removed it; leave it out, names outside are "
    "asked of this server itself",
    ("forward", "protocol"): "is of proxy, which CoreDNS has removed; see force_tcp and tls",
}


def check_directives(
    blocks: Sequence[ServerBlock], known: Collection[str], unsupported: Collection[str]
) -> None:
    """Check that every directive is one of ``known``.

    Raises:
        ConfigError: it is one of ``unsupported``, with the reason if there is one; or unknown, with
            the most similar one; or one of its options is not supported.
    """
    for block in blocks:
        for directive in block.directives:
            for line in directive.block:
                if (directive.name, line.name) in _REFUSED_OPTIONS:
                    raise line.error(_REFUSED_OPTIONS[directive.name, line.name])
            if directive.name in known:
                continue
            if directive.name in _REFUSED:
                raise directive.error(_REFUSED[directive.name])
            if directive.name in unsupported:
                raise directive.error("not supported by clusterdns yet")
            hint = did_you_mean(directive.name, [*known, *unsupported])
            raise directive.error(f"unknown directive{hint}")


def check_overlaps(
    blocks: Sequence[ServerBlock], default_port: int, hosts: Sequence[Sequence[str]] = ()
) -> None:
    """Check that no two blocks serve a zone at one address; ``hosts[i]`` are `bind`'s of block i.

    No hosts is every address, which overlaps any other. Blocks with a `view` share their zone with
    other blocks (CoreDNS: core/dnsserver/address.go).

    Raises:
        ConfigError: two keys overlap.
    """
    taken: dict[tuple[str, str, int], dict[str, Key]] = {}
    for i, block in enumerate(blocks):
        is_view = bool(block.find("view"))
        for key in block.keys:
            place = (key.scheme, key.zone, key.effective_port(default_port))
            at = taken.setdefault(place, {})
            for host in (hosts[i] if i < len(hosts) else ()) or ("",):
                reason = _overlap(key, host, at, default_port, is_view=is_view)
                if reason:
                    served = key.served(default_port, host)
                    raise ConfigError(
                        block.file,
                        block.line,
                        shorten(key.text),
                        f"cannot serve {served} - {reason}",
                    )
                if not is_view:
                    at[host] = key


def _overlap(
    key: Key, host: str, at: Mapping[str, Key], default_port: int, *, is_view: bool
) -> str | None:
    if host in at:
        return None if is_view else "it is already defined"
    if at and not host:
        other = list(at)[-1]  # the block that CoreDNS names
    elif "" in at:
        other = ""
    else:
        return None
    return f"zone overlap listener capacity with {key.served(default_port, other)}"
