"""Observations of all workers as one answer: counts for `clusterdns top`, and the last queries.

Both are asked over the local socket (inquiry.py), and by the page of `status`.
"""

from __future__ import annotations

import time
from typing import Any

from clusterdns.observing import ring, window
from clusterdns.processes.generation import Generation
from clusterdns.processes.inquiry import InquiryError

WORKER_S = 2.0
LIMIT, MAX_LIMIT = 100, 1000  # queries of one answer
_FILTERS = ("rcode", "namespace", "slow", "name", "client")
Plain = dict[str, Any]


async def top(generation: Generation, _request: Plain) -> Plain:
    """Return counts, latencies and the most frequent of all workers, see ``window.summary``.

    Raises:
        InquiryError: nothing is observed, or no worker answers.
    """
    answers = await _asked(generation, "top", {})
    windows = [each for answer in answers for each in answer["windows"]]
    histories = [answer["history"] for answer in answers]
    found = window.summary(windows, histories, time.monotonic())
    return {**found, "workers": len(answers)}


async def tail(generation: Generation, request: Plain) -> Plain:
    """Return the queries newer than ``since`` that the request selects, in order.

    ``limit`` bounds their number; for ``since`` 0 they are the last ones. ``next`` is what to ask
    for next, ``lost`` how many newer ones are gone. For the filters see ``Selection.of``.

    Raises:
        InquiryError: nothing is observed, no worker answers, or a filter is wrong.
        ValueError, TypeError: a number is wrong.
    """
    since = max(0, int(request.get("since", 0)))
    limit = min(max(1, int(request.get("limit", LIMIT))), MAX_LIMIT)
    asked = {word: str(request[word]) for word in _FILTERS if request.get(word)}
    answers = await _asked(generation, "tail", {**asked, "since": since, "limit": limit})
    parts = [(each["queries"], each["next"], each["lost"]) for each in answers]
    queries, end, lost = ring.merged(parts, since, limit)
    return {"next": end, "lost": lost, "queries": queries}


async def _asked(generation: Generation, word: str, request: Plain) -> list[Plain]:
    if not any(plugin.observes_all for plugin in generation.configuration.plugins):
        raise InquiryError("queries are not observed: no server block has `status`")
    answers = await generation.ask_all(word, request, WORKER_S)
    if not answers:
        raise InquiryError(f"no worker has answered in {WORKER_S:g} s")
    for answer in answers:
        if "error" in answer:
            raise InquiryError(answer["error"])
    return [answer for answer in answers if answer]
