"""Notes on how a query is answered, taken by the code that answers it.

Nobody takes notes of ordinary queries: ``scribe()`` returns None, and the code goes on. For a query
that is explained, ``chain.watched`` sets a scribe for each plugin, and ``scribe()`` returns it to
all code that works for this query, also in tasks and callbacks that it starts.

A note may name what it is about: objects of a cluster, entries of a file. Who completes the
explanation looks for them, since the code that answers keeps neither UIDs nor lines.

A ``Run`` is a question on its way through a server block, a ``Step`` the part of one plugin in it.
A step that asks further questions has their runs. The number of all notes is bounded.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from clusterdns.wire import name, rr
from clusterdns.wire.message import AA, AD, RA, TC, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

MOST_NAMES = 4  # in a sentence
_FLAGS = {AA: "aa", TC: "tc", RA: "ra", AD: "ad"}
MAX_NOTES = 2000  # of one explained query, with all questions it leads to
MASTER_FILE, HOSTS_FILE = "master file", "hosts file"
Object = tuple[str, str, str]  # kind, namespace, name of a Kubernetes object


class Entries(NamedTuple):
    """Entries of a file: each an owner and a type, 0 for any; ``zones`` are those the file is for.

    ``serial`` is that of a zone, as it is answered from.
    """

    kind: str  # of file: MASTER_FILE or HOSTS_FILE
    file: str  # an absolute path
    zones: tuple[WireName, ...]
    wanted: tuple[tuple[bytes, int], ...]
    serial: int | None = None

    def as_plain(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        wanted = [[name.text(owner), rtype] for owner, rtype in self.wanted]
        return self._asdict() | {"zones": [*map(name.text, self.zones)], "wanted": wanted}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Entries:
        """Return what ``as_plain`` made plain."""
        zones = tuple(name.fold(name.parse(each)) for each in plain["zones"])
        wanted = tuple((name.parse(owner), rtype) for owner, rtype in plain["wanted"])
        return cls(plain["kind"], plain["file"], zones, wanted, plain["serial"])


class Note(NamedTuple):
    """A sentence about a decision, the line of the configuration, and what it is about.

    ``is_cause`` marks what a client suffers from, if the answer is none.
    """

    text: str
    place: str = ""
    objects: tuple[Object, ...] = ()
    entries: Entries | None = None
    is_cause: bool = False


class Budget:
    """The number of notes that may still be taken; ``is_over`` when the query is answered."""

    def __init__(self) -> None:
        self.left = MAX_NOTES
        self.is_over = False

    def take(self) -> bool:
        """Tell whether one more note may be taken, and count it."""
        if self.is_over or self.left <= 0:
            return False
        self.left -= 1
        return True


class Scribe:
    """Takes the notes of a run or a step."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.notes: list[Note] = []

    def note(
        self,
        text: str,
        *,
        place: str = "",
        objects: tuple[Object, ...] = (),
        entries: Entries | None = None,
        is_cause: bool = False,
    ) -> None:
        """Take a note, unless the query is answered or has too many."""
        if self.budget.take():
            self.notes.append(Note(text, place, objects, entries, is_cause))

    def blame(self, text: str, *, place: str = "", objects: tuple[Object, ...] = ()) -> None:
        """Note the cause of an answer that helps no client."""
        self.note(text, place=place, objects=objects, is_cause=True)

    def as_plain(self) -> dict[str, Any]:
        """Return what was noted as plain values, for JSON."""
        return {
            "notes": [
                {"text": each.text}
                | ({"place": each.place} if each.place else {})
                | ({"objects": ["/".join(o) for o in each.objects]} if each.objects else {})
                | ({"entries": each.entries.as_plain()} if each.entries else {})
                | ({"is_cause": True} if each.is_cause else {})
                for each in self.notes
            ]
        }


class Run(Scribe):
    """A question on its way through a server block; ``verdict`` says what came of it."""

    def __init__(self, question: Question, budget: Budget) -> None:
        super().__init__(budget)
        self.question = question
        self.zones = ""
        self.place = ""
        self.steps: list[Step] = []
        self.verdict = ""

    def as_plain(self) -> dict[str, Any]:
        """Return the run with its steps as plain values."""
        return {
            "question": question_text(self.question),
            "server_block": {"zones": self.zones, "place": self.place},
            **super().as_plain(),
            "steps": [step.as_plain() for step in self.steps],
            "verdict": self.verdict,
        }


class Step(Scribe):
    """The part of one plugin in a run."""

    def __init__(self, run: Run, plugin: str, places: tuple[str, ...], question: Question) -> None:
        super().__init__(run.budget)
        self.run = run
        self.plugin = plugin
        self.places = places
        self.question = question
        self.runs: list[Run] = []
        self.verdict = ""
        self.reason = ""  # why the question was passed on, if the plugin took no notes

    def as_plain(self) -> dict[str, Any]:
        """Return the step with the questions it asked as plain values."""
        asked = question_text(self.question)
        return {
            "plugin": self.plugin,
            "places": list(self.places),
            "question": asked if self.question != self.run.question else "",
            "verdict": self.verdict,
            "reason": self.reason,
            **super().as_plain(),
            "questions": [run.as_plain() for run in self.runs],
        }


_scribe: ContextVar[Scribe | None] = ContextVar("scribe", default=None)
scribe = _scribe.get  # the scribe of the query that this code works for, None for most queries


@contextmanager
def noted_by(taker: Scribe | None) -> Iterator[None]:
    """Have notes taken by ``taker`` in the body; by nobody, if it is None."""
    token = _scribe.set(taker)
    try:
        yield
    finally:
        _scribe.reset(token)


def begin(question: Question) -> Run | None:
    """Return a new run for a question that a step of an explained query asks, else None."""
    taker = _scribe.get()
    if not isinstance(taker, Step) or not taker.budget.take():
        return None
    run = Run(question, taker.budget)
    taker.runs.append(run)
    return run


def plugin_key(block: str, plugin: str) -> str:
    """Return what tells a plugin from all others: the lines of its server block and its own."""
    return f"{block} {plugin}"


def question_text(question: Question) -> str:
    """Return name and type of a question, and its class unless it is IN."""
    text = f"{name.text(question.qname)} {rr.type_text(question.qtype)}"
    is_common = question.qclass == rr.CLASS_IN
    return text if is_common else f"{text} {rr.class_text(question.qclass)}"


def names_text(names: Iterable[bytes]) -> str:
    """Return names in a row, the first of them if there are many."""
    return some_text([name.text(each) for each in names], " ")


def some_text(texts: Sequence[str], between: str = ", ", most: int = MOST_NAMES) -> str:
    """Return texts in a row, the first of them and how many more if there are many."""
    others = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + others


def change_text(before: Response, after: Response) -> str:
    """Return what a client sees changed between two responses, "" if that is nothing."""
    told = []
    if before.rcode != after.rcode:
        told.append(f"makes {rr.rcode_text(after.rcode)} of {rr.rcode_text(before.rcode)}")
    for bit, text in _FLAGS.items():
        if (before.flags ^ after.flags) & bit:
            told.append(f"{'sets' if after.flags & bit else 'clears'} {text}")
    for i, section in enumerate(("answer", "authority", "additional")):
        told += _section_changes(section, before.sections[i], after.sections[i])
    old, new = ({record.ttl for s in each.sections for record in s} for each in (before, after))
    if old != new and old and new:
        told.append(f"changes TTLs {_numbers(old)} to {_numbers(new)}")
    if len(after.orders) > 1 and len(before.orders) <= 1:
        told.append("varies the order of the records")
    if after.verbatim and not before.verbatim:
        told.append("sets flags in place of the query's")
    if before.edns != after.edns and after.edns is not None:
        told.append("adds to the OPT record")
    return ", ".join(told)


def _section_changes(section: str, before: Sequence[RR], after: Sequence[RR]) -> Iterator[str]:
    old, new = ([_content(record) for record in each] for each in (before, after))
    lost, added = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if lost:
        yield f"removes {_records(lost.total())} from the {section} section"
    if added:
        yield f"adds {_records(added.total())} to the {section} section"
    if not lost and not added and old != new:
        yield f"orders the {section} section"


def _content(record: RR) -> tuple[bytes, int, int, bytes]:
    return bytes(record.owner).lower(), record.rtype, record.rclass, bytes(record.rdata)


def _records(count: int) -> str:
    return f"{count} record{'s' if count > 1 else ''}"


def _numbers(found: set[int]) -> str:
    return "/".join(map(str, sorted(found)[:MOST_NAMES]))


def response_text(response: Response) -> str:
    """Return the RCODE of a response and how many records it has."""
    rcode = rr.rcode_text(response.rcode)
    if response.answer:
        return f"{rcode} with {_records(len(response.answer))}"
    return f"{rcode} without records" if response.rcode == rr.NOERROR else rcode
