"""Modelfiles: reading them into commands and printing commands back.

The grammar is line-less: a command word, blanks, then a value that ends at the first newline or blank at
which its quotes are closed (blanks only count as an end once the line ends). Values may be bare, in `"`
or in `\"\"\"`; there are no escapes and no comments behind a value. Unprintable characters are dropped.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from vllama.errors import RequestError

COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")


class ModelfileError(RequestError):
    """The Modelfile cannot be read; the text has the line where there is one."""


@dataclass(frozen=True, slots=True)
class Command:
    """One line: `name` is "model" for FROM, the parameter's name for PARAMETER, else the word in lower case.

    The `args` of a "message" are `role: content`.
    """

    name: str
    args: str


class _State(Enum):
    NONE = auto()
    NAME = auto()
    VALUE = auto()
    PARAMETER = auto()
    MESSAGE = auto()
    COMMENT = auto()


def parse_modelfile(source: bytes | str) -> tuple[Command, ...]:
    """The commands of a Modelfile: UTF-8, or UTF-16 with a byte order mark. Raises `ModelfileError`."""
    text = source if isinstance(source, str) else _decode(source)
    parser = _Parser()
    for char in text:
        parser.feed(char)
    commands = parser.finish()
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("no FROM line")
    return commands


def _decode(source: bytes) -> str:
    if source.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return source.decode("utf-16", "replace")
    return source.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


class _Parser:
    """One character at a time; `held` is the word or value being read."""

    def __init__(self) -> None:
        self.state = _State.NONE
        self.held: list[str] = []
        self.line = 1
        self.name = ""
        self.role = ""
        self.commands: list[Command] = []

    def feed(self, char: str) -> None:
        blank, newline = char in " \t", char in "\r\n"
        self.line += newline
        if self.state is _State.VALUE:
            self._value(char, blank=blank, newline=newline)
        elif self.state is _State.NONE:
            if char == "#":
                self.state = _State.COMMENT
            elif not blank and not newline:
                self.state = _State.NAME
                self._hold(char)
        elif self.state is _State.COMMENT:
            if newline:
                self.state = _State.NONE
        elif blank:
            self._end_word()
        elif _is_letter(char) or (self.state is _State.PARAMETER and (char in "0123456789_")):
            self._hold(char)
        elif self.state is _State.NAME:
            raise self._unknown_command()
        else:
            raise ModelfileError(f"unexpected EOF: {''.join(self.held)}")

    def _value(self, char: str, *, blank: bool, newline: bool) -> None:
        if not blank and not newline:
            self._hold(char)
            return
        value = _unquote("".join(self.held))
        if blank or value is None:
            self.held.append(char)
        else:
            self._end_value(value)

    def _end_word(self) -> None:
        word = "".join(self.held)
        self.held.clear()
        if self.state is _State.PARAMETER:
            self.name = word
        elif self.state is _State.MESSAGE:
            if word not in ROLES:
                raise self._error('message role must be one of "system", "user", or "assistant"')
            self.role = word
        else:
            command = word.lower()
            if command not in COMMANDS:
                raise self._unknown_command()
            self.name = "model" if command == "from" else command
            if command in ("parameter", "message"):
                self.state = _State.PARAMETER if command == "parameter" else _State.MESSAGE
                return
        self.state = _State.VALUE

    def _end_value(self, value: str) -> None:
        self.commands.append(Command(self.name, f"{self.role}: {value}" if self.role else value))
        self.role = ""
        self.held.clear()
        self.state = _State.NONE

    def finish(self) -> tuple[Command, ...]:
        if self.state is _State.VALUE:
            value = _unquote("".join(self.held))
            if value is None:
                raise ModelfileError("unexpected EOF")
            self._end_value(value)
        elif self.state not in (_State.NONE, _State.COMMENT):
            raise ModelfileError("unexpected EOF")
        return tuple(self.commands)

    def _hold(self, char: str) -> None:
        if char.isprintable():
            self.held.append(char)

    def _error(self, text: str) -> ModelfileError:
        return ModelfileError(f"(line {self.line}): {text}")

    def _unknown_command(self) -> ModelfileError:
        quoted = [f'"{command}"' for command in COMMANDS]
        return self._error(f"command must be one of {', '.join(quoted[:-1])}, or {quoted[-1]}")


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalpha()


def _unquote(text: str) -> str | None:
    """The value without its quotes; None while they are not closed."""
    text = text.strip()
    for mark in ('"""', '"'):
        if text.startswith(mark):
            closed = len(text) >= 2 * len(mark) and text.endswith(mark)
            return text[len(mark) : -len(mark)] if closed else None
    return text


def print_modelfile(commands: Iterable[Command]) -> str:
    """The commands as a Modelfile that reads back as the same (where the format can say it at all)."""
    return "".join(_print(command) + "\n" for command in commands)


def _print(command: Command) -> str:
    if command.name == "model":
        return f"FROM {command.args}"
    if command.name == "message":
        role, _, content = command.args.partition(": ")
        return f"MESSAGE {role} {_quote(content)}"
    if command.name in COMMANDS:
        return f"{command.name.upper()} {_quote(command.args)}"
    return f"PARAMETER {command.name} {_quote(command.args)}"


def _quote(text: str) -> str:
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text
