"""Explanations as short text for golden files, and what an explanation lacks.

``lines`` has the decision path of a question: the server block, each plugin with its lines, what
decided (causes behind a ``!``), and how long the answer table may repeat the answer. It leaves out
the reply, which the case has, and what differs from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from clusterdns.chain.watched import PASSES
from clusterdns.serving import explained

_VARYING = (
    (re.compile(r"\d+\.\d ms"), "N ms"),
    (re.compile(r"127\.0\.0\.1:\d{4,5}"), "UPSTREAM"),
    (re.compile(r"repeated for 0\.\d+ s"), "repeated until its TTL is one less"),
    (re.compile(r"\d+ s of its TTL left"), "N s of its TTL left"),
    (re.compile(r"kept as (\w+) for \d+ s"), r"kept as \1 for N s"),
)
Plain = dict[str, Any]


def text(found: Plain, reply: bytes | None) -> str:
    """Return an explanation as lines of a golden file."""
    told = "\n".join(lines(explained.complete(found, reply, {})))
    for pattern, stands_for in _VARYING:
        told = pattern.sub(stands_for, told)
    return told


def lines(found: Plain) -> Iterator[str]:
    """Yield the lines of a completed explanation."""
    if "question" not in found:
        yield f"? (no question): {found['verdict']}"
        return
    yield f"? {found['question']}{_block(found)}"
    yield from _run(found, "  ")
    reply = found.get("reply", {})
    lifetime_s, facts = reply.get("lifetime_s", 0), ", ".join(reply.get("facts", ()))
    if lifetime_s is None:
        yield f"  repeated until a change of {facts}" if facts else "  repeated for good"
    else:
        yield f"  repeated for {lifetime_s:g} s" if lifetime_s else "  never repeated"


def _run(run: Plain, indent: str) -> Iterator[str]:
    for note in run["notes"]:
        if "longest zone" not in note["text"]:
            yield f"{indent}  {_note(note)}"
    path = list[str]()
    for step in run["steps"]:
        title = f"{step['plugin']} {','.join(step['places'])}"
        if step["verdict"] == PASSES and not step["notes"] and not step["questions"]:
            path.append(title + (f" [{step['reason']}]" if step["reason"] else ""))
            continue
        of = f" ({step['question']})" if step["question"] else ""
        yield f"{indent}{' > '.join([*path, title])}{of}: {step['verdict']}"
        path.clear()
        for note in step["notes"]:
            yield f"{indent}  {_note(note)}"
            yield from (f"{indent}    {line}" for line in note.get("evidence", ()))
        for inner in step["questions"]:
            yield f"{indent}  ? {inner['question']}{_block(inner)}: {inner['verdict']}"
            yield from _run(inner, indent + "    ")
    if path:
        yield f"{indent}{' > '.join(path)}"


def _block(run: Plain) -> str:
    block = run["server_block"]
    return f"  {block['place']} ({block['zones']})" if block["place"] else ""


def _note(note: Plain) -> str:
    mark = "! " if note.get("is_cause") else "- "
    return mark + note["text"] + (f" ({note['place']})" if note.get("place") else "")


def faults(found: Plain, reply: bytes | None) -> list[str]:
    """Return what an explanation lacks: a decision, its line, or the reason of a denial."""
    if "question" not in found:  # refused at the gate
        return [] if found["verdict"] else ["no verdict"]
    lacking = _faults(found)
    is_answered = bool(reply and not reply[3] & 15 and reply[7])
    if not is_answered and not any(note.get("is_cause") for note in notes(found)):
        lacking.append(f"{found['question']}: no cause of {found['verdict']}")
    return lacking


def _faults(run: Plain) -> list[str]:
    found = [] if run["verdict"] else [f"{run['question']}: no verdict"]
    if not run["steps"]:
        return found if run["notes"] else [*found, f"{run['question']}: no reason without a step"]
    if not run["server_block"]["place"].startswith("Corefile:"):
        found.append(f"{run['question']}: server block without a line")
    if not run["notes"]:
        found.append(f"{run['question']}: no reason for the server block")
    for step in run["steps"]:
        if not step["verdict"]:
            found.append(f"{run['question']}: {step['plugin']} has no verdict")
        if not all(each.startswith("Corefile:") for each in step["places"]) or not step["places"]:
            found.append(f"{run['question']}: {step['plugin']} has no line")
        if step["verdict"].startswith("answers") and not step["notes"]:
            found.append(f"{run['question']}: {step['plugin']} gives no reason")
        for inner in step["questions"]:
            found += _faults(inner)
    return found


def notes(run: Plain) -> list[Plain]:
    """Return all notes of a run, with those of the questions it led to."""
    found = list(run.get("notes", ()))
    for step in run.get("steps", ()):
        found += step["notes"]
        for inner in step["questions"]:
            found += notes(inner)
    return found
