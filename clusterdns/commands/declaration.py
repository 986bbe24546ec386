"""The declaration of a command: its arguments, examples and exit codes.

Each module of this folder that is a command has a ``COMMAND``. The help, the completions and the
manual page are made of it. A module imports the packages of its command inside of ``run``, so that
listing the commands is cheap.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

OK, FAILED, MISUSED = 0, 1, 2  # exit codes that mean the same everywhere
PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE has ended
INTERRUPTED = 130  # likewise SIGINT
ENDS = (  # of every command
    f"A command that does not serve also ends with {INTERRUPTED} at Ctrl-C, and each with\n"
    f"{PIPE_CLOSED} when nobody reads its output any more, as in `clusterdns help | head -1`."
)
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))  # strconv.ParseBool of Go
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_OPTION = re.compile(r"--?[A-Za-z]")
_REFUSED_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")  # argparse's words
_WORD = re.compile(r"[\w-]+")


class Example(NamedTuple):
    """A command line, and what it does."""

    line: str
    purpose: str


class Command(NamedTuple):
    """A command: ``declare`` adds its arguments to a parser, ``run`` returns the exit code.

    ``summary`` follows the name in lists; ``exits`` says what each exit code means.
    """

    name: str
    summary: str
    description: str
    declare: Callable[[Parser], object]
    run: Callable[[argparse.Namespace], int]
    examples: Sequence[Example]
    exits: Mapping[int, str]

    def parser(self) -> Parser:
        """Return the parser of its arguments."""
        parser = Parser(
            prog=f"clusterdns {self.name}",
            description=self.description,
            epilog=self._epilog(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.declare(parser)
        return parser

    def _epilog(self) -> str:
        lines = ["examples:"]
        for each in self.examples:
            lines += [f"  {each.line}", f"      {each.purpose}"]
        lines += ["", "exit codes:"]
        lines += [f"  {code:<4}{meaning}" for code, meaning in self.exits.items()]
        return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """A parser that suggests the option or the choice that was meant."""

    _given: Sequence[str] = ()

    def parse_args(  # type: ignore[override]  # argparse has overloads for foreign namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the namespace; options may stand anywhere. Ends with exit code 2 for others."""
        self._given = list(sys.argv[1:] if args is None else args)
        self._given = list(self._without_values(self._given))
        behind = list(itertools.dropwhile(lambda each: each != "--", self._given))[1:]
        if any(word.startswith("-") for word in behind):
            # Read twice, as mixed ones are, they would be options the second time.
            found, unknown = self.parse_known_args(self._given, namespace)
        else:
            found, unknown = self.parse_known_intermixed_args(self._given, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def _without_values(self, words: Sequence[str]) -> Iterator[str]:
        """Yield words as argparse knows them: `-quiet=true` is `-quiet`, `-quiet=false` is nothing.

        Go's flags are written so, too (flag.boolValue).
        """
        switches = {
            option
            for action in self._actions
            if not action.nargs and action.nargs is not None and action.const is True
            for option in action.option_strings
        }
        are_options = True
        for word in words:
            are_options = are_options and word != "--"
            name, equals, value = word.partition("=")
            if not (are_options and equals and name in switches):
                yield word
            elif value in _TRUE:
                yield name
            elif value not in _FALSE:
                self.error(f"argument {name}: {value!r} is neither true nor false")

    def options(self) -> list[str]:
        """Return all options, as they are written."""
        return [word for action in self._actions for word in action.option_strings]

    def arguments(self) -> list[argparse.Action]:
        """Return all arguments and options, as they were declared."""
        return [action for action in self._actions if action.help != argparse.SUPPRESS]

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and where to read on, and exit with 2.

        An option that does not exist is said before all else: its value was taken for an argument.
        """
        if stray := self._stray_option():
            if not message.startswith("unrecognized arguments"):
                message = f"unrecognized arguments: {stray}"
            message += did_you_mean(stray, self.options())
        elif found := _REFUSED_CHOICE.search(message):
            message += did_you_mean(found[1], _WORD.findall(found[2]))
        self.print_usage(sys.stderr)
        self.exit(MISUSED, f"{self.prog}: {message}; see `{self.prog} -h`\n")

    def _stray_option(self) -> str:
        """Return the first word that was meant as an option and is none, "" without one."""
        options = self.options()
        for word in itertools.takewhile(lambda each: each != "--", self._given):
            name = word.partition("=")[0]
            if not _OPTION.match(name) or name in options:
                continue
            # As in `-p53`, not as in `-port`.
            has_value = not name.startswith("--") and name[:2] in options
            if not has_value or f"-{name}" in options:
                return name
        return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint to the most similar of the known words, "" if none is similar."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f', did you mean "{found[0]}"?' if found else ""


def port(text: str) -> int:
    """Return a port number. Raises argparse.ArgumentTypeError."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port number")
    return int(text)


def zone(text: str) -> str:
    """Return the name of a zone, folded, without the last dot.

    Raises:
        argparse.ArgumentTypeError: it is no domain name.
    """
    from clusterdns.config import kubedns

    found = text.removesuffix(".").lower()
    if not kubedns.is_domain(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no domain name")
    return found


def rtype(text: str) -> str:
    """Return the name of a record type, as `AAAA` or `TYPE65`. Raises ArgumentTypeError."""
    import dns.exception
    import dns.rdatatype

    try:
        return dns.rdatatype.to_text(dns.rdatatype.from_text(text))
    except (dns.exception.DNSException, ValueError):
        hint = did_you_mean(text.upper(), dns.rdatatype.RdataType.__members__)
        raise argparse.ArgumentTypeError(f"{text!r} is no type of record{hint}") from None


def add_port(parser: Parser, default: int, purpose: str) -> None:
    """Declare the option for a port as CoreDNS spells it, and as ``-p``."""
    parser.add_argument("-p", "-dns.port", "--port", dest="port", type=port, default=default,
        metavar="PORT", help=purpose)  # fmt: skip


def add_json(parser: Parser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
