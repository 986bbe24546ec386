"""header - set and clear flags in the header of queries and replies.

Syntax:

    header {
        query|response set|clear FLAGS...
    }

FLAGS are `aa`, `ra` and `rd`. The lines of `response` are applied, in order, to the responses of
the next plugins; those of `query` to the queries they get. For queries only `rd` has an effect:
`forward` sends it upstream, and the reply repeats it. A reply that the server makes of a return
code alone is not changed. `cache` comes before this plugin, so cached replies have the changed
flags, except `rd`, which on a hit is that of the query.

Examples:

    . {
        header {
            response set ra
            response clear aa
        }
        whoami
    }

A block with `rd` does not use the answer table, and a block with `header` does not use the relay.
"""

from __future__ import annotations

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Repeats
from clusterdns.corefile.parser import Directive
from clusterdns.wire.message import AA, AD, CD, OPCODE_QUERY, RA, RD, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

_FLAGS = {"aa": AA, "ra": RA, "rd": RD}


class _Rules:
    """The flags to set and to clear: the last line about a flag wins."""

    def __init__(self) -> None:
        self.set = self.clear = 0

    def add(self, line: Directive) -> None:
        action, *words = line.args or ("",)
        if action.lower() not in ("set", "clear"):
            raise line.error(f"wants set or clear, got {action!r}" if action else "wants set|clear")
        if not words:
            raise line.error("wants at least one flag")
        for word in words:
            flag = _FLAGS.get(word.lower())
            if flag is None:
                raise line.error(f"wants flags of {', '.join(_FLAGS)}, got {word!r}")
            self.set, self.clear = self.set & ~flag, self.clear & ~flag
            if action.lower() == "set":
                self.set |= flag
            else:
                self.clear |= flag

    def applied(self, flags: int) -> int:
        return flags & ~self.clear | self.set

    def touches(self, flag: int) -> bool:
        return bool((self.set | self.clear) & flag)


class Header(Plugin):
    """Changes flags of queries and replies."""

    repeats = Repeats.FIRST

    def __init__(self, directive: Directive, block: Block) -> None:
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        if not directive.block:
            raise directive.error("wants query or response, set or clear, and flags")
        self._rules = {"query": _Rules(), "response": _Rules()}
        for line in directive.block:
            rules = self._rules.get(line.name.lower())
            if rules is None:
                raise line.unknown("query", "response")
            rules.add(line)
        self._is_about_rd = any(rules.touches(RD) for rules in self._rules.values())

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin with other flags, None if RD is one of them."""
        response = None if self._is_about_rd else next(question)
        if response is None or response is DROP or response.bare:
            return response
        return response._replace(flags=self._rules["response"].applied(response.flags))

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin to the changed query, with other flags."""
        if self._rules["query"].touches(RD):
            query.flags = query.flags & ~RD | self._rules["query"].applied(query.flags) & RD
        response = await next(query)
        if response is DROP or response.bare:
            return response
        rules, flags = self._rules["response"], response.flags
        if not rules.touches(RD):
            return response._replace(flags=rules.applied(flags))
        if not response.verbatim:
            flags = _as_rendered(query, flags)
        return response._replace(flags=rules.applied(flags), verbatim=True)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True


def _as_rendered(query: Query, flags: int) -> int:
    """Return the flags of a rendered reply, with those of its query."""
    if query.opcode == OPCODE_QUERY:
        flags |= query.flags & (RD | CD)
    do = query.question is not None and query.question.do
    return flags if do or query.flags & AD else flags & ~AD
