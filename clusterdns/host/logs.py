"""Log lines in CoreDNS's format, and a handler that never delays a query.

``[INFO] plugin/kubernetes: ...`` is written to standard output without a timestamp, or one JSON
object in each line with one (``-log-format json``). A line is written only if the pipe has room for
it: if the reader stops reading, lines are dropped and counted, and replies are not delayed. Lines
about queries may be written many at once (`bulk`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

TEXT, JSON = "text", "json"
MOST_RECENT, MOST_RECENT_CHARACTERS = 10, 500  # of warnings kept, of each logger
MAX_LINE_OCTETS = 4096  # PIPE_BUF: a writable pipe takes so much without blocking
MAX_WRITE_OCTETS = 256 * 1024  # to a file, which never blocks
QUERY_HEAD = "[INFO] "  # of a line of text about a query

_NAMED = re.compile(r"plugin/(\w+): ")
_JSON_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
Fields = Mapping[str, object]


class Recent(NamedTuple):
    """A warning or an error that was logged not long ago: Unix seconds, level and text."""

    at: float
    level: str
    text: str


class LogSink(logging.Handler):
    """Writes each record to a file descriptor if that does not block; counts what it dropped.

    It keeps the last warnings and errors of each logger, so that errors of queries displace no
    others.
    """

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__()
        self.dropped = 0
        self.recent: dict[str, deque[Recent]] = {}  # by logger
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._most_octets = _most_octets(descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or drop it."""
        if record.levelno >= logging.WARNING:
            self._keep(record)
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")[: MAX_LINE_OCTETS - 1]
            if self._poll.poll(0):
                os.write(self._descriptor, line + b"\n")
            else:
                self.dropped += 1
        except OSError:
            self.dropped += 1  # standard output is closed

    def _keep(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        kept = self.recent.setdefault(record.name, deque(maxlen=MOST_RECENT))
        kept.append(Recent(record.created, record.levelname, text[:MOST_RECENT_CHARACTERS]))

    @property
    def is_json(self) -> bool:
        """Whether lines are JSON objects."""
        return isinstance(self.formatter, JsonFormatter)

    @property
    def has_room(self) -> bool:
        """Whether a line would be written now."""
        try:
            return bool(self._poll.poll(0))
        except OSError:
            return False

    def write(self, lines: Sequence[str]) -> None:
        """Write complete lines, each shorter than MAX_LINE_OCTETS, without blocking."""
        written = 0
        try:
            for text, count in _chunks(lines, self._most_octets):
                if not self._poll.poll(0):
                    break
                os.write(self._descriptor, text)
                written += count
        except OSError:
            pass  # standard output is closed: nobody is left to tell
        self.dropped += len(lines) - written


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, msg, plugin and the record's fields (CoreDNS: pkg/log).

    ``time`` is RFC 3339 in UTC. A message that is too long for a line is cut; the object stays
    complete.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object of a record."""
        text, plugin = super().format(record), getattr(record, "plugin", "")
        named = _NAMED.match(text)
        if named and not plugin:
            plugin, text = named[1], text[named.end() :]
        made: dict[str, object] = {
            "time": _rfc3339(record.created),
            "level": _JSON_LEVELS.get(record.levelname, record.levelname),
            "msg": text,
        }
        if plugin:
            made["plugin"] = plugin
        made |= getattr(record, "fields", {})
        text = text[:MAX_LINE_OCTETS]
        line = _object(made)
        while text and len(line.encode("utf-8", "backslashreplace")) >= MAX_LINE_OCTETS:
            text = text[: len(text) // 2]
            line = _object(made | {"msg": text})
        return line


def start(debug: bool = False, format: str = TEXT) -> None:
    """Send the process's log lines to standard output, as text or as JSON."""
    root = logging.getLogger()
    sink = LogSink()
    sink.setFormatter(FORMATS[format]())
    root.handlers[:] = [sink]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.raiseExceptions = False


def fatal(message: str, format: str) -> None:
    """Write to standard error why the process ends: as text, or as an object of level FATAL."""
    line = f"clusterdns: {message}"
    if format == JSON:
        line = _object({"time": _rfc3339(time.time()), "level": "FATAL", "msg": message})
    print(line, file=sys.stderr)


def plugin_logger(plugin: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger of a plugin: its lines begin with ``plugin/<name>: ``."""
    return _PluginLog(logging.getLogger(plugin), {"plugin": plugin})


def log_query(logger: logging.LoggerAdapter[logging.Logger], line: str, fields: Fields) -> None:
    """Log a line about a query; ``fields`` are those of its JSON object, in order."""
    logger.logger.info("%s", line, extra={**(logger.extra or {}), "fields": fields})


def bulk() -> LogSink | None:
    """Return the handler for many lines at once, None if each has to be logged."""
    handlers = logging.getLogger().handlers
    sink = handlers[0] if len(handlers) == 1 else None
    return sink if isinstance(sink, LogSink) else None


def dropped() -> int:
    """Return the number of lines of this process dropped for lack of room."""
    return sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, LogSink))


def recent() -> list[Recent]:
    """Return the last warnings and errors of this process, the oldest first."""
    sinks = [each for each in logging.getLogger().handlers if isinstance(each, LogSink)]
    return sorted(found for sink in sinks for kept in sink.recent.values() for found in kept)


def forget_recent() -> None:
    """Forget them: those of the process that this one was forked from are not its own."""
    for each in logging.getLogger().handlers:
        if isinstance(each, LogSink):
            each.recent.clear()


def query_object(message: str, plugin: str, fields: Fields, moment: str) -> str:
    """Return the JSON object about a query; ``moment`` is its time, see ``timestamp``."""
    made = {"time": moment, "level": "INFO", "msg": message, "plugin": plugin, **fields}
    return _object(made)


def escaped(text: str) -> str:
    """Return a text with the escapes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def timestamp() -> str:
    """Return the time in the form of JSON lines."""
    return _rfc3339(time.time())


def is_json() -> bool:
    """Tell whether the process logs JSON, and so needs the fields of a query."""
    handlers = logging.getLogger().handlers
    return any(isinstance(each.formatter, JsonFormatter) for each in handlers)


class _PluginLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as the base class has it
        return f"plugin/{self.extra['plugin']}: {msg}", kwargs  # type: ignore[index]


def _most_octets(descriptor: int) -> int:
    """Return how many octets a writable descriptor takes without blocking."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return MAX_LINE_OCTETS
    is_null = stat.S_ISCHR(mode) and os.fstat(descriptor).st_rdev == os.makedev(1, 3)
    return MAX_WRITE_OCTETS if stat.S_ISREG(mode) or is_null else MAX_LINE_OCTETS


def _chunks(lines: Sequence[str], most: int) -> Iterator[tuple[bytes, int]]:
    """Yield joined lines, at most ``most`` octets each, with the number of lines."""
    whole = _encoded(lines)
    if len(whole) <= most:
        yield whole, len(lines)
    elif len(lines) == 1:
        yield whole[: most - 1] + b"\n", 1
    else:
        half = len(lines) // 2
        step = max(1, min(half, most * len(lines) // len(whole)))
        for i in range(0, len(lines), step):
            yield from _chunks(lines[i : i + step], most)


def _encoded(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _object(made: Fields) -> str:
    return json.dumps(made, ensure_ascii=False, separators=(",", ":"))


def _rfc3339(seconds: float) -> str:
    whole, fraction = divmod(int(seconds * 1_000_000), 1_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{fraction:06d}Z"


FORMATS: Mapping[str, Callable[[], logging.Formatter]] = {
    TEXT: lambda: logging.Formatter("[%(levelname)s] %(message)s"),
    JSON: JsonFormatter,
}
