"""Plugins of one thought: what is asked, or what is answered, is all they look at.

``Knowing`` answers some questions from what it knows and lets the plugins behind answer the others;
``Changing`` rewrites what they say. Both say the same by either method, so what they say
may be remembered, and neither minds which name it is about. ``Passing`` looks at nothing.
"""

from __future__ import annotations

from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Passive, Plugin
from clusterdns.chain.route import Route
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response


class Passing(Passive):
    """Stands in the chain, and is there for what it tells others of its block or of a query."""

    handles = True

    def treats_alike(self, cut: WireName) -> bool:
        """Say yes: no name matters here."""
        return True


class Knowing(Plugin):
    """Answers what it knows, whoever asks."""

    def respond(self, question: Question) -> Response | None:
        """Return the answer, or None to let the plugins behind speak."""
        raise NotImplementedError

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what is known here, or what the plugins behind say."""
        response = self.respond(question)
        return next(question) if response is None else response

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what is known here, or what the plugins behind say."""
        response = None if query.question is None else self.respond(query.question)
        return await next(query) if response is None else response


class Changing(Plugin):
    """Changes the messages of the plugins behind; bare return codes are none."""

    def changed(self, question: Question, response: Response) -> Response:
        """Return what is said instead of ``response``, a message."""
        raise NotImplementedError

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return what the plugins behind say, changed."""
        response = next(question)
        return None if response is None else self._change(question, response)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return what the plugins behind say, changed."""
        response = await next(query)
        return response if query.question is None else self._change(query.question, response)

    def _change(self, question: Question, response: Response) -> Response:
        if response is DROP or response.bare:
            return response
        return self.changed(question, response)

    def treats_alike(self, cut: WireName) -> bool:
        """Say yes: no name matters here."""
        return True

    def relay(self, route: Route) -> bool:
        """Say no, unless a subclass knows that plain replies stay as they are."""
        return False
