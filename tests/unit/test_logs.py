"""Log lines: as text, and as JSON whatever is in them."""

from __future__ import annotations

import json
import logging
import os
import sys

import pytest

from clusterdns.host import logs


def record(message: str, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("x", level, "x.py", 1, message, (), None)
    vars(made).update(extra)
    return made


@pytest.mark.parametrize(
    ("given", "text", "said"),
    [
        (record("Reloading"), "[INFO] Reloading", {"level": "INFO", "msg": "Reloading"}),
        (
            record("plugin/forward: slow", logging.WARNING),
            "[WARNING] plugin/forward: slow",
            {"level": "WARN", "msg": "slow", "plugin": "forward"},
        ),
        (
            record("plugin/reload: Running", logging.INFO),
            "[INFO] plugin/reload: Running",
            {"level": "INFO", "msg": "Running", "plugin": "reload"},
        ),
        (
            record("a. NOERROR", plugin="log", fields={"id": 7, "rcode": None}),
            "[INFO] a. NOERROR",
            {"level": "INFO", "msg": "a. NOERROR", "plugin": "log", "id": 7, "rcode": None},
        ),
        (record('"\n\\ \udc80 <é>'), None, {"level": "INFO", "msg": '"\n\\ \udc80 <é>'}),
    ],
)
def test_a_record_as_text_and_as_json(given, text, said):
    if text is not None:
        assert text == logs.FORMATS[logs.TEXT]().format(given)
    line = logs.JsonFormatter().format(given)
    assert "\n" not in line
    found = json.loads(line)
    assert ["time", *said] == list(found)
    assert said == {key: value for key, value in found.items() if key != "time"}


@pytest.mark.parametrize("character", ["x", '"', "\0", "é", "\U0001f600", "\udc80"])
def test_a_long_message_is_cut_and_the_object_whole(character):
    given = record(character * 10_000, plugin="log", fields={"qname": "a" * 1004, "id": 1})
    line = logs.JsonFormatter().format(given).encode("utf-8", "backslashreplace")
    assert len(line) < logs.MAX_LINE_OCTETS
    found = json.loads(line)
    assert 1 == found["id"]
    assert found["msg"].startswith(character) or character == "\udc80"


@pytest.mark.parametrize("count", [1, 40, 1000])
def test_lines_that_nobody_reads_are_dropped_and_counted(count):
    """A pipe takes what it has room for, whole lines only, and no write waits."""
    reader, writer = os.pipe()
    try:
        sink, lines, written = logs.LogSink(writer), [f"{i:0100}" for i in range(count)], 0
        for _ in range(2000 // count):
            sink.write(lines)
            written += count
        taken = os.read(reader, 2**20)
    finally:
        os.close(reader)
        os.close(writer)
    assert taken.endswith(b"\n")
    assert {101} == {len(line) for line in taken.splitlines(True)}
    assert written == taken.count(b"\n") + sink.dropped
    assert sink.dropped > 0


def test_the_last_warnings_of_each_logger_are_kept(monkeypatch):
    sink = logs.LogSink(os.open(os.devnull, os.O_WRONLY))
    monkeypatch.setattr(logging.getLogger(), "handlers", [sink])
    sink.handle(record("Reload failed", logging.ERROR))
    sink.handle(record("Reloading"))
    for i in range(3 * logs.MOST_RECENT):
        made = record(f"{i} " + "x" * 5000, logging.WARNING)
        made.name, made.created = "errors", 1e12 + i
        sink.handle(made)
    first, *others = logs.recent()
    assert ("ERROR", "Reload failed") == first[1:]
    assert [3 * logs.MOST_RECENT - 1] == [int(each.text.split()[0]) for each in others][-1:]
    assert logs.MOST_RECENT == len(others)
    assert {logs.MOST_RECENT_CHARACTERS} == {len(each.text) for each in others}
    logs.forget_recent()
    assert [] == logs.recent()


def test_a_kept_line_has_the_error_but_no_traceback():
    sink = logs.LogSink(os.open(os.devnull, os.O_WRONLY))
    try:
        raise ValueError("why")
    except ValueError:
        made = record("cannot do it", logging.ERROR)
        made.exc_info = sys.exc_info()
    sink.handle(made)
    (kept,) = sink.recent["x"]
    assert "cannot do it: ValueError: why" == kept.text
