"""``help``: the commands, the plugins and their manuals, completions, and the manual page."""

from __future__ import annotations

import argparse
import sys

from clusterdns.chain import registry
from clusterdns.commands import listing
from clusterdns.commands.declaration import (
    FAILED,
    OK,
    Command,
    Example,
    Parser,
    add_json,
    did_you_mean,
)


def _declare(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="WORD", help="a command or a plugin")
    parser.add_argument("--completion", choices=("bash", "zsh", "fish"),
        help="print the completion of a shell")  # fmt: skip
    parser.add_argument("--man", action="store_true", help="print the manual page, for `man -l -`")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    if flags.completion or flags.man:
        from clusterdns.commands import generated

        print(generated.completion(flags.completion) if flags.completion else generated.manual(),
              end="")  # fmt: skip
        return OK
    if flags.json:
        return _print_json()
    if not flags.words:
        print("\n".join(_manual(word).split("\n", 1)[0] for word in registry.available()))
        return OK
    for word in flags.words:
        if word in listing.NAMES:
            listing.load(word).parser().print_help()
        elif word in registry.available():
            print(registry.manual(word))
        else:
            known = registry.available()
            hint = did_you_mean(word, [*known, *listing.NAMES])
            hint = hint or "; see `clusterdns help` for plugins, `clusterdns -h` for commands"
            print(f'clusterdns: no plugin or command "{word}"{hint}', file=sys.stderr)
            return FAILED
    return OK


def _manual(word: str) -> str:
    """Return the manual of a plugin, or why it has none."""
    try:
        return registry.manual(word) or word
    except registry.PluginError as error:
        return f"{word} - {error}"


def _print_json() -> int:
    from clusterdns.commands import output

    commands = [listing.load(each) for each in listing.NAMES]
    output.write_json({
        "commands": {each.name: each.summary for each in commands},
        "plugins": {
            word: registry.purpose(_manual(word)) for word in registry.available()
        },
    })  # fmt: skip
    return OK


COMMAND = Command(
    "help",
    "print the manual of a plugin or a command, or a line on each plugin",
    "Prints a line on each plugin; with WORD, the manual of a plugin or the help of a command.",
    _declare,
    _run,
    (
        Example("clusterdns help", "list the plugins"),
        Example("clusterdns help kubernetes", "print the manual of a plugin"),
        Example(
            "clusterdns help --completion bash > /etc/bash_completion.d/clusterdns",
            "complete commands and options in bash",
        ),
        Example("clusterdns help --man | man -l -", "read the manual page"),
    ),
    {0: "printed", 1: "there is no such plugin or command", 2: "wrong arguments"},
)
