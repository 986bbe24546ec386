"""view - use a server block only for queries that meet conditions.

Syntax:

    view NAME {
        expr EXPRESSION
    }

Server blocks with a view may share a zone; the first in the file whose conditions are all true
answers. If there is none, the query goes to the block of the next shorter zone. The block without a
view is the last one of its zone. EXPRESSIONs are those of expr-lang, and their functions those of
`template`: `name()`, `type()`, `class()`, `proto()`, `size()`, `client_ip()`, `port()`, `id()`,
`opcode()`, `do()`, `bufsize()`, `server_ip()`, `server_port()`, `metadata(LABEL)`, and
`incidr(ADDRESS, CIDR)`. The words of one are joined; one with `#` needs quotes. A condition that
cannot be evaluated is false.

Examples:

    example.org {
        view internal {
            expr incidr(client_ip(), '10.0.0.0/8') || client_ip() startsWith '192.168.'
            expr type() in ['A', 'AAAA']
        }
        forward . 192.0.2.53
    }
    example.org {
        forward . 192.0.2.54
    }

Metrics: NAME is the label `view` of the block's `coredns_dns_*` metrics.

Differences from CoreDNS: none in replies. The answer table is used for blocks whose conditions
depend only on name, type and class; answers of other blocks with a view, and of later blocks for
the same zones, are made for each query. Other zones are not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clusterdns.chain.bases import Passing
from clusterdns.chain.block import Block
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.languages import conditions
from clusterdns.languages.conditions import Filter
from clusterdns.languages.expression import Expression
from clusterdns.languages.exprvalues import ExpressionError
from clusterdns.wire.message import Query, Question

_ENVIRONMENT = {**conditions.OF_THE_QUESTION, **conditions.OF_THE_QUERY}


class View(Passing, Filter):
    """The conditions of a server block; the router evaluates them."""

    def __init__(self, directive: Directive, block: Block) -> None:
        self._name = block.view = arguments.one(directive)
        self._expressions: list[Expression] = []
        for line in directive.block:
            if line.name != "expr":
                raise line.unknown("expr")
            try:
                self._expressions.append(Expression(" ".join(line.args), _ENVIRONMENT))
            except ExpressionError as error:
                raise line.error(f"could not compile expression: {error}") from error
        self.is_shared = all(
            conditions.OF_THE_QUERY.keys().isdisjoint(each.names) for each in self._expressions
        )

    def admits(self, question: Question, query: Query | None) -> bool:
        """Tell whether all conditions hold."""
        values = conditions.functions(question, query)
        try:
            return all(each.run(values) is True for each in self._expressions)
        except ExpressionError:
            return False

    def labels(self, query: Query) -> Mapping[str, Callable[[], str]]:
        """Return the view's name."""
        return {"view/name": lambda: self._name}
