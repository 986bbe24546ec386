"""The terminal of a command that goes on: its keys, its size, and the end of its reader.

``Screen.wait`` is the only place where such a command waits. It returns early for a key, and draws
again when the size changes. A reader that has closed the pipe ends the program at once, not with
the next output, as of `tail -f`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable
from types import FrameType

CLEAR = "\x1b[H\x1b[2J"
CLEAR_LINE = "\r\x1b[K"
KEYS = "q quits, space pauses"
PAUSED = "paused: space goes on, q quits"
_QUIT, _PAUSE = b"qQ\x04", b" "
_TERMINATED = 143  # what a shell reports for a program that SIGTERM has ended
_COLUMNS, _LINES = 80, 24  # of a terminal that does not say
_MOST_KEYS = 64  # read at once


class Screen:
    """Standard output, with the keys of standard input where both are a terminal.

    Inside of ``with`` keys come at once and are not shown; behind it the terminal is as before.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.is_paused = False
        self._has_keys = False  # in the last line
        self._keys = sys.stdin.fileno() if sys.stdout.isatty() and _is_ours() else -1

    def __enter__(self) -> Screen:
        self._stack = contextlib.ExitStack()
        self._reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, writing)
        self._stack.callback(os.close, self._reading)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, before)
        self._handle(signal.SIGTERM, _end)
        self._handle(signal.SIGWINCH, _ignore)
        self._handle(signal.SIGCONT, _ignore)
        if self._keys >= 0:
            settings = termios.tcgetattr(self._keys)
            self._stack.callback(termios.tcsetattr, self._keys, termios.TCSADRAIN, settings)
            tty.setcbreak(self._keys)
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_keys:  # a shell goes on in this line
            with contextlib.suppress(OSError):
                sys.stdout.write(CLEAR_LINE)
                sys.stdout.flush()
        with contextlib.suppress(termios.error):  # the terminal is gone
            self._stack.close()

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], object]) -> None:
        self._stack.callback(signal.signal, number, signal.signal(number, handler))

    def show_keys(self, columns: int) -> None:
        """Write the line that says what keys do now, if there are any, and flush."""
        if self._keys >= 0:
            self._has_keys = True
            sys.stdout.write(cut(PAUSED if self.is_paused else KEYS, columns))
        sys.stdout.flush()

    def size(self) -> tuple[int, int]:
        """Return columns and lines of the terminal."""
        try:
            found = os.get_terminal_size(sys.stdout.fileno())
        except OSError:  # it is gone
            return _COLUMNS, _LINES
        return found.columns or _COLUMNS, found.lines or _LINES

    def wait(self, seconds: float, redraw: Callable[[], object] = lambda: None) -> bool:
        """Wait, and as long as it is paused; tell whether to go on.

        Raises:
            BrokenPipeError: nobody reads standard output any more.
        """
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)  # errors alone
        poller.register(self._reading, select.POLLIN)
        if self._keys >= 0:
            poller.register(self._keys, select.POLLIN)
        until = time.monotonic() + seconds
        while self.is_paused or time.monotonic() < until:
            left = None if self.is_paused else max(0.0, until - time.monotonic()) * 1000
            for descriptor, event in poller.poll(left):
                if descriptor == self._reading:
                    self._take_signals(redraw)
                elif event & select.POLLIN:
                    if not self._press(os.read(descriptor, _MOST_KEYS), redraw):
                        return False
                else:
                    raise BrokenPipeError
        return True

    def _take_signals(self, redraw: Callable[[], object]) -> None:
        numbers = os.read(self._reading, 4096)
        if signal.SIGCONT in numbers and self._keys >= 0:
            tty.setcbreak(self._keys)  # the shell had the terminal meanwhile
        redraw()

    def _press(self, keys: bytes, redraw: Callable[[], object]) -> bool:
        """Do what keys say; tell whether to go on. No key at all is the end of the terminal."""
        if not keys or any(key in keys for key in _QUIT):
            return False
        if keys.count(_PAUSE) % 2:
            self.is_paused = not self.is_paused
            redraw()
        return True


def cut(line: str, columns: int) -> str:
    """Return a line, or what fits of it."""
    return line if len(line) <= columns else line[: columns - 1] + "…"


def _is_ours() -> bool:
    """Tell whether standard input is a terminal, and this program is in its foreground."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # closed, or there is none
        return False


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Let ``wait`` see the signal."""
