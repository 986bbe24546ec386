"""Log lines as CoreDNS prints them, and a sink that never makes a query wait.

``[INFO] plugin/kubernetes: ...`` goes to standard output without a timestamp. A line is written
only when the pipe has room for it: a reader that stopped reading costs lines, which are counted,
and never a reply.
"""

from __future__ import annotations

import logging
import os
import select

MAX_LINE_OCTETS = 4096  # PIPE_BUF: what a pipe that polls writable takes without blocking


class Sink(logging.Handler):
    """Writes each record to a file descriptor if that does not block; counts what it dropped."""

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__()
        self.dropped = 0
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or drop it."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")[: MAX_LINE_OCTETS - 1]
            if self._poll.poll(0):
                os.write(self._descriptor, line + b"\n")
            else:
                self.dropped += 1
        except OSError:
            self.dropped += 1  # standard output is closed: nobody is left to tell


def start(debug: bool = False) -> None:
    """Send the process's log lines to standard output."""
    root = logging.getLogger()
    sink = Sink()
    sink.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    root.handlers[:] = [sink]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.raiseExceptions = False


def plugin_logger(plugin: str) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger of a plugin: its lines begin with ``plugin/<name>: ``."""
    return _PluginLog(logging.getLogger(plugin), {"plugin": plugin})


class _PluginLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg, kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as the base class has it
        return f"plugin/{self.extra['plugin']}: {msg}", kwargs  # type: ignore[index]
