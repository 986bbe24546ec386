"""Whether each result of the load is as it must be.

Wrong is an answer that was no state of its name (see ``model``), which is never allowed. Lost is a query
whose client gave up; of names of the cluster none may be, but while the whole program is started again.
Names outside may fail while upstream servers do. Late is what took long outside of the short windows that
a fault names.

The machine has other work, so an echo server says what it takes itself: ``lateness`` is what a query took
longer than the slowest echo of the same seconds. The echo server has the priority that the server has.
"""

from __future__ import annotations

import array
import collections
import functools
import time
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
from load import AGAIN, ECHO
from model import Model, State, Windows

SLOW_S = 0.05
BAD_S = 0.25  # what a shared machine does not do by itself
MAX_VIOLATIONS = 20  # after so many nothing new is learned


class Question(NamedTuple):
    """What is asked; ``source`` is who knows the answer: api, manifests, upstream or real."""

    name: str
    rdtype: str
    source: str
    packet: bytes

    @classmethod
    def make(cls, name: str, rdtype: str, source: str) -> Question:
        query = dns.message.make_query(name, rdtype, use_edns=0, payload=1232)
        return cls(name, rdtype, source, query.to_wire())

    @property
    def is_known(self) -> bool:
        return self.source in ("api", "manifests")


class Bad(NamedTuple):
    """A result that was not as it is without faults, whether it was allowed or not."""

    sent: float
    received: float
    cost: str  # slow, old, outside or lost
    is_certain: bool  # else it was only slow, and so may the machine have been


class Judge:
    """``look`` at each result, in any order; ``violations`` are what must not be."""

    def __init__(self, model: Model, questions: list[Question]) -> None:
        self._model, self.questions = model, questions
        self.slow_windows = Windows()  # of faults that cost time
        self.outside_windows = Windows()  # of faults that cost names outside
        self.lost_windows = Windows()  # of starts of the whole program
        self.active = Windows()  # of all actions
        # Known names outside of slow windows, by what was under way: how many, how many were slow.
        self.shares: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self.violations: list[str] = []
        self.asked, self.asked_known, self.again, self.failed_outside = 0, 0, 0, 0
        self.lost = 0  # known names, while the whole program was started again
        self.latencies = array.array("d")  # of known names, outside of windows
        self._sent = array.array("d")  # when each of these was sent
        self.latencies_outside = array.array("d")
        self.echoes = array.array("d")  # at the same times
        self._slowest: dict[int, float] = {}  # echo, by the second in which it was sent
        self._bad: list[Bad] = []  # those that were slow are to be compared with echoes
        self.started = time.monotonic()

    def look(self, sent: float, received: float, number: int, flags: int, reply: bytes) -> None:
        """Take one result of the load."""
        is_calm = not self.slow_windows.touching(sent, received)
        if number == ECHO:
            second = int(sent)
            self._slowest[second] = max(self._slowest.get(second, 0.0), received - sent)
            if is_calm and reply:
                self.echoes.append(received - sent)
            return
        question = self.questions[number]
        self.asked += 1
        self.asked_known += question.is_known
        self.again += bool(flags & AGAIN)
        state = read(reply[2:]) if reply else "no reply"
        cost = "slow" if question.is_known else "outside"
        if not reply or received - sent > BAD_S or flags & AGAIN:
            self._bad.append(Bad(sent, received, cost, not reply or bool(flags & AGAIN)))
        if isinstance(state, str):
            self._failed(question, sent, received, state)
        elif not self._is_right(question, sent, received, state):
            self._say(question, sent, f"{show(state)} is wrong, {self._shown(question, sent)}")
        elif question.is_known and is_calm:
            self.latencies.append(received - sent)
            self._sent.append(sent)
            for name in self.active.touching(sent, received) or ["nothing"]:
                self.shares[name][0] += 1
                self.shares[name][1] += received - sent > SLOW_S
        elif is_calm and not self.outside_windows.touching(sent, received):
            self.latencies_outside.append(received - sent)

    def _is_right(self, question: Question, sent: float, received: float, state: State) -> bool:
        source = "manifests" if question.source == "manifests" else "api"
        allowed = functools.partial(self._model.allowed, question.name, source, sent, received)
        if state in allowed(forgives=False):
            return True
        if state not in allowed():
            return False
        self._bad.append(Bad(sent, received, "old", True))
        return True

    def _slowest_echo(self, sent: float, received: float) -> float:
        """Return what the slowest echo took of the seconds in which a query was under way."""
        seconds = range(int(sent), int(received) + 1)
        return max((self._slowest.get(second, 0.0) for second in seconds), default=0.0)

    def bad(self) -> list[Bad]:
        """Return what was bad, in its order, without what was as slow for the echo server."""
        return sorted(
            bad for bad in self._bad
            if bad.is_certain
            or bad.received - bad.sent > BAD_S + self._slowest_echo(bad.sent, bad.received)
        )  # fmt: skip

    def lateness(self) -> array.array[float]:
        """Return how much longer each query of a known name took than the slowest echo beside it."""
        return array.array("d", (
            max(0.0, took - self._slowest_echo(sent, sent + took))
            for sent, took in zip(self._sent, self.latencies, strict=True)
        ))  # fmt: skip

    def in_quiet_seconds(self) -> array.array[float]:
        """Return what known names took in seconds in which no echo was slow."""
        return array.array("d", (
            took for sent, took in zip(self._sent, self.latencies, strict=True)
            if self._slowest_echo(sent, sent + took) <= SLOW_S
        ))  # fmt: skip

    def _failed(self, question: Question, sent: float, received: float, what: str) -> None:
        if question.is_known:
            if self.lost_windows.touching(sent, received):
                self.lost += 1
                self._bad.append(Bad(sent, received, "lost", True))
            else:
                self._say(question, sent, f"{what} after {received - sent:.1f} s")
            return
        self.failed_outside += 1
        if not self.outside_windows.touching(sent, received):
            self._say(question, sent, f"{what}, and its servers are well")

    def _shown(self, question: Question, sent: float) -> str:
        latest = [show(s) for s in self._model.latest(question.name, 4)]
        return f"the latest states are {', '.join(latest)}"

    def _say(self, question: Question, sent: float, what: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            at = sent - self.started
            self.violations.append(f"{at:.2f} s: {question.name} {question.rdtype}: {what}")


@functools.lru_cache(maxsize=20_000)
def read(octets: bytes) -> State | str:
    """Return the state that a reply without its ID says, or as text why it says none."""
    try:
        message = dns.message.from_wire(b"\0\0" + octets)
    except dns.exception.DNSException as error:
        return f"malformed: {error!r}"
    if message.flags & dns.flags.TC:
        return "truncated"  # the client asks over TCP; no known name here is so large
    match message.rcode():
        case dns.rcode.NXDOMAIN:
            return None
        case dns.rcode.NOERROR:
            return frozenset(str(data).lower() for rrset in message.answer for data in rrset)
    return dns.rcode.to_text(message.rcode())


def show(state: State) -> str:
    if state is None:
        return "NXDOMAIN"
    return "{" + " ".join(sorted(state)) + "}"


def percentile(values: array.array[float], share: float) -> float:
    """Return the value below which a share of them is, 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0
