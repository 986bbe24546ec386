"""Go's text templates: parsed once, evaluated with bounded work.

``Template`` parses; ``render`` evaluates with a ``Struct`` as dot. All actions are there, and all
functions of Go's text/template but those that call functions of the data. What fails only on
evaluation in Go does so here: ``TemplateError`` either way. (Go: text/template/parse, exec.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clusterdns.languages import goformat

MAX_STEPS = 100_000  # nodes evaluated for one text: a range over a large number goes on for hours
MAX_CHARACTERS = 70_000  # of what is made: more than any record has
MAX_DEPTH = 100  # of templates and parentheses within each other

Function = Callable[..., object]


class TemplateError(ValueError):
    """A text that is no template, or one that cannot be evaluated with this data."""


class _NoValue:
    """What a map says of a key it does not have."""

    def __str__(self) -> str:
        return "<no value>"


_NO_VALUE = _NoValue()


class Struct:
    """Data with named fields, and methods that are called with arguments."""

    def __init__(
        self,
        type_text: str,
        fields: Mapping[str, object],
        methods: Mapping[str, Function] | None = None,
    ) -> None:
        self.type_text = type_text
        self.fields = fields
        self.methods = methods or {}


class AnyMap(dict[str, object]):
    """A map whose values are of any type: a missing one is nil, not empty."""


# ---- nodes


class _Node(NamedTuple):
    """What evaluates to a value: a kind, and its parts."""

    kind: str  # value, dot, variable, chain, pipe, function
    text: str
    parts: tuple[Any, ...] = ()


class _Pipe(NamedTuple):
    """Commands whose results are passed on, and the variables that the last one is given to."""

    text: str
    commands: tuple[tuple[_Node, ...], ...]
    names: tuple[str, ...] = ()
    is_declared: bool = False


class _Action(NamedTuple):
    """A part of the text: text itself, output, or a branch with its bodies."""

    kind: str  # text, output, if, range, with, break, continue, template
    text: str = ""
    pipe: _Pipe | None = None
    body: tuple[_Action, ...] = ()
    otherwise: tuple[_Action, ...] = ()


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
_ESCAPE = re.compile(r"\\(?:([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SIMPLE = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
    '"': '"', "'": "'",
}  # fmt: skip
_SPACES = " \t\r\n"
_KEYWORDS = frozenset(
    ("if", "else", "end", "range", "with", "break", "continue", "template", "define", "block")
)


class _Token(NamedTuple):
    kind: str
    text: str


class Template:
    """One template. ``fields`` are the names it takes from its data, ``uses_whole`` all of it."""

    def __init__(self, text: str, functions: Mapping[str, Function], *, name: str = "") -> None:
        """Parse it.

        Raises:
            TemplateError: it is none.
        """
        self.text = text
        self.name = name
        self.functions = {**_FUNCTIONS, **functions}
        parser = _Parser(text, self.functions)
        self.body = parser.parse()
        self.defined = parser.defined
        self.fields = frozenset(parser.fields)
        self.uses_whole = parser.uses_whole

    @property
    def is_constant(self) -> bool:
        """Whether it makes the same text of any data."""
        return not self.fields and not self.uses_whole

    @property
    def canonical(self) -> str:
        """The template as Go prints its parse tree: in metrics it is called by that."""
        return _print(self.body)

    def render(self, data: Struct) -> str:
        """Return the text it makes of data.

        Raises:
            TemplateError: it cannot be evaluated, or takes too long.
        """
        run = _Run(self, data)
        try:
            run.body(self.body, data)
        except RecursionError as error:
            raise TemplateError("nested too deep") from error
        return "".join(run.parts)


def _print(body: Sequence[_Action]) -> str:
    made = []
    for action in body:
        if action.kind == "text":
            made.append(action.text)
        elif action.kind in ("if", "range", "with"):
            assert action.pipe is not None
            made.append(f"{{{{{action.kind} {action.pipe.text}}}}}{_print(action.body)}")
            made.append(f"{{{{else}}}}{_print(action.otherwise)}" if action.otherwise else "")
            made.append("{{end}}")
        elif action.kind == "template":
            arguments = f" {action.pipe.text}" if action.pipe else ""
            made.append(f'{{{{template "{action.text}"{arguments}}}}}')
        else:
            made.append(f"{{{{{action.pipe.text if action.pipe else action.kind}}}}}")
    return "".join(made)


# ---- parsing


class _Parser:
    """Reads a template: pieces of text and actions, by recursive descent."""

    def __init__(self, text: str, functions: Mapping[str, Function]) -> None:
        self._functions = functions
        self._pieces = _pieces(text)
        self._at = 0
        self._tokens: list[_Token] = []  # of the action being read, the next one last
        self._variables = ["$"]
        self._inner = 0  # bodies in which dot is not the whole
        self._depth = 0
        self.defined: dict[str, tuple[_Action, ...]] = {}
        self.fields: set[str] = set()
        self.uses_whole = False

    def parse(self) -> tuple[_Action, ...]:
        body, end = self._list(())
        assert not end
        return body

    def _list(self, ends: tuple[str, ...]) -> tuple[tuple[_Action, ...], str]:
        """Read actions up to one of ``ends``, and return them with it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError("nested too deep")
        found: list[_Action] = []
        while self._at < len(self._pieces):
            kind, text = self._pieces[self._at]
            self._at += 1
            if kind == "text":
                found.append(_Action("text", text))
                continue
            self._tokens = _tokens(text)
            word = self._peek()
            if word.kind == "word" and word.text in _KEYWORDS:
                self._take()
                if word.text in ends:
                    self._depth -= 1
                    return tuple(found), word.text
                action = self._keyword(word.text, ends)
                found += [action] if action else []
            else:
                pipe = self._pipe()
                self._finish()
                found.append(_Action("output", pipe=pipe))
        if ends:
            raise TemplateError("unexpected EOF: an action lacks its {{end}}")
        self._depth -= 1
        return tuple(found), ""

    def _keyword(self, word: str, ends: tuple[str, ...]) -> _Action | None:
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
                return _Action("template", name, pipe)
            case "template":
                name = self._name()
                given = self._pipe() if self._peek().kind != "end" else None
                self._finish()
                return _Action("template", name, given)
            case "break" | "continue" if "range" in ends or self._is_in_range:
                self._finish()
                return _Action(word)
            case "break" | "continue":
                raise TemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
        raise TemplateError(f"unexpected {{{{{word}}}}}")

    _is_in_range = False

    def _branch(self, word: str) -> _Action:
        known = len(self._variables)
        pipe = self._pipe(most=2 if word == "range" else 1)
        self._finish()
        was_in_range = self._is_in_range
        self._is_in_range |= word == "range"
        self._inner += word != "if"
        body, end = self._list(("else", "end"))
        self._inner -= word != "if"
        self._is_in_range = was_in_range
        otherwise: tuple[_Action, ...] = ()
        if end == "else":
            again = self._peek()
            if again.kind == "word" and again.text in ("if", "with") and again.text == word:
                self._take()
                otherwise = (self._branch(word),)
                del self._variables[known:]
                return _Action(word, "", pipe, body, otherwise)
            self._finish()
            otherwise, _ = self._list(("end",))
        self._finish()
        del self._variables[known:]
        return _Action(word, "", pipe, body, otherwise)

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
        """Go past white space, and tell whether there was some."""
        found = bool(self._tokens) and self._tokens[-1].kind == "space"
        if found:
            self._tokens.pop()
        return found

    def _finish(self) -> None:
        token = self._peek()
        if token.kind != "end":
            raise TemplateError(f"unexpected {token.text!r} in an action")

    # pipelines

    def _pipe(self, most: int = 1) -> _Pipe:
        """Read a pipeline up to the end of the action, or to the closing parenthesis."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError("nested too deep")
        names, is_declared = self._declarations(most)
        commands: list[tuple[_Node, ...]] = []
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
        return _Pipe(text, tuple(commands), names, is_declared)

    def _declarations(self, most: int) -> tuple[tuple[str, ...], bool]:
        """Read ``$a, $b :=`` if that is there."""
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

    def _command(self) -> tuple[_Node, ...]:
        operands: list[_Node] = []
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

    def _operand(self) -> _Node:
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
        return _Node("chain", f"{prefix}.{'.'.join(chain)}", (node, tuple(chain)))

    def _term(self) -> _Node:
        token = self._take()
        match token.kind:
            case "string" | "raw":
                return _Node("value", token.text, (_unquote(token),))
            case "char" | "number":
                return _Node("value", token.text, (_number(token),))
            case "variable":
                if token.text not in self._variables:
                    raise TemplateError(f"undefined variable {token.text!r}")
                return _Node("variable", token.text)
            case "field":  # of dot
                self._tokens.append(token)
                return _Node("dot", ".")
            case "word" if token.text in ("true", "false"):
                return _Node("value", token.text, (token.text == "true",))
            case "word" if token.text == "nil":
                return _Node("value", "nil", (None,))
            case "word":
                if token.text not in self._functions:
                    raise TemplateError(f"function {token.text!r} not defined")
                return _Node("function", token.text)
        if token.text == ".":
            return _Node("dot", ".")
        if token.text == "(":
            pipe = self._pipe()
            if self._peek().text != ")":
                raise TemplateError("unclosed left paren")
            self._take()
            return _Node("pipe", f"({pipe.text})", (pipe,))
        raise TemplateError(f"unexpected {token.text!r} in command")


def _pieces(text: str) -> list[tuple[str, str]]:
    """Return text and actions one after the other, white space trimmed where it says so."""
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
    """Return the ``}}`` that ends an action, outside its strings."""
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

    def replace(escape: re.Match[str]) -> str:
        octal, *hexes, simple = escape.groups()
        try:
            if octal:
                return chr(int(octal, 8))
            if simple is None:
                return chr(int(next(each for each in hexes if each), 16))
            return _SIMPLE[simple]
        except (KeyError, ValueError, OverflowError) as error:
            raise TemplateError(f"bad escape in {token.text}") from error

    return _ESCAPE.sub(replace, token.text[1:-1])


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


# ---- evaluation


class _Break(Exception):
    """The innermost range ends."""


class _Continue(Exception):
    """The innermost range goes on with its next element."""


class _Run:
    """One evaluation: what it has made so far, its variables, and the steps it has left."""

    def __init__(self, template: Template, data: Struct) -> None:
        self.parts: list[str] = []
        self._template = template
        self._variables: list[tuple[str, object]] = [("$", data)]
        self._left = MAX_STEPS
        self._characters = 0
        self._depth = 0

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TemplateError("takes too long")

    def _write(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise TemplateError("makes too long a text")
        self.parts.append(text)

    def body(self, actions: Sequence[_Action], dot: object) -> None:
        for action in actions:
            self._step()
            if action.kind == "text":
                self._write(action.text)
            else:
                self._act(action, dot)

    def _act(self, action: _Action, dot: object) -> None:
        match action.kind:
            case "break":
                raise _Break
            case "continue":
                raise _Continue
            case "template":
                self._include(action, dot)
                return
        assert action.pipe is not None
        known = len(self._variables)
        if action.kind == "range":
            self._range(action, action.pipe, dot)
            del self._variables[known:]
            return
        value = self._pipe(action.pipe, dot)
        if action.kind == "output":
            if not action.pipe.names:
                self._write(_printed(value))
            return
        if _truth(value):
            self.body(action.body, value if action.kind == "with" else dot)
        else:
            self.body(action.otherwise, dot)
        del self._variables[known:]

    def _include(self, action: _Action, dot: object) -> None:
        body = self._template.defined.get(action.text)
        if body is None:
            raise TemplateError(f"template {action.text!r} not defined")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateError("nested too deep")
        value = self._pipe(action.pipe, dot) if action.pipe else None
        outer, self._variables = self._variables, [("$", value)]
        self.body(body, value)
        self._variables = outer
        self._depth -= 1

    def _range(self, action: _Action, pipe: _Pipe, dot: object) -> None:
        value = self._commands(pipe, dot)
        pairs: Sequence[tuple[object, object]] | Any
        if isinstance(value, Mapping):
            pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        elif value is None or isinstance(value, _NoValue):
            pairs = ()
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = ((i, i) for i in range(value))
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        else:
            raise TemplateError(f"range can't iterate over {_printed(value)}")
        known, is_empty = len(self._variables), True
        for key, each in pairs:
            is_empty = False
            self._step()
            names = pipe.names
            given = (each,) if len(names) == 1 else (key, each)
            if names and pipe.is_declared:
                self._variables += zip(names, given, strict=True)
            else:
                for name, one in zip(names, given, strict=False):
                    self._set(name, one)
            try:
                self.body(action.body, each)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del self._variables[known:]
        if is_empty:
            self.body(action.otherwise, dot)

    def _set(self, name: str, value: object) -> None:
        for i in reversed(range(len(self._variables))):
            if self._variables[i][0] == name:
                self._variables[i] = (name, value)
                return

    def _pipe(self, pipe: _Pipe, dot: object) -> object:
        value = self._commands(pipe, dot)
        for name in pipe.names:
            if pipe.is_declared:
                self._variables.append((name, value))
            else:
                self._set(name, value)
        return value

    def _commands(self, pipe: _Pipe, dot: object) -> object:
        last: tuple[object, ...] = ()
        for command in pipe.commands:
            last = (self._command(command, dot, last),)
        return last[0]

    def _command(self, command: Sequence[_Node], dot: object, last: tuple[object, ...]) -> object:
        self._step()
        first, *rest = command
        if first.kind == "function":
            return self._call(first.text, rest, dot, last)
        if first.kind == "chain":
            return self._chain(first, dot, (rest, last))
        if rest or last:
            raise TemplateError(f"can't give argument to non-function {first.text}")
        if first.kind == "value" and first.parts[0] is None:
            raise TemplateError("nil is not a command")
        return self._value(first, dot)

    def _call(
        self, name: str, rest: Sequence[_Node], dot: object, last: tuple[object, ...]
    ) -> object:
        if name in ("and", "or"):  # which look no further than they must
            value: object = _NO_VALUE
            for node in rest:
                value = self._value(node, dot)
                if _truth(value) is (name == "or"):
                    return value
            if not rest and not last:
                raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")
            return last[0] if last else value
        args = [self._value(node, dot) for node in rest] + list(last)
        args = [None if isinstance(each, _NoValue) else each for each in args]
        try:
            return self._template.functions[name](*args)
        except TemplateError as error:
            raise TemplateError(f"error calling {name}: {error}") from error
        except TypeError as error:
            said = f"error calling {name}: wrong number or type of arguments"
            raise TemplateError(said) from error

    def _value(self, node: _Node, dot: object) -> object:
        self._step()
        match node.kind:
            case "value":
                return node.parts[0]
            case "dot":
                return dot
            case "variable":
                return next(v for name, v in reversed(self._variables) if name == node.text)
            case "pipe":
                return self._pipe(node.parts[0], dot)
            case "function":
                return self._call(node.text, (), dot, ())
        return self._chain(node, dot, ((), ()))

    def _chain(
        self, node: _Node, dot: object, arguments: tuple[Sequence[_Node], tuple[object, ...]]
    ) -> object:
        """Return a field of a field ...; the last one may be a method and have arguments."""
        start, names = node.parts
        value = self._value(start, dot)
        rest, last = arguments
        args = [self._value(each, dot) for each in rest] + list(last)
        for name in names[:-1]:
            value = _field(value, name, ())
        return _field(value, names[-1], args)


def _field(receiver: object, name: str, args: Sequence[object]) -> object:
    if isinstance(receiver, Struct):
        if name in receiver.methods:
            try:
                return receiver.methods[name](*args)
            except TypeError as error:
                raise TemplateError(f"wrong number or type of arguments for {name}") from error
        if name in receiver.fields:
            if args:
                raise TemplateError(f"{name} has arguments but cannot be invoked as function")
            return receiver.fields[name]
        raise TemplateError(f"can't evaluate field {name} in type {receiver.type_text}")
    if isinstance(receiver, _NoValue):
        return receiver
    if receiver is None:
        raise TemplateError(f"nil pointer evaluating interface {{}}.{name}")
    if isinstance(receiver, Mapping):
        if args:
            raise TemplateError(f"{name} is not a method but has arguments")
        return receiver.get(name, _NO_VALUE)
    raise TemplateError(f"can't evaluate field {name} in type {goformat.type_text(receiver)}")


def _printed(value: object) -> str:
    if isinstance(value, Struct):
        raise TemplateError(f"can't print {value.type_text}")
    return goformat.text(_NO_VALUE if value is None else value)


def _truth(value: object) -> bool:
    return not isinstance(value, _NoValue) and bool(value)


# ---- functions


def _index(item: object, *keys: object) -> object:
    for key in keys:
        if isinstance(item, Mapping):
            if not isinstance(key, str):
                raise TemplateError("value has the wrong type; should be string")
            item = item.get(key, _NO_VALUE if isinstance(item, AnyMap) else "")
        elif isinstance(item, (list, tuple, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise TemplateError("cannot index slice/array with this type")
            octets = item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
            if not 0 <= key < len(octets):
                raise TemplateError(f"index out of range: {key}")
            item = octets[key]
        else:
            raise TemplateError("index of untyped nil, or of what has no parts")
    return item


def _slice(item: object, *keys: object) -> object:
    if not isinstance(item, (list, tuple, str)) or len(keys) > 3:
        raise TemplateError("slice of what has no parts")
    bounds = [key for key in keys if isinstance(key, int) and not isinstance(key, bool)]
    if len(bounds) < len(keys) or (isinstance(item, str) and len(keys) == 3):
        raise TemplateError("cannot slice with these indexes")
    start, end, *_ = (*bounds, *(0, len(item))[len(bounds) :]) if len(bounds) < 2 else bounds
    if not 0 <= start <= end <= len(item):
        raise TemplateError(f"index out of range: {start}:{end}")
    return item[start:end]


def _len(item: object) -> int:
    if isinstance(item, str):
        return len(item.encode("utf-8", "surrogateescape"))
    if isinstance(item, (list, tuple, Mapping)):
        return len(item)
    raise TemplateError("len of what has no length")


def _kind(value: object) -> str:
    if isinstance(value, (Mapping, list, tuple, Struct)):
        raise TemplateError("non-comparable type")
    return goformat.type_text(value)


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    for other in others:
        if None not in (first, other) and _kind(first) != _kind(other):
            raise TemplateError("incompatible types for comparison")
        if first == other:
            return True
    return False


def _ne(first: object, other: object) -> bool:
    return not _eq(first, other)


def _lt(first: Any, other: Any) -> bool:  # noqa: ANN401 - whatever the data has
    if _kind(first) != _kind(other) or _kind(first) in ("bool", "<nil>"):
        raise TemplateError("incompatible types for comparison")
    return bool(first < other)


def _call_function(*_values: object) -> object:
    raise TemplateError("non-function")  # the data has no functions


def _print_values(*values: object) -> str:
    return goformat.sprint(values)


def _println(*values: object) -> str:
    return " ".join(map(goformat.text, values)) + "\n"


def _printf(form: object, *values: object) -> str:
    if not isinstance(form, str):
        raise TemplateError("wrong type for value; expected string")
    try:
        return goformat.sprintf(form, values)
    except goformat.FormatError as error:
        raise TemplateError(str(error)) from error


def _one_text(values: Sequence[object]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else goformat.sprint(values)


def _html(*values: object) -> str:
    made = html.escape(_one_text(values), quote=False)
    return made.replace('"', "&#34;").replace("'", "&#39;").replace("\0", "\ufffd")


_JS = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026",
    "=": "\\u003D",
}  # fmt: skip


def _js(*values: object) -> str:
    return "".join(
        _JS.get(each, each if each.isprintable() else f"\\u{ord(each):04X}")
        for each in _one_text(values)
    )


def _urlquery(*values: object) -> str:
    return urllib.parse.quote_plus(_one_text(values), safe="-_.~")


_FUNCTIONS: dict[str, Function] = {
    "and": lambda *values: values,  # these two are evaluated by _Run
    "or": lambda *values: values,
    "call": _call_function,
    "not": lambda value: not _truth(value),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "eq": _eq,
    "ne": _ne,
    "lt": _lt,
    "le": lambda first, other: _lt(first, other) or _eq(first, other),
    "gt": lambda first, other: not (_lt(first, other) or _eq(first, other)),
    "ge": lambda first, other: not _lt(first, other),
    "print": _print_values,
    "println": _println,
    "printf": _printf,
    "html": _html,
    "js": _js,
    "urlquery": _urlquery,
}
