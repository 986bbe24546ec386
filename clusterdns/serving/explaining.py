"""Explains a query: the listener's decisions and those of the chain, and the reply.

``explain`` does with a query what the listener does after a miss, with the same router, views and
plugins, and a scribe (``wire.trace``). It counts nothing in the listener and keeps nothing in the
table; plugins do what they do for any query, so `cache` keeps the reply and `log` logs the query.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from clusterdns.chain.plugin import DROP
from clusterdns.chain.view import REFUSED, View, concluded
from clusterdns.serving.classes import ask_as
from clusterdns.serving.server import NOT_IMPLEMENTED, Listener, bad_version, rendered
from clusterdns.wire import reading, rr, trace
from clusterdns.wire.message import TC, Query
from clusterdns.wire.response import Response, failure

_SERVFAIL = failure(rr.SERVFAIL)
_PLAIN_OCTETS = 512  # of a reply without EDNS (RFC 1035 section 2.3.4)
_TC = 2  # in the third octet of a message


class Explanation(NamedTuple):
    """An explanation as plain values, and the reply, None if none is sent."""

    found: dict[str, Any]
    reply: bytes | None


async def explain(
    listener: Listener, packet: bytes, client: tuple[str, int], transport: str = "udp"
) -> Explanation:
    """Return how the listener answers a packet, and the reply."""
    query = reading.read_query(packet)
    if not isinstance(query, Query):
        said = "is refused before any plugin sees it" if query else "gets no reply"
        return Explanation({"verdict": f"the packet is not a readable query: it {said}"}, query)
    query.client, query.transport = client, transport
    query.server = listener.address
    if listener.classes is not None:
        ask_as(query, listener.classes.asker(client[0]))
    cookies = listener.router.cookies
    refusal = listener.check_cookie(query, cookies) if cookies is not None else None
    if query.question is None:
        said = "the query has no question"
        return Explanation({"verdict": said}, rendered(query, refusal or _SERVFAIL))
    run = trace.Run(query.question, trace.Budget())
    with trace.noted_by(run):
        answered = await _answered(listener, query, run, refusal)
    run.budget.is_over = True
    response, reply = answered if isinstance(answered, tuple) else (None, answered)
    found = run.as_plain()
    found["listener"] = listener.tally.server
    found["client"] = client[0]
    found["table"] = _is_in_table(listener, packet, client[0], transport)
    if response is not None:
        found["reply"] = _of_response(response)
    return Explanation(found, reply)


async def _answered(
    listener: Listener, query: Query, run: trace.Run, refusal: Response | None
) -> tuple[Response, bytes | None] | bytes:
    """Return the response and its octets, or the octets of a refusal without a response."""
    question, router = query.question, listener.router
    assert question is not None
    if refusal is not None:
        run.blame("`cookie` refuses the cookie of the query, or that it has none")
        return concluded(run, refusal), rendered(query, refusal)
    if question.qclass != rr.CLASS_IN and not router.opens_classes:
        run.blame("no server block of this listener answers for this class")
        return concluded(run, REFUSED), rendered(query, REFUSED)
    if query.edns is not None and query.edns.version != 0:
        run.blame("only version 0 of EDNS is known")
        run.verdict = "BADVERS"
        return bad_version(query)
    choice = router.choose(question, query)
    view = choice.view
    if view is None or not view.chain:
        reason = "no zone of this listener holds the name"
        run.blame(reason if view is None else "its server block has no plugin that answers")
        return concluded(run, REFUSED), rendered(query, REFUSED)
    if query.changes is not None and not view.takes_updates:
        run.blame("no plugin of the server block takes an UPDATE")
        return concluded(run, NOT_IMPLEMENTED), rendered(query, NOT_IMPLEMENTED)
    size = query.edns.size if query.edns is not None else _PLAIN_OCTETS
    view.bound(query)
    _note_limits(view, query, run)
    response = view.answer(question) if view.may_know(query) else None
    if response is None:
        run.steps.clear()  # the chain that may wait asks the same plugins
        run.note("memory alone cannot answer, so the chain may wait")
        response = await view.handle(query)
    concluded(run, response)
    if response is DROP:
        run.verdict = "no reply is sent"
        return response, None
    reply = rendered(query, response)
    if reply[2] & _TC and not response.flags & TC:
        run.note(
            f"the reply is cut: over UDP the client takes {size} octets, "
            f"and this server block sends {view.most_octets} at most"
        )
    return response, reply


def _note_limits(view: View, query: Query, run: trace.Run) -> None:
    """Note that a query counts for the rate of its client; this one is not counted."""
    limits = view.limits
    if limits is not None and query.transport == "udp" and query.question is not None:
        place = next((p.places[0] for p in view.plugins if p.limits is limits and p.places), "")
        is_free = not limits.covers(query.question.folded)
        kind = "may not count" if is_free else "counts"
        run.note(f"such a query {kind} for the rate of its client (`ratelimit`)", place=place)


def _is_in_table(listener: Listener, packet: bytes, host: str, transport: str) -> bool:
    """Tell whether the answer table has the reply, so that the query reaches no plugin."""
    uncounted = list(listener.tally.transport(transport, "1"))
    is_stream = transport != "udp"
    table = listener.table_of(host)
    if table is None:
        return False
    return table.reply(packet, listener.clock(), uncounted, is_stream, []) is not None


def _of_response(response: Response) -> dict[str, Any]:
    """Return what a client does not see of a response."""
    lifetime_s = None if response.lifetime_s == math.inf else response.lifetime_s
    return {
        "lifetime_s": lifetime_s,  # None: until one of the facts changes
        "facts": [" ".join(map(str, fact)) for fact in response.facts if isinstance(fact, tuple)],
        "error": response.error,
        "upstream": response.source,
    }
