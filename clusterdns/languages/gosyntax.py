"""The parser of Go's text templates: actions, pipelines and operands, by recursive descent.

``printed`` prints a parsed template as Go does. (Go: text/template/parse)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from clusterdns.languages import goformat

MAX_DEPTH = 100  # of nested actions and parentheses


class TemplateError(ValueError):
    """An invalid template, or one that cannot be evaluated with its data."""


class Node(NamedTuple):
    """A node that evaluates to a value: its kind and parts."""

    kind: str  # value, dot, variable, chain, pipe, function
    text: str
    parts: tuple[Any, ...] = ()


class Pipe(NamedTuple):
    """Commands, each with the result of the one before, and variables for the last result."""

    text: str
    commands: tuple[tuple[Node, ...], ...]
    names: tuple[str, ...] = ()
    is_declared: bool = False


class Action(NamedTuple):
    """A part of the text: text itself, output, or a branch with its bodies."""

    kind: str  # text, output, if, range, with, break, continue, template
    text: str = ""
    pipe: Pipe | None = None
    body: tuple[Action, ...] = ()
    otherwise: tuple[Action, ...] = ()


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*")|(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\[^\n])+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|(?:[0-9][0-9_]*)?\.?[0-9][0-9_]*\.?(?:[eE][+-]?[0-9]+)?
        |0[bBoO][0-7_]+)(?![0-9A-Za-z_.]))
    |(?P<field>\.[^\W\d]\w*)|(?P<variable>\$\w*)|(?P<word>[^\W\d]\w*)
    |(?P<declare>:=)|(?P<sign>[=|(),.])""",
    re.VERBOSE,
)
_OPEN = re.compile(r"\{\{(-[ \t\r\n])?")
_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
_SPACES = " \t\r\n"
_KEYWORDS = frozenset(
    ("if", "else", "end", "range", "with", "break", "continue", "template", "define", "block")
)


class _Token(NamedTuple):
    kind: str
    text: str


def printed(body: Sequence[Action]) -> str:
    """Return actions as Go prints them."""
    made = []
    for action in body:
        if action.kind == "text":
            made.append(action.text)
        elif action.kind in ("if", "range", "with"):
            assert action.pipe is not None
            made.append(f"{{{{{action.kind} {action.pipe.text}}}}}{printed(action.body)}")
            made.append(f"{{{{else}}}}{printed(action.otherwise)}" if action.otherwise else "")
            made.append("{{end}}")
        elif action.kind == "template":
            arguments = f" {action.pipe.text}" if action.pipe else ""
            made.append(f'{{{{template "{action.text}"{arguments}}}}}')
        else:
            made.append(f"{{{{{action.pipe.text if action.pipe else action.kind}}}}}")
    return "".join(made)


class Parser:
    """Parses a template: pieces of text and actions."""

    def __init__(self, text: str, functions: Container[str]) -> None:
        self._functions = functions
        self._pieces = _pieces(text)
        self._at = 0
        self._tokens: list[_Token] = []  # of the action being read, the next one last
        self._variables = ["$"]
        self._inner = 0  # depth of bodies in which dot is not the data
        self._depth = 0
        self._is_in_range = False
        self.defined: dict[str, tuple[Action, ...]] = {}
        self.fields: set[str] = set()
        self.uses_whole = False

    def parse(self) -> tuple[Action, ...]:
        """Return the actions of the template. Raises TemplateError."""
        body, end = self._list(())
        assert not end
        return body

    def _list(self, ends: tuple[str, ...]) -> tuple[tuple[Action, ...], str]:
        """Read actions up to one of ``ends``, and return them with it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError("nested too deep")
        found: list[Action] = []
        while self._at < len(self._pieces):
            kind, text = self._pieces[self._at]
            self._at += 1
            if kind == "text":
                found.append(Action("text", text))
                continue
            self._tokens = _tokens(text)
            word = self._peek()
            if word.kind == "word" and word.text in _KEYWORDS:
                self._take()
                if word.text in ends:
                    self._depth -= 1
                    return tuple(found), word.text
                action = self._keyword(word.text)
                found += [action] if action else []
            else:
                pipe = self._pipe()
                self._finish()
                found.append(Action("output", pipe=pipe))
        if ends:
            raise TemplateError("unexpected EOF: an action lacks its {{end}}")
        self._depth -= 1
        return tuple(found), ""

    def _keyword(self, word: str) -> Action | None:
        match word:
            case "if" | "range" | "with":
                return self._branch(word)
            case "define":
                self._define()
                return None
            case "block":
                name = self._name()
                outer, self._variables, self._inner = self._variables, ["$"], self._inner + 1
                pipe = self._pipe()
                self._finish()
                self.defined[name], _ = self._list(("end",))
                self._finish()
                self._variables, self._inner = outer, self._inner - 1
                return Action("template", name, pipe)
            case "template":
                name = self._name()
                given = self._pipe() if self._peek().kind != "end" else None
                self._finish()
                return Action("template", name, given)
            case "break" | "continue" if self._is_in_range:
                self._finish()
                return Action(word)
            case "break" | "continue":
                raise TemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
        raise TemplateError(f"unexpected {{{{{word}}}}}")

    def _branch(self, word: str) -> Action:
        known = len(self._variables)
        pipe = self._pipe(most=2 if word == "range" else 1)
        self._finish()
        was_in_range = self._is_in_range
        self._is_in_range |= word == "range"
        self._inner += word != "if"
        body, end = self._list(("else", "end"))
        self._inner -= word != "if"
        self._is_in_range = was_in_range
        otherwise: tuple[Action, ...] = ()
        if end == "else":
            again = self._peek()
            if again.kind == "word" and again.text in ("if", "with") and again.text == word:
                self._take()
                otherwise = (self._branch(word),)
                del self._variables[known:]
                return Action(word, "", pipe, body, otherwise)
            self._finish()
            otherwise, _ = self._list(("end",))
        self._finish()
        del self._variables[known:]
        return Action(word, "", pipe, body, otherwise)

    def _define(self) -> None:
        if self._depth > 1:
            raise TemplateError("unexpected {{define}}")
        name = self._name()
        self._finish()
        outer, self._variables, self._inner = self._variables, ["$"], self._inner + 1
        self.defined[name], _ = self._list(("end",))
        self._finish()
        self._variables, self._inner = outer, self._inner - 1

    def _name(self) -> str:
        self._skip()
        token = self._take()
        if token.kind not in ("string", "raw"):
            raise TemplateError(f"unexpected {token.text!r}, wants the name of a template")
        self._skip()
        return _unquote(token)

    # tokens

    def _peek(self) -> _Token:
        self._skip()
        return self._tokens[-1] if self._tokens else _Token("end", "}}")

    def _take(self) -> _Token:
        return self._tokens.pop() if self._tokens else _Token("end", "}}")

    def _skip(self) -> bool:
        """Skip white space; tell whether there was any."""
        found = bool(self._tokens) and self._tokens[-1].kind == "space"
        if found:
            self._tokens.pop()
        return found

    def _finish(self) -> None:
        token = self._peek()
        if token.kind != "end":
            raise TemplateError(f"unexpected {token.text!r} in an action")

    # pipelines

    def _pipe(self, most: int = 1) -> Pipe:
        """Read a pipeline up to the end of the action, or to the closing parenthesis."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError("nested too deep")
        names, is_declared = self._declarations(most)
        commands: list[tuple[Node, ...]] = []
        while True:
            command = self._command()
            if commands and command[0].kind in ("value", "dot", "variable-value"):
                raise TemplateError(f"non executable command in pipeline: {command[0].text}")
            commands.append(command)
            token = self._peek()
            if token != ("sign", "|"):
                break
            self._take()
        self._depth -= 1
        text = " | ".join(" ".join(node.text for node in command) for command in commands)
        if names:
            text = f"{', '.join(names)} {':=' if is_declared else '='} {text}"
            self._variables += names if is_declared else []
        return Pipe(text, tuple(commands), names, is_declared)

    def _declarations(self, most: int) -> tuple[tuple[str, ...], bool]:
        """Read ``$a, $b :=`` if present."""
        kept = list(self._tokens)
        names: list[str] = []
        while self._peek().kind == "variable" and len(names) < most:
            names.append(self._take().text)
            token = self._peek()
            if token.kind == "declare" or token == ("sign", "="):
                self._take()
                for name in names:
                    if token.kind != "declare" and name not in self._variables:
                        raise TemplateError(f"undefined variable {name!r}")
                return tuple(names), token.kind == "declare"
            if token != ("sign", ","):
                break
            self._take()
        self._tokens = kept
        return (), False

    def _command(self) -> tuple[Node, ...]:
        operands: list[Node] = []
        while True:
            token = self._peek()
            if token.kind == "end" or (token.text in ("|", ")") and token.kind == "sign"):
                break
            operands.append(self._operand())
            after = self._tokens[-1] if self._tokens else _Token("end", "")
            if after.kind not in ("space", "end") and after.text not in ("|", ")"):
                raise TemplateError(f"unexpected {after.text!r} in operand")
        if not operands:
            raise TemplateError("missing value for command")
        return tuple(operands)

    def _operand(self) -> Node:
        node = self._term()
        chain: list[str] = []
        while self._tokens and self._tokens[-1].kind == "field":
            chain.append(self._take().text[1:])
        if not chain:
            if (node.kind == "dot" and not self._inner) or node.text == "$":
                self.uses_whole = True
            return node
        if node.kind in ("value", "function") and node.parts != ("nil",) and node.kind == "value":
            raise TemplateError(f"unexpected .{chain[0]} after term {node.text!r}")
        self.fields.update(chain)
        prefix = "" if node.kind == "dot" else node.text
        return Node("chain", f"{prefix}.{'.'.join(chain)}", (node, tuple(chain)))

    def _term(self) -> Node:
        token = self._take()
        match token.kind:
            case "string" | "raw":
                return Node("value", token.text, (_unquote(token),))
            case "char" | "number":
                return Node("value", token.text, (_number(token),))
            case "variable":
                if token.text not in self._variables:
                    raise TemplateError(f"undefined variable {token.text!r}")
                return Node("variable", token.text)
            case "field":  # of dot
                self._tokens.append(token)
                return Node("dot", ".")
            case "word" if token.text in ("true", "false"):
                return Node("value", token.text, (token.text == "true",))
            case "word" if token.text == "nil":
                return Node("value", "nil", (None,))
            case "word":
                if token.text not in self._functions:
                    raise TemplateError(f"function {token.text!r} not defined")
                return Node("function", token.text)
        if token.text == ".":
            return Node("dot", ".")
        if token.text == "(":
            pipe = self._pipe()
            if self._peek().text != ")":
                raise TemplateError("unclosed left paren")
            self._take()
            return Node("pipe", f"({pipe.text})", (pipe,))
        raise TemplateError(f"unexpected {token.text!r} in command")


def _pieces(text: str) -> list[tuple[str, str]]:
    """Return texts and actions in order, with trim markers applied."""
    found: list[tuple[str, str]] = []
    at, trims = 0, False
    while True:
        opening = _OPEN.search(text, at)
        plain = text[at : opening.start() if opening else len(text)]
        plain = plain.lstrip(_SPACES) if trims else plain
        if opening and opening[1]:
            plain = plain.rstrip(_SPACES)
        if plain:
            found.append(("text", plain))
        if not opening:
            return found
        start = opening.end() - (1 if opening[1] else 0)
        if text.startswith("/*", opening.end()):
            end = text.find("*/", opening.end())
            closing = _CLOSE.match(text, end + 2) if end >= 0 else None
            if closing is None:
                raise TemplateError("unclosed comment")
        else:
            closing = _end_of_action(text, start)
            found.append(("action", text[start : closing.start()]))
        at, trims = closing.end(), bool(closing[1])


def _end_of_action(text: str, start: int) -> re.Match[str]:
    """Return the ``}}`` at the end of an action, outside strings."""
    at = start
    while at < len(text):
        closing = _CLOSE.match(text, at)
        if closing is not None:
            return closing
        token = _TOKEN.match(text, at)
        if token is None:
            raise TemplateError(f"unexpected {text[at : at + 10]!r} in an action")
        if token.lastgroup == "space" and (trimming := _CLOSE.match(text, token.end() - 1)):
            return trimming
        at = token.end()
    raise TemplateError("unclosed action")


def _tokens(action: str) -> list[_Token]:
    found = [_Token(each.lastgroup or "", each[0]) for each in _TOKEN.finditer(action)]
    return found[::-1]


def _unquote(token: _Token) -> str:
    if token.kind == "raw":
        return token.text[1:-1]
    try:
        return goformat.unquoted(token.text[1:-1])
    except ValueError as error:
        raise TemplateError(f"{error} in {token.text}") from error


def _number(token: _Token) -> int | float:
    if token.kind == "char":
        found = _unquote(token)
        if len(found) != 1:
            raise TemplateError(f"malformed character constant: {token.text}")
        return ord(found)
    text = token.text.replace("_", "")
    try:
        if re.fullmatch(r"[+-]?0[0-7]+", text):
            return int(text, 8)
        if re.fullmatch(r"[+-]?(?:0[xXbBoO][0-9a-fA-F]+|[0-9]+)", text):
            return int(text, 0)
        return float(text)
    except ValueError as error:
        raise TemplateError(f"bad number syntax: {token.text}") from error
