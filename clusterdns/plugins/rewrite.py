r"""rewrite - change questions for the next plugins, and their replies.

Syntax:

    rewrite [continue|stop] FIELD [TYPE] FROM TO [OPTIONS...]

Rules are tried in the order of the file, each on the question as rewritten so far. The first rule
that applies is the last, unless it has `continue`. The words of a rule may also be lines of a
block. The reply always has the client's own question.

* `name [exact|prefix|suffix|substring|regex] FROM TO`: the name. `{0}`, `{1}`... in TO are what the
  groups of a regular expression. With `metadata` after the TO of a `regex`, `{plugin/label}` is a
  label, and the rule does not apply if the label has no value.
  After TO may follow, any number of times: `answer auto`, by which the new name, and names below
  it, become the old name in owners and RDATA of the reply (the default of `exact`; with `suffix`,
  names that end in TO end in FROM again); `answer name REGEX TO`, which rewrites owners; `answer
  value REGEX TO`, which rewrites the names that CNAME, DNAME, MX, NAPTR, NS, PTR, SOA and SRV
  records point to.
* `type FROM TO` and `class FROM TO`.
* `ttl [TYPE] NAME SECONDS`: the TTL of all records in replies about NAME; `MIN-MAX`, `MIN-` and
  `-MAX` are bounds.
* `rcode [TYPE] NAME FROM TO`: the RCODE of replies, by name or number.
* `cname [TYPE] FROM TO`: the target of aliases in replies. The new target is looked up.
* `edns0 local|nsid|subnet set|append|replace|unset [OPTIONS...] [revert]`: the EDNS options of the
  query. `local CODE DATA` takes text, `0x` and hexadecimal digits, or one of `{qname}`, `{qtype}`,
  `{client_ip}`, `{client_port}`, `{protocol}`, `{server_ip}`, `{server_port}`, `{plugin/label}`;
  `subnet BITS4 BITS6` sends so many bits of the client's address. `revert` hides the change from
  the client.

Names are matched as text in lower case with the last dot; FROM and TO get a last dot, except in
regular expressions (of Go) and `cname`.

Examples:

    . {
        rewrite name suffix .corp.example .demo.svc.cluster.local answer auto
        rewrite stop {
            name regex (.*)\.us\.example\.org\.$ {1}.us.example.net
            answer name (.*)\.us\.example\.net\.$ {1}.us.example.org
        }
        rewrite continue ttl suffix example.net 30-300
        kubernetes cluster.local {
            manifests cluster
        }
        forward . 192.0.2.53
    }

Differences from CoreDNS: the reply has the client's question also after `continue` rules without an
answer rule. If a reply gets an invalid name, the client gets SERVFAIL, not silence. A client
without EDNS gets no OPT if `edns0` added one to its query. Options are echoed for `edns0 local` of
the same server block. `log` and the metrics have the client's question, not the rewritten one.
Repeated questions are answered from the table, unless the rules use labels or `edns0 local`.
"""

from __future__ import annotations

from collections.abc import Generator

from clusterdns.chain.asking import MAX_DEPTH, answer_by, waiting
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding.outside import Outside
from clusterdns.rewriting.matching import BadNameError, RuleError
from clusterdns.rewriting.optionrule import OptionRule, octets_of, options_of
from clusterdns.rewriting.parse import parse
from clusterdns.rewriting.replies import RewrittenReply
from clusterdns.rewriting.rule import NeedsQueryError, RewriteRule, State
from clusterdns.wire import rr, trace
from clusterdns.wire.message import Edns, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response, failure, fit

_Steps = Generator[Question, Response, Response]


class Rewrite(Plugin):
    """The rules of one server block, in the order of the file."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._rules = [_rule(directive)]
        self._echoed: frozenset[int] = frozenset()

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return one plugin with the rules of all occurrences, in order."""
        plugin = cls(directives[0], block)
        plugin._rules += [_rule(directive) for directive in directives[1:]]
        options = [rule for rule in plugin._rules if isinstance(rule, OptionRule)]
        plugin._echoed = frozenset(rule.echoes for rule in options if rule.echoes is not None)
        block.shared(Outside).options |= {rule.code for rule in options if rule.adds}
        return [plugin]

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response from memory to the rewritten question."""
        if self._echoed:
            return None  # the options of the query decide
        state = State(question, None)
        try:
            self._apply(state)
            if not state.is_done:
                return next(question)
            response = next(state.question)
            if response is None or response is DROP:
                return response
            steps = self._reverted(response, state)
            found = answer_by(steps, question, self._block.resolver, next)
        except NeedsQueryError:
            return None
        except BadNameError as error:
            return failure(rr.SERVFAIL, str(error))
        # Too many aliases, or an RCODE that needs EDNS: left to `handle`.
        return None if found is None or found.bare or found.rcode > 15 else found

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin to the rewritten question."""
        if query.question is None:
            return await next(query)
        state = State(query.question, query)
        try:
            self._apply(state)
            asked = query.asking(state.question)
            asked.edns = state.edns
            response = await next(asked)
            if response is not DROP and state.is_done:
                response = await self._revert(response, state, asked)
        except BadNameError as error:
            return failure(rr.SERVFAIL, str(error))
        if response.rcode > 15 and query.edns is None:
            return failure(rr.SERVFAIL, f"no room for {rr.rcode_text(response.rcode)}")
        return self._with_echo(response, state, query)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no rule matches, for `explain`."""
        count = len(self._rules)
        return (
            ""
            if is_own
            else f"none of {count} rules matches"
            if count > 1
            else "its rule does not match"
        )

    def _apply(self, state: State) -> None:
        """Apply the rules to a question."""
        taker = trace.scribe()
        for rule in self._rules:
            before = state.question
            if rule.apply(state):
                state.is_done = True
                if taker is not None:
                    taker.note(_effect(before, state), place=rule.place)
                if not rule.goes_on:
                    return

    def _reverted(self, response: Response, state: State, depth: int = 0) -> _Steps:
        """Return the response with all reverts applied (CoreDNS: reverter.go WriteMsg)."""
        reply, reverts = RewrittenReply(response), state.reverts[::-1]
        for section in (reply.authority, reply.answer, reply.additional):
            for record in section:
                for revert in reverts:
                    asked = revert.change(reply, record)
                    if asked is None or depth >= MAX_DEPTH:
                        continue
                    found = yield asked
                    if found is not DROP:
                        revert.take(reply, record, asked, found)
        if not any(response.sections):
            for revert in reverts:
                revert.change(reply, None)
        return reply.response(response)

    async def _revert(self, response: Response, state: State, query: Query) -> Response:
        depth = state.question.depth

        async def ask(asked: Question) -> Response:
            if self._block.resolver is None:
                return DROP
            inner = query.asking(asked._replace(depth=depth + 1))
            return fit(await self._block.resolver.handle(inner), asked, query.limit)

        return await waiting(self._reverted(response, state, depth), ask)

    def _with_echo(self, response: Response, state: State, query: Query) -> Response:
        """Return the response with the client's local options (CoreDNS: request.go SizeAndDo)."""
        if not self._echoed or query.edns is None or response.edns is not None:
            return response
        options = options_of(state.edns) if state.edns is not None else []
        for revert in state.reverts[::-1]:
            options = revert.options(options)
        echoed = [each for each in options if each[0] in self._echoed]
        if not echoed or response is DROP:
            return response
        return response._replace(edns=Edns(0, 0, query.edns.flags, octets_of(echoed)), bare=False)

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether each rule matches all names below ``cut`` or none."""
        return all(rule.treats_alike(cut) for rule in self._rules)

    def relay(self, route: Route) -> bool:
        """Exclude the names of rules from the relay; return False if they are not known."""
        return all(rule.relay(route) for rule in self._rules)


def _effect(before: Question, state: State) -> str:
    """Return what a rule that matched has done to the question."""
    if state.question == before:
        return "the rule matches, and is for the reply or the options of the query"
    asked = trace.question_text(state.question)
    return f"the rule matches {trace.question_text(before)}, which becomes {asked}"


def _rule(directive: Directive) -> RewriteRule:
    """Return the rule of one directive. Raises ConfigError."""
    words = list(directive.args)
    if len(words) < 2:
        for line in directive.block:
            if line.has_block:
                raise line.error("no block may stand here")
            words += (line.name, *line.args)
    elif directive.has_block:
        raise directive.error("takes a block only behind one word at most")
    try:
        rule = parse(words)
        rule.place = f"{directive.file}:{directive.line}"
        return rule
    except RuleError as error:
        raise directive.error(error.reason, error.word) from error
