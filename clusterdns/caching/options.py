"""The options of a `cache` directive, read and checked (CoreDNS: plugin/cache/setup.go).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from clusterdns.corefile import arguments
from clusterdns.corefile.arguments import duration_s
from clusterdns.corefile.parser import Directive
from clusterdns.wire.name import ROOT, WireName

SUCCESS: Final = "success"
DENIAL: Final = "denial"
CAPACITY: Final = 10_000
MIN_CAPACITY: Final = 1024
SHARDS: Final = 256  # CoreDNS: pkg/cache; the capacity is a multiple of it
MAX_SERVFAIL_S: Final = 300.0  # RFC 2308 section 7.1
MAX_RECHECK_S: Final = 300.0
MAX_TTL: Final = 2**32 - 1
_STALE_TIMES: Final = {
    "immediate": ("duration", "TTL", "recheck"),
    "verify": ("duration", "timeout", "TTL", "recheck"),
}


@dataclass(slots=True)
class Limits:
    """Options of `success` or `denial`: TTLs in seconds, capacity, zones not kept."""

    max_ttl: int
    min_ttl: int = 5
    capacity: int = CAPACITY
    disabled: tuple[WireName, ...] = ()

    def clamp(self, ttl: int) -> int:
        """Return a TTL within the bounds; the upper one wins (CoreDNS: dnsutil/ttl.go)."""
        return min(max(ttl, self.min_ttl), self.max_ttl)


@dataclass(frozen=True, slots=True)
class Prefetch:
    """When to renew a reply before its TTL ends; never if ``amount`` is 0."""

    amount: int = 0
    window_s: float = 60.0
    percentage: int = 10

    def threshold(self, ttl: int) -> int:
        """Return the seconds left of ``ttl`` at which to renew, rounded up."""
        return math.ceil(self.percentage / 100 * ttl)  # in floats, as in CoreDNS


@dataclass(frozen=True, slots=True)
class Stale:
    """How replies whose TTL ended less than ``up_to_s`` ago are used; not at all if that is 0.

    ``timeout_s`` bounds the wait for a verification, unless it is 0. ``ttl`` is the TTL of stale
    records. ``recheck_s`` is the pause after a failed refresh.
    """

    up_to_s: float = 0.0
    verifies: bool = False
    timeout_s: float = 0.0
    ttl: int = 0
    recheck_s: float = 0.0


@dataclass(slots=True)
class CacheOptions:
    """One `cache` directive."""

    zones: tuple[WireName, ...]
    limits: dict[str, Limits] = field(
        default_factory=lambda: {SUCCESS: Limits(3600), DENIAL: Limits(1800)}
    )
    servfail_s: float = 5.0
    keeps_ttl: bool = False
    prefetch: Prefetch = Prefetch()
    stale: Stale = Stale()
    prefers_positive: bool = False


def read(directive: Directive, zones: tuple[WireName, ...]) -> CacheOptions:
    """Return the options of a directive; ``zones`` are those of its server block.

    Raises:
        ConfigError: it is invalid.
    """
    options = CacheOptions(zones)
    args = list(directive.args)
    if args and args[0].lstrip("-+").isdigit():
        ttl = arguments.whole(args.pop(0), directive, least=1)
        for limits in options.limits.values():
            limits.max_ttl = ttl
    if args:
        options.zones = arguments.zone_names(args, directive)
    for line in directive.block:
        _read_line(line, options)
    _check_policy(directive)
    for limits in options.limits.values():
        limits.capacity = max(MIN_CAPACITY, limits.capacity // SHARDS * SHARDS)
    return options


def _read_line(line: Directive, options: CacheOptions) -> None:
    match line.name:
        case "success" | "denial":
            _read_limits(line, options.limits[line.name])
        case "servfail":
            options.servfail_s = arguments.seconds(line)
            if options.servfail_s > MAX_SERVFAIL_S:
                raise line.error("caching SERVFAIL for more than 5 minutes is not allowed")
        case "disable":
            if line.args[:1] not in ((SUCCESS,), (DENIAL,)):
                raise line.error("wants success|denial [ZONES...]")
            found = arguments.zone_names(line.args[1:], line)
            options.limits[line.args[0]].disabled = found or (ROOT,)
        case "keepttl":
            options.keeps_ttl = arguments.flag(line)
        case "prefetch":
            options.prefetch = _prefetch(line)
        case "serve_stale":
            options.stale = _stale(line)
        case "serve_stale_policy":
            if arguments.one(line).lower() != "prefer_positive":
                raise line.error(f"wants prefer_positive, got {line.args[0]!r}")
            options.prefers_positive = True
        case _:
            raise line.unknown(
                "success",
                "denial",
                "servfail",
                "disable",
                "keepttl",
                "prefetch",
                "serve_stale",
                "serve_stale_policy",
            )


def _read_limits(line: Directive, limits: Limits) -> None:
    if not line.args:
        raise line.error("wants CAPACITY [TTL [MINTTL]]")
    limits.capacity = arguments.whole(line.args[0], line, least=0)
    if len(line.args) > 1:
        limits.max_ttl = arguments.whole(line.args[1], line, least=1)
    if len(line.args) > 2:
        limits.min_ttl = arguments.whole(line.args[2], line, least=0)


def _prefetch(line: Directive) -> Prefetch:
    if not 1 <= len(line.args) <= 3:
        raise line.error("wants AMOUNT [DURATION [PERCENTAGE%]]")
    amount = arguments.whole(line.args[0], line, least=0)
    if len(line.args) == 1:
        return Prefetch(amount)
    window_s = duration_s(line.args[1], line)
    if len(line.args) == 2:
        return Prefetch(amount, window_s)
    text = line.args[2]
    if not text.endswith("%"):
        raise line.error(f"wants a percentage from 10% to 90%, got {text!r}")
    return Prefetch(amount, window_s, arguments.whole(text[:-1], line, least=10, most=90))


def _stale(line: Directive) -> Stale:
    """Read `DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]`."""
    mode = line.args[1].lower() if len(line.args) > 1 else "immediate"
    if mode not in _STALE_TIMES:
        raise line.error(f"wants immediate or verify, got {line.args[1]!r}")
    names, values = _STALE_TIMES[mode], (*line.args[:1], *line.args[2:])
    if len(values) > len(names):
        raise line.error(f"unexpected argument {values[len(names)]!r}")
    found = {"duration": 3600.0}
    for what, text in zip(names, values, strict=False):
        found[what] = seconds = duration_s(text, line)
        if seconds < 0:
            raise line.error(f"{what} {text} is negative")
        if what == "TTL" and (seconds != int(seconds) or seconds > MAX_TTL):
            raise line.error(f"TTL {text} is no whole number of seconds that a record can have")
        if what == "recheck" and seconds > MAX_RECHECK_S:
            raise line.error(f"recheck {text} is more than 5 minutes")
    return Stale(
        float(int(found["duration"])),
        mode == "verify",
        found.get("timeout", 0.0),
        int(found.get("TTL", 0)),
        found.get("recheck", 0.0),
    )


def _check_policy(directive: Directive) -> None:
    named = [line for line in directive.block if line.name == "serve_stale_policy"]
    if len(named) > 1:
        raise named[1].error("may be given once")
    if named and not any(line.name == "serve_stale" for line in directive.block):
        raise named[0].error("requires serve_stale")
