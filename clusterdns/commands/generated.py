"""Completions for shells and the manual page, made of what the commands declare."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from clusterdns.chain import registry
from clusterdns.commands import listing
from clusterdns.commands.declaration import ENDS, Command

_FILES = ("FILE", "PATH", "OLD", "NEW")  # ends of metavars for which file names are completed
_PLUGINS_AND_COMMANDS = "WORD"


def completion(shell: str) -> str:
    """Return the completion of a shell: bash, zsh or fish."""
    return _SHELLS[shell](_commands())


def _commands() -> list[Command]:
    return [listing.load(name) for name in listing.NAMES]


def _words(action: argparse.Action) -> list[str]:
    """Return the values that an argument may have, [] if that is not known."""
    if action.metavar == _PLUGINS_AND_COMMANDS:
        return [*listing.NAMES, *registry.available()]
    return [str(each) for each in action.choices or ()]


def _takes_file(action: argparse.Action) -> bool:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return metavar.endswith(_FILES)


def _takes_directory(action: argparse.Action) -> bool:
    return isinstance(action.metavar, str) and action.metavar.endswith("DIR")


def _options(command: Command) -> list[argparse.Action]:
    return [each for each in command.parser().arguments() if each.option_strings]


def _positions(command: Command) -> list[argparse.Action]:
    return [each for each in command.parser().arguments() if not each.option_strings]


def _takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def _bash(commands: list[Command]) -> str:
    lines = [
        "# bash completion of clusterdns; made by `clusterdns help --completion bash`",
        "_clusterdns() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "    local command=${COMP_WORDS[1]}",
        "    case $command in -*) command=serve ;; esac",
        '    if [ "$COMP_CWORD" = 1 ] && [ "${word#-}" = "$word" ]; then',
        f"        words='{' '.join(each.name for each in commands)}'",
        "    else",
        '        case "$command $before" in',
    ]
    for command in commands:
        lines += [f"            {_bash_case(command, each)}" for each in _options(command)
                  if _takes_value(each)]  # fmt: skip
    lines += ["        esac", '        [ -n "$words" ] || case $command in']
    for command in commands:
        lines.append(f"            {command.name}) words={_bash_words(command)} ;;")
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "    [ ${#COMPREPLY[@]} -gt 0 ] || compopt -o default 2>/dev/null",
        "}",
        "complete -F _clusterdns clusterdns",
    ]
    return "\n".join(lines) + "\n"


def _bash_case(command: Command, action: argparse.Action) -> str:
    names = "|".join(f"'{command.name} {option}'" for option in action.option_strings)
    words = _words(action)
    if words:
        return f"{names}) words='{' '.join(words)}' ;;"
    kind = "-d" if _takes_directory(action) else "-f" if _takes_file(action) else ""
    if not kind:
        return f"{names}) return ;;"
    return f'{names}) COMPREPLY=($(compgen {kind} -- "$word")); return ;;'


def _bash_words(command: Command) -> str:
    words = [option for action in _options(command) for option in action.option_strings]
    words += [word for action in _positions(command) for word in _words(action)]
    return f"'{' '.join(words)}'"


def _zsh(commands: list[Command]) -> str:
    lines = [
        "#compdef clusterdns",
        "# zsh completion of clusterdns; made by `clusterdns help --completion zsh`",
        "_clusterdns() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {_quoted(f'{each.name}:{each.summary}')}" for each in commands),
        "    )",
        "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then",
        "        _describe command commands",
        "        return",
        "    fi",
        "    local command=$words[2]",
        "    if [[ $command == -* ]]; then command=serve; else shift words; (( CURRENT-- )); fi",
        "    case $command in",
    ]
    for command in commands:
        lines += [f"        {command.name})", "            _arguments \\"]
        specs = [*_zsh_options(command), *_zsh_positions(command)]
        lines += [f"                {spec} \\" for spec in specs]
        lines[-1] = lines[-1].removesuffix(" \\")
        lines.append("            ;;")
    return "\n".join([*lines, "    esac", "}", '_clusterdns "$@"']) + "\n"


def _zsh_options(command: Command) -> Iterator[str]:
    for action in _options(command):
        purpose = _plain(action).replace("[", "(").replace("]", ")")
        value = (
            f":{action.metavar or action.dest}:{_zsh_action(action)}"
            if _takes_value(action)
            else ""
        )
        for option in action.option_strings:
            yield _quoted(f"{option}[{purpose}]{value}")


def _zsh_positions(command: Command) -> Iterator[str]:
    for action in _positions(command):
        number = "*" if action.nargs in ("*", "+") else ""
        yield _quoted(f"{number}:{action.metavar or action.dest}:{_zsh_action(action)}")


def _zsh_action(action: argparse.Action) -> str:
    if words := _words(action):
        return f"({' '.join(words)})"
    return "_files -/" if _takes_directory(action) else "_files" if _takes_file(action) else " "


def _fish(commands: list[Command]) -> str:
    names = " ".join(each.name for each in commands)
    start = f"not __fish_seen_subcommand_from {names}"
    lines = [
        "# fish completion of clusterdns; made by `clusterdns help --completion fish`",
        "complete -c clusterdns -f",
        *(f"complete -c clusterdns -n '{start}' -a {each.name} -d {_quoted(each.summary)}"
          for each in commands),
    ]  # fmt: skip
    for command in commands:
        condition = f"__fish_seen_subcommand_from {command.name}"
        if command.name == "serve":  # its flags work without the word
            condition = f"{condition}; or {start}"
        for action in [*_options(command), *_positions(command)]:
            line = _fish_line(action)
            if line:
                lines.append(f"complete -c clusterdns -n '{condition}'{line}")
    return "\n".join(lines) + "\n"


def _fish_line(action: argparse.Action) -> str:
    """Return what completes an option or an argument, "" if nothing does."""
    words = "".join(_fish_option(option) for option in action.option_strings)
    if not words and not (_words(action) or _takes_file(action) or _takes_directory(action)):
        return ""
    if _takes_value(action):
        is_option = bool(action.option_strings)
        if values := _words(action):
            words += f"{' -x' if is_option else ''} -a '{' '.join(values)}'"
        elif _takes_directory(action):
            words += f"{' -x' if is_option else ''} -a '(__fish_complete_directories)'"
        elif _takes_file(action):
            words += " -r -F" if is_option else " -F"
        else:
            words += " -x"  # of a value that is not known, no files
    return f"{words} -d {_quoted(_plain(action))}"


def _fish_option(option: str) -> str:
    if option.startswith("--"):
        return f" -l {option[2:]}"
    return f" -s {option[1:]}" if len(option) == 2 else f" -o {option[1:]}"


_SHELLS: dict[str, Callable[[list[Command]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _plain(action: argparse.Action) -> str:
    return (action.help or "").replace("`", "").replace(":", " ").replace("%%", "%")


def _quoted(text: str) -> str:
    """Return a text as one word of a shell."""
    escaped = text.replace("'", "'\\''")
    return f"'{escaped}'"


def manual() -> str:
    """Return the manual page of section 8, in roff (man(7))."""
    lines = [
        '.\\" made by `clusterdns help --man`',
        ".TH CLUSTERDNS 8",
        ".SH NAME",
        "clusterdns \\- a DNS server for Kubernetes that reads CoreDNS's Corefile",
        ".SH SYNOPSIS",
        ".B clusterdns",
        "[FLAG...]",
        ".br",
        ".B clusterdns",
        "COMMAND ...",
        ".SH DESCRIPTION",
        "Without a command, clusterdns serves a Corefile, with CoreDNS's flags.",
        ".SH COMMANDS",
    ]
    for command in _commands():
        lines += [f".SS {command.name}", _roff(command.description)]
        usage = command.parser().format_usage().removeprefix("usage: ").split()
        lines += [".PP", f".B {_roff(' '.join(usage))}"]
        for action in [*_positions(command), *_options(command)]:
            lines += [".TP", f".B {_roff(_term(action))}", _roff(action.help or "")]
        for example in command.examples:
            lines += [".PP", f"{_roff(example.purpose)}:", ".PP", ".RS 4", ".EX"]
            lines += [_roff(example.line), ".EE", ".RE"]
        exits = "; ".join(f"{code}: {meaning}" for code, meaning in command.exits.items())
        lines += [".PP", _roff(f"Exit codes: {exits}.")]
    lines += [".SH EXIT STATUS", _roff(ENDS)]
    lines += [".SH SEE ALSO", ".BR dig (1),", ".BR resolv.conf (5)"]
    return "\n".join(lines) + "\n"


def _term(action: argparse.Action) -> str:
    metavar = action.metavar or (action.dest if not action.choices else
        "|".join(map(str, action.choices)))  # fmt: skip
    if not action.option_strings:
        return str(metavar)
    value = f" {metavar}" if _takes_value(action) else ""
    return ", ".join(action.option_strings) + value


def _roff(text: str) -> str:
    """Return a text for roff: nothing in it is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("%%", "%").replace("\n", " ")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
