"""cache - keep the replies of the plugins behind for as long as their TTLs say.

Syntax:

    cache [TTL] [ZONES...] {
        success CAPACITY [TTL [MINTTL]]
        denial CAPACITY [TTL [MINTTL]]
        servfail DURATION
        disable success|denial [ZONES...]
        keepttl
        prefetch AMOUNT [DURATION [PERCENTAGE%]]
        serve_stale [DURATION [immediate|verify ...]]
        serve_stale_policy prefer_positive
    }

TTL is the longest time in seconds that anything is kept, by default 3600 for success and 1800 for
denial; MINTTL, by default 5, is the shortest. All records of a reply get one TTL, the smallest
among them, within these bounds. CAPACITY is the number of replies kept, 9984 by default. `servfail`
keeps SERVFAIL for DURATION, 5s by default. `keepttl` answers with the TTL of the start, not what is
left.

Examples:

    . {
        cache 30 {
            success 9984 30
            denial 9984 5
            disable success cluster.local
        }
        whoami
    }

Differences from CoreDNS: what plugins know from memory - `kubernetes`, `file` - is not kept here,
since it can be had at the same price and is never stale; its TTLs are bounded all the same. The
least recently used reply makes room for a new one, where CoreDNS drops a random one. Owner names
are spelled as the current query spells the question. `prefetch` and `serve_stale` are checked but
not acted on yet.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from cachetools import LRUCache

from clusterdns import arguments, name, rr
from clusterdns.answers import Response
from clusterdns.corefile import Directive, duration_s
from clusterdns.logs import plugin_logger
from clusterdns.message import AA, AD, OPCODE_QUERY, RA, TC, Query, Question
from clusterdns.name import WireName
from clusterdns.outcome import Outcome, answers_question, has_soa, outcome_of
from clusterdns.plugin import DROP, AnswerNext, Block, HandleNext, Plugin, Worker
from clusterdns.rr import RR
from clusterdns.tally import Sample

DEFAULT_CAPACITY = 9984  # CoreDNS: 10000 over 256 shards of 39
MIN_CAPACITY = 1024
MIN_TTL_S = 5
MAX_SERVFAIL_S = 300.0
MAX_RECHECK_S = 300.0
SUCCESS, DENIAL = "success", "denial"
_KEPT_AS = {
    Outcome.NOERROR: SUCCESS,
    Outcome.DELEGATION: SUCCESS,
    Outcome.NXDOMAIN: DENIAL,
    Outcome.NODATA: DENIAL,
    Outcome.SERVERERROR: DENIAL,
}
_log = plugin_logger("cache")

_Moves = tuple[tuple[str, tuple[str, ...]], ...]
_Key = tuple[WireName, int, int, bool, bool]


class _Item(NamedTuple):
    """A kept reply, the second it was stored, and the TTL it was given."""

    response: Response
    stored_at: float
    ttl: int


class _Limits:
    """What `success` or `denial` says, and the replies kept under it."""

    def __init__(self, ttl: int) -> None:
        self.max_ttl = ttl
        self.min_ttl = MIN_TTL_S
        self.capacity = DEFAULT_CAPACITY
        self.disabled: tuple[WireName, ...] = ()
        self.items: LRUCache[_Key, _Item] = LRUCache(DEFAULT_CAPACITY)

    def clamp(self, ttl: int) -> int:
        """Return a TTL within the bounds; the upper one counts (CoreDNS: dnsutil/ttl.go)."""
        return min(max(ttl, self.min_ttl), self.max_ttl)


class Cache(Plugin):
    """Keeps replies that had to be waited for."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._kinds = {SUCCESS: _Limits(3600), DENIAL: _Limits(1800)}
        self._servfail_s = 5.0
        self._keeps_ttl = False
        args = list(directive.args)
        if args and args[0].lstrip("-").isdigit():
            ttl = arguments.whole(args.pop(0), directive, least=1)
            for limits in self._kinds.values():
                limits.max_ttl = ttl
        self._zones = arguments.zone_names(args, directive) if args else block.zones
        for line in directive.block:
            self._read(line)
        _check_policy(directive)
        for limits in self._kinds.values():
            limits.items = LRUCache(limits.capacity)
        self._worker: Worker | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._known_moves: dict[tuple[str, str, str], _Moves] = {}
        self._zones_label = ",".join(name.text(zone) for zone in self._zones)

    def _read(self, line: Directive) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        match line.name:
            case "success" | "denial":
                self._read_limits(line)
            case "servfail":
                self._servfail_s = arguments.seconds(line)
                if self._servfail_s > MAX_SERVFAIL_S:
                    raise line.error("caching SERVFAIL for more than 5 minutes is not allowed")
            case "disable":
                if line.args[:1] not in ((SUCCESS,), (DENIAL,)):
                    raise line.error("wants success|denial [ZONES...]")
                found = arguments.zone_names(line.args[1:], line)
                self._kinds[line.args[0]].disabled = found or self._zones
            case "keepttl":
                self._keeps_ttl = arguments.flag(line)
            case "prefetch":
                _check_prefetch(line)
            case "serve_stale":
                _check_serve_stale(line)
            case "serve_stale_policy":
                arguments.word(line, "prefer_positive")
            case _:
                raise line.error("unknown property")

    def _read_limits(self, line: Directive) -> None:
        if not line.args:
            raise line.error("wants CAPACITY [TTL [MINTTL]]")
        limits = self._kinds[line.name]
        limits.capacity = max(MIN_CAPACITY, arguments.whole(line.args[0], line, least=0))
        if len(line.args) > 1:
            limits.max_ttl = arguments.whole(line.args[1], line, least=1)
        if len(line.args) > 2:
            limits.min_ttl = arguments.whole(line.args[2], line, least=0)

    async def start(self, worker: Worker) -> None:
        """Take the clock that ages are measured by."""
        self._worker = worker

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind know from memory, its TTLs bounded, or a kept reply."""
        response = next(question)
        if response is not None and (response.bare or response is DROP):
            return response
        if not self._is_mine(question.folded):
            return response
        if response is None:
            return self._find(question)
        self._count("requests")
        self._count("misses")
        outcome = _outcome(question, response, OPCODE_QUERY)
        bounded = _with_ttl(response, self._ttl_of(outcome, response))
        return bounded._replace(
            edns=None, counters=(*bounded.counters, *self._moves("requests", "misses"))
        )

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether TTLs are bounded for all names below ``cut``, or for none."""
        return not any(name.is_within(zone, cut) for zone in self._zones)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return a kept reply, or wait for one and keep it."""
        question = query.question
        if question is None or not self._is_mine(question.folded):
            return await next(query)
        response = self._find(question)
        if response is None:
            self._count("requests")
            self._count("misses")
            asked = query.asking(question)
            asked.flags |= AD  # so that the upstream says whether it has validated
            response = await next(asked)
            if response.bare or response is DROP:
                return response
            response = self._take(question, response, query.opcode)
        if not question.do and not query.flags & AD:
            response = response._replace(flags=response.flags & ~AD)
        return response

    def _is_mine(self, qname: WireName) -> bool:
        return name.is_within_any(qname, self._zones)

    def _find(self, question: Question) -> Response | None:
        """Return the kept reply to a question, or None; SERVFAIL gives way to an answer."""
        key = _key(question)
        now = self._worker.now() if self._worker else 0.0
        denial, success = (self._live(kind, key, now) for kind in (DENIAL, SUCCESS))
        kind, item = DENIAL, denial
        if denial is None or (denial.response.rcode == rr.SERVFAIL and success is not None):
            kind, item = SUCCESS, success
        if item is None:
            return None
        self._count("requests")
        self._count("hits", kind)
        age = now - item.stored_at
        ttl = item.ttl if self._keeps_ttl else item.ttl - math.floor(age)
        response = _with_ttl(item.response, ttl)
        return response._replace(
            flags=(response.flags & (RA | AD)) | AA,
            answer=_spelled(question, response.answer),
            verbatim=False,
            lifetime_s=math.floor(age) + 1 - age,  # then the TTL is one less
            counters=self._moves("requests", "hits", kind),
        )

    def _live(self, kind: str, key: _Key, now: float) -> _Item | None:
        item = self._kinds[kind].items.get(key)
        if item is not None and item.ttl - math.floor(now - item.stored_at) <= 0:
            return None
        return item

    def _take(self, question: Question, response: Response, opcode: int) -> Response:
        """Return a reply with its TTLs bounded, and keep it if it may be kept."""
        outcome = _outcome(question, response, opcode)
        ttl = self._ttl_of(outcome, response)
        bounded = _with_ttl(response, ttl)._replace(edns=None)
        if response.lifetime_s == math.inf or response.facts:  # from memory, and never stale
            return bounded
        kind = _KEPT_AS.get(outcome)
        if kind is None or ttl <= 0 or not _may_be_kept(question, response):
            return bounded
        limits = self._kinds[kind]
        if name.is_within_any(question.folded, limits.disabled):
            return bounded
        key = _key(question)
        items = limits.items
        if key not in items and len(items) >= items.maxsize:
            self._count("evictions", kind)
        now = self._worker.now() if self._worker else 0.0
        items[key] = _Item(bounded, now, ttl)
        return bounded

    def _ttl_of(self, kind: Outcome, response: Response) -> int:
        """Return the one TTL that all records of a reply of this kind get."""
        if kind is Outcome.SERVERERROR:
            return int(self._servfail_s)
        if kind in (Outcome.NXDOMAIN, Outcome.NODATA):
            return self._kinds[DENIAL].clamp(_least_ttl(response))
        if kind is Outcome.NOERROR:
            return self._kinds[SUCCESS].clamp(_least_ttl(response))
        return self._kinds[SUCCESS].clamp(MIN_TTL_S)

    def _count(self, what: str, kind: str = "") -> None:
        self._counts[what, kind] += 1

    def _moves(self, first: str, second: str, kind: str = "") -> _Moves:
        """Return the two counters that a repeated reply moves."""
        found = self._known_moves.get((first, second, kind))
        if found is None:
            found = self._known_moves[first, second, kind] = (
                (f"cache_{first}_total", self._labels("")),
                (f"cache_{second}_total", self._labels(kind)),
            )
        return found

    def _labels(self, kind: str) -> tuple[str, ...]:
        block = self._block
        labels = (block.server, kind, self._zones_label, block.view)
        return labels if kind else (labels[0], *labels[2:])

    def samples(self) -> list[Sample]:
        """Return requests, hits, misses, evictions and the number of replies kept."""
        found: list[Sample] = [
            (f"cache_{what}_total", self._labels(kind), count)
            for (what, kind), count in self._counts.items()
        ]
        for kind, limits in self._kinds.items():
            if limits.items:
                found.append(("cache_entries", self._labels(kind), len(limits.items)))
        return found


def _key(question: Question) -> _Key:
    return question.folded, question.qtype, question.qclass, question.do, question.cd


def _outcome(question: Question, response: Response, opcode: int) -> Outcome:
    """Return the kind of a reply; an alias that leads nowhere, with an SOA, is NODATA."""
    found = outcome_of(question, response, opcode)
    is_alias = found is Outcome.NOERROR and bool(response.answer)
    if is_alias and has_soa(response) and not answers_question(question, response.answer):
        return Outcome.NODATA
    return found


def _may_be_kept(question: Question, response: Response) -> bool:
    """Tell whether a reply of a kind that is kept is complete enough for it."""
    if response.flags & TC:
        return False
    if response.rcode == rr.NXDOMAIN:
        return has_soa(response)
    if response.rcode == rr.NOERROR and response.answer:
        return has_soa(response) or answers_question(question, response.answer)
    return True


def _least_ttl(response: Response) -> int:
    """Return the smallest TTL of all records, 5 where there are none (CoreDNS: dnsutil/ttl.go)."""
    return min((r.ttl for section in response.sections for r in section), default=MIN_TTL_S)


def _with_ttl(response: Response, ttl: int) -> Response:
    if all(r.ttl == ttl for section in response.sections for r in section):
        return response
    answer, authority, additional = (
        tuple(RR(r.owner, r.rtype, ttl, r.rdata, r.rclass) for r in section)
        for section in response.sections
    )
    return response.with_sections((answer, authority, additional))


def _spelled(question: Question, answer: tuple[RR, ...]) -> tuple[RR, ...]:
    """Return records with the question's name as this client spells it."""
    return tuple(
        r._replace(owner=question.qname) if r.owner.lower() == question.folded else r
        for r in answer
    )


def _check_prefetch(line: Directive) -> None:
    if not 1 <= len(line.args) <= 3:
        raise line.error("wants AMOUNT [DURATION [PERCENTAGE%]]")
    arguments.whole(line.args[0], line, least=0)
    if len(line.args) > 1:
        duration_s(line.args[1], line)
    if len(line.args) > 2:
        text = line.args[2]
        if not text.endswith("%") or not 10 <= arguments.whole(text[:-1], line, least=0) <= 90:
            raise line.error(f"wants a percentage from 10% to 90%, got {text!r}")
    _log.warning("prefetch is not acted on yet")


def _check_serve_stale(line: Directive) -> None:
    """Check `DURATION [immediate [TTL [RECHECK]] | verify [TIMEOUT [TTL [RECHECK]]]]`."""
    mode = line.args[1].lower() if len(line.args) > 1 else "immediate"
    if mode not in ("immediate", "verify"):
        raise line.error(f"wants immediate or verify, got {line.args[1]!r}")
    times = ["duration", "TTL", "recheck"] if mode == "immediate" else [
        "duration", "timeout", "TTL", "recheck"
    ]  # fmt: skip
    values = (*line.args[:1], *line.args[2:])
    if len(values) > len(times):
        raise line.error(f"unexpected argument {values[len(times)]!r}")
    for what, text in zip(times, values, strict=False):
        seconds = duration_s(text, line)
        if seconds < 0:
            raise line.error(f"{what} {text} is negative")
        if what == "TTL" and seconds != int(seconds):
            raise line.error(f"TTL {text} is no whole number of seconds")
        if what == "recheck" and seconds > MAX_RECHECK_S:
            raise line.error(f"recheck {text} is more than 5 minutes")
    _log.warning("serve_stale is not acted on yet")


def _check_policy(directive: Directive) -> None:
    named = {line.name: line for line in directive.block}
    if "serve_stale_policy" in named:
        if "serve_stale" not in named:
            raise named["serve_stale_policy"].error("requires serve_stale")
        _log.warning("serve_stale_policy is not acted on yet")
