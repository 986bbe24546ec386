"""The command line: finds the command, runs it, and ends as a program of a shell should.

The first word is a command; without one, the arguments are CoreDNS's flags and belong to ``serve``
(CoreDNS: coremain/run.go). A reader that closes the pipe ends the program in silence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from clusterdns.commands import listing
from clusterdns.commands.declaration import (
    FAILED,
    INTERRUPTED,
    MISUSED,
    OK,
    PIPE_CLOSED,
    did_you_mean,
)
from clusterdns.errors import ClusterDNSError, told

_HELP = ("-h", "-help", "--help")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ClusterDNSError, OSError) as error:
        print(f"clusterdns: {told(error)}", file=sys.stderr)
        return FAILED


def _run(arguments: Sequence[str]) -> int:
    word, *rest = arguments or [""]
    if word in listing.NAMES:
        command = listing.load(word)
        return command.run(command.parser().parse_args(rest))
    if word in _HELP:
        print(listing.overview(), end="")
        return OK
    if word and not word.startswith("-"):
        hint = did_you_mean(word, listing.NAMES)
        print(f'clusterdns: no command "{word}"{hint}; see `clusterdns -h`', file=sys.stderr)
        return MISUSED
    return listing.load("serve").run(listing.load("serve").parser().parse_args(list(arguments)))
