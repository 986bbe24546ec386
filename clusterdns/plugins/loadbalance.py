"""loadbalance - change the order of A, AAAA and MX records in each reply.

Syntax:

    loadbalance [round_robin] {
        prefer CIDR...
    }
    loadbalance weighted FILE {
        reload DURATION
    }

With `round_robin`, the default, the order of records is: CNAME, other records in their order,
addresses, MX; addresses and MX are shuffled. `prefer` puts addresses in the first matching CIDR
first.

With `weighted`, in replies to questions for A, AAAA and SRV, one address is put first, each as
often as its weight says: FILE has a line with a name, and below it lines with an address and its
weight, from 1 to 255. Other addresses have weight 1. FILE, relative to `root`, is checked every
`reload`, by default 30s, never with 0; after a mistake its last good version stays in force. While
the file is missing, all weights are 1; with `reload 0` that is a mistake.

Examples:

    . {
        loadbalance {
            prefer 10.0.0.0/8
        }
        whoami
    }

An answer in the table has up to sixteen orders, with a different address first in each, and the ID
of the query selects one; if that is not exact, new orders are drawn every second. Weighted replies
are not relayed.

Differences from CoreDNS: names in FILE are compared without regard to case.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import random
from collections.abc import Sequence
from pathlib import Path

from clusterdns.addressing.networks import Network
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Repeats, Worker
from clusterdns.chain.polling import Polling
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.formats import weightsfile
from clusterdns.host.logs import plugin_logger
from clusterdns.host.stamp import Stamp, read_regular
from clusterdns.wire import name, rr
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, Sections
from clusterdns.wire.rr import RR

MAX_ORDERS = 16
REDRAW_S = 1.0
RELOAD_S = 30.0
MAX_FILE_OCTETS = 4 * 2**20
_MOVABLE = frozenset((rr.A, rr.AAAA, rr.MX))
_WEIGHTED = frozenset((rr.A, rr.AAAA, rr.SRV))
_log = plugin_logger("loadbalance")


class LoadBalance(Polling):
    """Gives each response the orders its records are to be sent in."""

    repeats = Repeats.LAST

    def __init__(self, directive: Directive, block: Block) -> None:
        self._random = random.Random()
        self._preferred: list[Network] = []
        self._file: _WeightFile | None = None
        self.reload_s = 0.0
        match directive.args:
            case () | ("round_robin",):
                for line in directive.block:
                    self._read_preference(line)
            case ("weighted", path):
                self._file = _WeightFile(block.path(path).absolute(), directive)
                self.reload_s = self._file.reload_s
            case ("weighted", *_):
                raise directive.error("weighted wants one FILE")
            case (policy, *_):
                raise directive.error(f"unknown policy {policy!r}, or something behind it")

    def _read_preference(self, line: Directive) -> None:
        if line.name != "prefer":
            raise line.unknown("prefer")
        for word in line.args:
            if "/" not in word:
                raise line.error(f"{word!r} is no network such as 10.0.0.0/8")
            self._preferred.append(arguments.network(word, line))

    async def start(self, worker: Worker) -> None:
        """Start to poll the weight file."""
        self.look_again(worker)

    async def look(self) -> bool:
        """Take up the weight file if it has changed; return whether it has."""
        file = self._file
        if file is None:
            return False
        try:
            has_changed = await asyncio.to_thread(file.read)
        except (OSError, ValueError) as error:
            _log.error("the last good weights stay in force: %s: %s", file.path, error)
            return False
        if has_changed:
            _log.info("Successfully reloaded weight file %s", file.path)
        return has_changed

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory with its orders."""
        response = next(question)
        return None if response is None else self._balance(question, response)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why no record is moved, for `explain`."""
        return "the reply has no two records that could change places"

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Let the relay shuffle addresses; return False for preferences and weights."""
        route.shuffles = True
        return not self._preferred and self._file is None

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response with its records in a new order."""
        response = await next(query)
        if query.question is None:
            return response
        return self._balance(query.question, response)

    def _balance(self, question: Question, response: Response) -> Response:
        is_transfer = question.qtype in (rr.AXFR, rr.IXFR)
        if response.rcode != rr.NOERROR or is_transfer or response is DROP:
            return response
        if self._file is not None:
            return self._weigh(question, response, self._file.weights)
        return self._shuffle(response)

    # ---- round_robin

    def _shuffle(self, response: Response) -> Response:
        """Return a response with its records in random order, each first in its turn."""
        if len(response.answer) + len(response.authority) + len(response.additional) < 2:
            return response
        most = max(map(_count_movable, response.sections))
        if most < 2:
            return response
        lifetime_s = response.lifetime_s
        if most > MAX_ORDERS:
            lifetime_s = min(lifetime_s, REDRAW_S)
        count = min(most, MAX_ORDERS)
        turns = [self._turns(section, most, count) for section in response.sections]
        orders: list[Sections] = list(zip(*turns, strict=True))
        return _in_orders(response, orders, lifetime_s)

    def _turns(self, section: tuple[RR, ...], most: int, count: int) -> list[tuple[RR, ...]]:
        """Return a section in ``count`` orders, each with another one in front."""
        if not section:
            return [section] * count
        aliases, others, addresses, exchanges = _split(section)
        self._random.shuffle(addresses)
        self._random.shuffle(exchanges)
        found = []
        for i in range(count):
            step = i * most // count
            moved, last = _rotated(addresses, step), _rotated(exchanges, step)
            if self._preferred:
                moved.sort(key=self._rank)
                found.append((*aliases, *moved, *last, *others))
            else:
                found.append((*aliases, *others, *moved, *last))
        return found

    def _rank(self, record: RR) -> int:
        address = ipaddress.ip_address(record.rdata)
        for i, network in enumerate(self._preferred):
            if address in network:
                return i
        return len(self._preferred)

    # ---- weighted

    def _weigh(
        self, question: Question, response: Response, weights: weightsfile.Weights
    ) -> Response:
        """Return a response with an address first, chosen by weight."""
        if question.qtype not in _WEIGHTED:
            return response
        picks = {
            i: [_weight(record, weights) for record in section if record.rtype in (rr.A, rr.AAAA)]
            for i, section in enumerate(response.sections)
            if i != 1  # CoreDNS leaves the authority section alone
        }
        moving = [each for each in picks.values() if len(each) > 1]
        if not any(picks.values()):
            return response
        exact = _shares(moving[0]) if len(moving) == 1 else []
        lifetime_s, count = response.lifetime_s, len(exact) if exact else 1
        if moving and not exact:
            lifetime_s, count = min(lifetime_s, REDRAW_S), MAX_ORDERS
        drawn = {i: self._draw(each, count) for i, each in picks.items() if each}
        orders: list[Sections] = []
        for turn in range(count):
            answer, authority, additional = (
                _with_first(section, drawn[i][turn]) if i in drawn else section
                for i, section in enumerate(response.sections)
            )
            orders.append((answer, authority, additional))
        return _in_orders(response, orders, lifetime_s)

    def _draw(self, weights: Sequence[int], count: int) -> list[int]:
        """Return ``count`` indexes, each in proportion to its weight, within one."""
        total, drawn, reached, i = sum(weights), list[int](), weights[0], 0
        start = self._random.random()
        for turn in range(count):
            while (start + turn) * total / count >= reached and i < len(weights) - 1:
                i += 1
                reached += weights[i]
            drawn.append(i)
        self._random.shuffle(drawn)
        return drawn


class _WeightFile:
    """A weight file on disk, and its last good weights."""

    def __init__(self, path: Path, directive: Directive) -> None:
        self.path = path
        self.reload_s = RELOAD_S
        self.weights: weightsfile.Weights = {}
        self._octets: bytes | None = None
        self._stamp: Stamp | None = None
        for line in directive.block:
            if line.name != "reload":
                raise line.unknown("reload")
            self.reload_s = arguments.seconds(line)
        try:
            self.read()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or not self.reload_s:
                raise directive.error(f"weight file {path}: {error}") from error
            _log.warning("weight file %s: %s: trying again every %g s", path, error, self.reload_s)

    def read(self) -> bool:
        """Load the file; tell whether its weights have changed.

        Raises:
            OSError: it cannot be read, is not a regular file, or is too large.
            ValueError: it has a mistake.
        """
        found = read_regular(self.path, MAX_FILE_OCTETS, self._stamp)
        if found is None:
            return False
        stamp, octets = found
        if octets == self._octets:
            self._stamp = stamp if stamp.is_settled else None
            return False
        self.weights = weightsfile.parse(octets.decode("utf-8", "replace"))
        self._octets = octets
        self._stamp = stamp if stamp.is_settled else None
        return True


_Parts = tuple[list[RR], list[RR], list[RR], list[RR]]  # CNAME, other, address, MX
_PART = {rr.CNAME: 0, rr.A: 2, rr.AAAA: 2, rr.MX: 3}


def _split(section: tuple[RR, ...]) -> _Parts:
    parts: _Parts = ([], [], [], [])
    for record in section:
        parts[_PART.get(record.rtype, 1)].append(record)
    return parts


def _in_orders(response: Response, orders: list[Sections], lifetime_s: float) -> Response:
    """Return a response that alternates between orders."""
    some = tuple(orders) if len(orders) > 1 else ()
    return response.with_sections(orders[0])._replace(orders=some, lifetime_s=lifetime_s)


def _with_first(section: tuple[RR, ...], first: int) -> tuple[RR, ...]:
    """Return a section with one of its addresses in the place of the first one."""
    aliases, others, addresses, exchanges = _split(section)
    addresses[0], addresses[first] = addresses[first], addresses[0]
    return (*aliases, *others, *addresses, *exchanges)


def _weight(record: RR, weights: weightsfile.Weights) -> int:
    return weights.get(name.fold(record.owner), {}).get(record.rdata, 1)


def _shares(weights: list[int]) -> list[int]:
    """Return the exact number of orders for each address, [] if that takes too many."""
    divisor = math.gcd(*weights)
    shares = [weight // divisor for weight in weights]
    if sum(shares) > MAX_ORDERS:
        return []
    return [i for i, share in enumerate(shares) for _ in range(share)]


def _count_movable(section: tuple[RR, ...]) -> int:
    return sum([record.rtype in _MOVABLE for record in section]) if section else 0


def _rotated(records: list[RR], step: int) -> list[RR]:
    if not records:
        return []
    step %= len(records)
    return records[step:] + records[:step]
