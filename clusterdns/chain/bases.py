"""Bases of plugins that depend only on the question or on the response.

``Knowing`` answers some questions itself, and the next plugin answers the others; ``Changing``
rewrites the next plugin's response. Both give the same response by either method, so it may be
kept, and treat all names alike. ``Passing`` changes nothing.
"""

from __future__ import annotations

from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Passive, Plugin
from clusterdns.chain.route import Route
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response


class Passing(Passive):
    """In the chain, but only gives other plugins data of the block or of a query."""

    handles = True

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True


class Knowing(Plugin):
    """Answers some questions itself, equally for every client."""

    def respond(self, question: Question) -> Response | None:
        """Return the response, or None to ask the next plugin."""
        raise NotImplementedError

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return our response, or that of the next plugin."""
        response = self.respond(question)
        return next(question) if response is None else response

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return our response, or that of the next plugin."""
        response = None if query.question is None else self.respond(query.question)
        return await next(query) if response is None else response


class Changing(Plugin):
    """Changes the messages of the next plugin; a bare return code is not a message."""

    def changed(self, question: Question, response: Response) -> Response:
        """Return the response to send instead of ``response``, a message."""
        raise NotImplementedError

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, changed."""
        response = next(question)
        return None if response is None else self._change(question, response)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, changed."""
        response = await next(query)
        return response if query.question is None else self._change(query.question, response)

    def _change(self, question: Question, response: Response) -> Response:
        if response is DROP or response.bare:
            return response
        return self.changed(question, response)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Return False; a subclass that does not change plain replies may return True."""
        return False
