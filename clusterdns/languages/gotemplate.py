"""Go's text templates: parsed once, evaluated with bounded work.

``Template`` parses; ``render`` evaluates with a ``Struct`` as dot. It supports all actions, and all
functions of Go's text/template except calls of functions in the data. Errors that Go reports only
on evaluation are reported then: both raise ``TemplateError``. (Go: text/template/exec.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clusterdns.languages import goformat
from clusterdns.languages.gofunctions import (
    FUNCTIONS,
    NO_VALUE,
    AnyMap,
    Function,
    NoValue,
    Struct,
    shown,
    truth,
)
from clusterdns.languages.gosyntax import (
    MAX_DEPTH,
    Action,
    Node,
    Parser,
    Pipe,
    TemplateError,
    printed,
)

__all__ = ["AnyMap", "Function", "Struct", "Template", "TemplateError"]

# Of one text: nodes evaluated, and what functions read and write, in parts of so many characters.
# That is some 10 ms. A range over a large number could take hours.
MAX_STEPS, STEP_CHARACTERS = 20_000, 8
MAX_CHARACTERS = 70_000  # of the result, and of any text on the way: longer than any record


class Template:
    """One template. ``fields`` are the fields it uses; ``uses_whole`` if it uses all data."""

    def __init__(self, text: str, functions: Mapping[str, Function], *, name: str = "") -> None:
        """Parse it.

        Raises:
            TemplateError: it is invalid.
        """
        self.text = text
        self.name = name
        self.functions = {**FUNCTIONS, **functions}
        parser = Parser(text, self.functions)
        self.body = parser.parse()
        self.defined = parser.defined
        self.fields = frozenset(parser.fields)
        self.uses_whole = parser.uses_whole

    @property
    def is_constant(self) -> bool:
        """Whether its text does not depend on data."""
        return not self.fields and not self.uses_whole

    @property
    def canonical(self) -> str:
        """The template as Go prints its parse tree, the label in metrics."""
        return printed(self.body)

    def render(self, data: Struct) -> str:
        """Return its text for data.

        Raises:
            TemplateError: it cannot be evaluated, or takes too long.
        """
        run = _Run(self, data)
        try:
            run.body(self.body, data)
        except RecursionError as error:
            raise TemplateError("nested too deep") from error
        return "".join(run.parts)


class _Break(Exception):
    """The innermost range ends."""


class _Continue(Exception):
    """The innermost range continues with its next element."""


class _Run:
    """One evaluation: its text so far, its variables, and the steps left."""

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

    def _charge(self, *values: object) -> None:
        """Count the texts that a function reads or has made, and bound them: they may double."""
        for value in values:
            if isinstance(value, str):
                self._left -= len(value) // STEP_CHARACTERS
                if len(value) > MAX_CHARACTERS:
                    raise TemplateError("makes too long a text")

    def _write(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise TemplateError("makes too long a text")
        self.parts.append(text)

    def body(self, actions: Sequence[Action], dot: object) -> None:
        for action in actions:
            self._step()
            if action.kind == "text":
                self._write(action.text)
            else:
                self._act(action, dot)

    def _act(self, action: Action, dot: object) -> None:
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
                self._write(shown(value))
            return
        if truth(value):
            self.body(action.body, value if action.kind == "with" else dot)
        else:
            self.body(action.otherwise, dot)
        del self._variables[known:]

    def _include(self, action: Action, dot: object) -> None:
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

    def _range(self, action: Action, pipe: Pipe, dot: object) -> None:
        value = self._commands(pipe, dot)
        pairs: Sequence[tuple[object, object]] | Any
        if isinstance(value, Mapping):
            pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        elif value is None or isinstance(value, NoValue):
            pairs = ()
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = ((i, i) for i in range(value))
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        else:
            raise TemplateError(f"range can't iterate over {shown(value)}")
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

    def _pipe(self, pipe: Pipe, dot: object) -> object:
        value = self._commands(pipe, dot)
        for name in pipe.names:
            if pipe.is_declared:
                self._variables.append((name, value))
            else:
                self._set(name, value)
        return value

    def _commands(self, pipe: Pipe, dot: object) -> object:
        last: tuple[object, ...] = ()
        for command in pipe.commands:
            last = (self._command(command, dot, last),)
        return last[0]

    def _command(self, command: Sequence[Node], dot: object, last: tuple[object, ...]) -> object:
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
        self, name: str, rest: Sequence[Node], dot: object, last: tuple[object, ...]
    ) -> object:
        if name in ("and", "or"):  # with short-circuit evaluation
            value: object = NO_VALUE
            for node in rest:
                value = self._value(node, dot)
                if truth(value) is (name == "or"):
                    return value
            if not rest and not last:
                raise TemplateError(f"wrong number of args for {name}: want at least 1 got 0")
            return last[0] if last else value
        args = [self._value(node, dot) for node in rest] + list(last)
        args = [None if isinstance(each, NoValue) else each for each in args]
        self._charge(*args)
        try:
            made = self._template.functions[name](*args)
        except TemplateError as error:
            raise TemplateError(f"error calling {name}: {error}") from error
        except TypeError as error:
            said = f"error calling {name}: wrong number or type of arguments"
            raise TemplateError(said) from error
        self._charge(made)
        return made

    def _value(self, node: Node, dot: object) -> object:
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
        self, node: Node, dot: object, arguments: tuple[Sequence[Node], tuple[object, ...]]
    ) -> object:
        """Return nested fields; the last one may be a method with arguments."""
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
    if isinstance(receiver, NoValue):
        return receiver
    if receiver is None:
        raise TemplateError(f"nil pointer evaluating interface {{}}.{name}")
    if isinstance(receiver, Mapping):
        if args:
            raise TemplateError(f"{name} is not a method but has arguments")
        return receiver.get(name, NO_VALUE)
    raise TemplateError(f"can't evaluate field {name} in type {goformat.type_text(receiver)}")
