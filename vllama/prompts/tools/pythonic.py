"""Calls written as Python: a list of them, each with keyword arguments and literals as values.

    [get_weather(city="Oslo", days=3), list_files()]

As meta-llama/Llama-4-Scout-17B-16E-Instruct is told to write it and Llama 3.2's documentation shows it, there bare or
between `<|python_start|>` and `<|python_end|>`; Gemma 3 writes it with the same instructions. Bare text is a call only
where the output begins with it and the tool is known, and a Llama 4 that was told to use JSON does so.

The text is never evaluated: it is read as literals, with JSON's names for the constants allowed as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd, MarkerEnd
from vllama.prompts.tools.reading import json_calls

OPEN, CLOSE = "<|python_start|>", "<|python_end|>"

_DEPTH = 64
"""Brackets within brackets that a value may have."""
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[^\W\d][\w.\-]*")
_KEY = re.compile(r"([^\W\d]\w*)\s*=\s*")
_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*)?\.?\d+(?:[eE][+-]?\d{1,4})?(?![\w.])|[+-]?\d+\.(?![\w.])")
_WORD = re.compile(r"(True|False|None|true|false|null)\b")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(0[0-9a-fA-F]{7})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_LARGEST = 2**63
"""Integers beyond this are floats, as in the JSON of other formats."""


class _Unreadable(Exception):
    """The text is no literal."""


class ListEnd:
    """The call ends with a list: brackets and quotes are counted. What cannot be a list of calls ends at once."""

    __slots__ = ("_depth", "_quote")

    _SPECIAL = re.compile(r"[\[\](){}\"'\\]|[^\w\s.,\-\[\](){}\"'\\]")
    _END_OF_STRING = re.compile(r"[\"'\\]")

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """See `End`."""
        while match := (self._END_OF_STRING if self._quote else self._SPECIAL).search(text, pos):
            char, pos = match[0], match.end()
            if self._quote:
                if char == "\\":
                    if pos == len(text):
                        return match.start(), False
                    pos += 1
                elif char == self._quote:
                    self._quote = ""
            elif char in "([{":
                self._depth += 1
                if (self._depth == 1) != (char == "[") and self._depth <= 2 and char != "(":
                    return pos, True
            elif char in ")]}":
                self._depth -= 1
                if self._depth <= 0:
                    return pos, True
            elif self._depth < 2:
                # Between the calls of a list stands nothing but their names and commas.
                return pos, True
            elif char in "\"'":
                self._quote = char
        return len(text), False


class _Reader:
    """Reads literals from a text, from `pos` on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def space(self) -> None:
        match = _SPACE.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos

    def take(self, char: str) -> bool:
        """Whether the next character, after white space, is this one; then it is behind."""
        self.space()
        if self.text.startswith(char, self.pos):
            self.pos += len(char)
            return True
        return False

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self.space()
        match = pattern.match(self.text, self.pos)
        if match is not None:
            self.pos = match.end()
        return match

    def done(self) -> bool:
        self.space()
        return self.pos == len(self.text)

    def call(self) -> ToolCall:
        """`name(key=value, …)`."""
        name = self.match(_NAME)
        if name is None or not self.take("("):
            raise _Unreadable
        arguments: dict[str, Any] = {}
        while not self.take(")"):
            key = self.match(_KEY)
            if key is None or key[1] in arguments:
                raise _Unreadable
            arguments[key[1]] = self.value(0)
            if not self.take(","):
                if self.take(")"):
                    break
                raise _Unreadable
        return ToolCall(name[0], arguments)

    def value(self, depth: int) -> Any:
        """A string, number, constant, list, tuple (which is a list) or dictionary with texts as keys."""
        if depth > _DEPTH:
            raise _Unreadable
        if (string := self.match(_STRING)) is not None:
            return _unescape(string[1] if string[1] is not None else string[2])
        if (number := self.match(_NUMBER)) is not None:
            return _number(number[0])
        if (word := self.match(_WORD)) is not None:
            return _WORDS[word[0]]
        if self.take("["):
            return self._items("]", depth)
        if self.take("("):
            return self._items(")", depth)
        if self.take("{"):
            return self._pairs(depth)
        raise _Unreadable

    def _items(self, close: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self.take(close):
            items.append(self.value(depth + 1))
            if not self.take(","):
                if self.take(close):
                    break
                raise _Unreadable
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not self.take("}"):
            key = self.value(_DEPTH)
            if not isinstance(key, str) or not self.take(":"):
                raise _Unreadable
            pairs[key] = self.value(depth + 1)
            if not self.take(","):
                if self.take("}"):
                    break
                raise _Unreadable
        return pairs


def _number(text: str) -> int | float:
    try:
        number = int(text) if len(text) < 20 else float(text)
    except ValueError:
        number = float(text)
    if isinstance(number, float) and number in (float("inf"), float("-inf")):
        raise _Unreadable
    return number if isinstance(number, float) or abs(number) < _LARGEST else float(number)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    text = _ESCAPE.sub(_escaped, text)
    # Halves of a character outside of the first plane, each escaped by itself.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is not None:
        number = int(code, 16)
        return chr(number) if number < 0x110000 else "\ufffd"
    char = match[4]
    # What Python knows no meaning for stays as it is, but for the quotes, the backslash and JSON's solidus.
    return _ESCAPES.get(char, char if char in "\"'\\/" else "\\" + char)


def read_calls(body: str, separator: str = ",") -> list[ToolCall] | None:
    """Calls one after the other, None if there are none or if anything else stands there.

    `separator` stands between them; with "" nothing has to, as where each has a line of its own.
    """
    reader = _Reader(body)
    calls: list[ToolCall] = []
    try:
        while not reader.done():
            calls.append(reader.call())
            if not reader.take(",") and separator and not reader.done():
                return None
    except _Unreadable:
        return None
    return calls or None


def read_list(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """A list of calls, or one that stands alone."""
    body = body.strip()
    if body.startswith("[") and body.endswith("]"):
        body = body[1:-1]
    return read_calls(body)


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """What stands between Llama 4's marks: Python, or the JSON of Llama 3."""
    return read_list(body, tools) or read_json(body, tools)


def read_json(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """Llama 3's JSON."""
    return json_calls(body, arguments=("parameters", "arguments"))


_TRAILING = (CLOSE, ";", "<|eom|>", "<|eot|>", "<|eot_id|>")
RULES = (
    Rule(OPEN, lambda: MarkerEnd(CLOSE), read, closing=CLOSE, trailing=_TRAILING),
    Rule("", ListEnd, read_list, trailing=_TRAILING, first="["),
    Rule("", JsonEnd, read_json, trailing=_TRAILING),
)
