"""A chain whose plugins are watched while they answer, for a query that is explained.

``Watched`` stands for a plugin in a second fold of the same chain. It calls the plugin's own
methods, opens a step for its notes, and sees by its ``next`` whether the plugin answered, passed
the question on, or changed the reply. A plugin that took no notes is asked for its reason. So an
explanation comes from the code that answers.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.wire import trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.response import Response

PASSES = "passes the question on"
_Passed = list[tuple[Question | None, Response | None]]


class Watched:
    """Stands for a plugin in a chain that is explained."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self.name = plugin.name
        self.answers_zones = plugin.answers_zones

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the plugin's response from memory, with a step of the run."""
        step = self._step(question)
        if step is None:
            return self._plugin.answer(question, next)
        passed: _Passed = []

        def pass_on(asked: Question) -> Response | None:
            with trace.noted_by(step.run):
                found = next(asked)
            passed.append((asked, found))
            return found

        with trace.noted_by(step):
            response = self._plugin.answer(question, pass_on)
        self._conclude(step, question, response, passed)
        return response

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the plugin's response, with a step of the run."""
        step = self._step(query.question) if query.question is not None else None
        if step is None:
            return await self._plugin.handle(query, next)
        passed: _Passed = []

        async def pass_on(asked: Query) -> Response:
            with trace.noted_by(step.run):
                found = await next(asked)
            passed.append((asked.question, found))
            return found

        with trace.noted_by(step):
            response = await self._plugin.handle(query, pass_on)
        if query.question is not None:
            self._conclude(step, query.question, response, passed)
        return response

    def _conclude(
        self, step: trace.Step, asked: Question, response: Response | None, passed: _Passed
    ) -> None:
        """Enter the verdict into a step, and a reason if the plugin has taken no notes."""
        step.verdict = _verdict(asked, response, passed)
        if response is None or step.notes or step.verdict.endswith(" instead"):
            return
        if not passed:
            note = step.note if response.answer else step.blame
            if reason := self._plugin.reason(asked, response, is_own=True):
                note(reason)
        elif step.verdict == PASSES:
            step.reason = self._plugin.reason(asked, response, is_own=False)

    def _step(self, question: Question) -> trace.Step | None:
        """Open a step of the run that asks, None if there is no run or no room for more."""
        taker = trace.scribe()
        run = taker.run if isinstance(taker, trace.Step) else taker
        if not isinstance(run, trace.Run) or not run.budget.take():
            return None
        step = trace.Step(run, self._plugin.name, self._plugin.places, question)
        run.steps.append(step)
        return step


def _verdict(asked: Question, response: Response | None, passed: _Passed) -> str:
    """Return what a plugin did, in the words of an explanation."""
    if response is None:
        return "cannot answer from memory"
    if not passed:
        return "drops the query" if response is DROP else f"answers {trace.response_text(response)}"
    question, found = passed[-1]
    how = PASSES
    if question is not None and question._replace(depth=0) != asked._replace(depth=0):
        how = f"asks for {trace.question_text(question)} instead"
    if len(passed) > 1:
        how = f"asks the next plugins {len(passed)} times, at last for " + (
            trace.question_text(question) if question is not None else "nothing"
        )
    if response is found:
        return how
    if found is None or DROP in (found, response):
        return f"{how}, and answers {trace.response_text(response)}"
    change = trace.change_text(found, response)
    return f"{how}, and {change}" if change else how
