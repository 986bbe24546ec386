"""Notes on how a query is answered, taken by the code that answers it.

Nobody takes notes of ordinary queries: ``scribe()`` returns None, and the code goes on. For a query
that is explained, ``chain.watched`` sets a scribe for each plugin, and ``scribe()`` returns it to
all code that works for this query, also in tasks and callbacks that it starts.

A ``Run`` is a question on its way through a server block, a ``Step`` the part of one plugin in it.
A step that asks further questions has their runs. The number of all notes is bounded.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.response import Response

MAX_NOTES = 2000  # of one explained query, with all questions it leads to
Object = tuple[str, str, str]  # kind, namespace, name of a Kubernetes object


class Note(NamedTuple):
    """A sentence about a decision, the line of the configuration, and the objects it is about.

    ``is_cause`` marks what a client suffers from, if the answer is none.
    """

    text: str
    place: str = ""
    objects: tuple[Object, ...] = ()
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

    def note(self, text: str, *, place: str = "", objects: tuple[Object, ...] = ()) -> None:
        """Take a note, unless the query is answered or has too many."""
        if self.budget.take():
            self.notes.append(Note(text, place, objects))

    def blame(self, text: str, *, place: str = "", objects: tuple[Object, ...] = ()) -> None:
        """Note the cause of an answer that helps no client."""
        if self.budget.take():
            self.notes.append(Note(text, place, objects, is_cause=True))

    def as_plain(self) -> dict[str, Any]:
        """Return what was noted as plain values, for JSON."""
        return {
            "notes": [
                {"text": each.text}
                | ({"place": each.place} if each.place else {})
                | ({"objects": ["/".join(o) for o in each.objects]} if each.objects else {})
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

    def as_plain(self) -> dict[str, Any]:
        """Return the step with the questions it asked as plain values."""
        asked = question_text(self.question)
        return {
            "plugin": self.plugin,
            "places": list(self.places),
            "question": asked if self.question != self.run.question else "",
            "verdict": self.verdict,
            **super().as_plain(),
            "questions": [run.as_plain() for run in self.runs],
        }


_scribe: ContextVar[Scribe | None] = ContextVar("scribe", default=None)
scribe = _scribe.get  # the scribe of the query that this code works for, None for most queries


@contextmanager
def noted_by(taker: Scribe) -> Iterator[None]:
    """Have notes taken by ``taker`` in the body."""
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


def question_text(question: Question) -> str:
    """Return name and type of a question, and its class unless it is IN."""
    text = f"{name.text(question.qname)} {rr.type_text(question.qtype)}"
    is_common = question.qclass == rr.CLASS_IN
    return text if is_common else f"{text} {rr.class_text(question.qclass)}"


def response_text(response: Response) -> str:
    """Return the RCODE of a response and how many records it has."""
    rcode = rr.rcode_text(response.rcode)
    if response.answer:
        count = len(response.answer)
        return f"{rcode} with {count} record{'s' if count > 1 else ''}"
    return f"{rcode} without records" if response.rcode == rr.NOERROR else rcode
