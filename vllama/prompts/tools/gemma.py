"""Calls with keys and values of Gemma's own notation.

google/functiongemma-270m-it, strings between `<escape>`:

    <start_function_call>call:get_weather{city:<escape>Oslo<escape>,days:3}<end_function_call>

google/gemma-4-31B-it, strings between `<|"|>`:

    <|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Reader, Rule
from vllama.prompts.tools.ends import MarkerEnd

_MAX_DEPTH = 100
_PLAIN = re.compile(r"[^,{}\[\]]*")
_KEY = re.compile(r"[^:,{}\[\]]*")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"\s*call:\s*([^\s{}]+)\s*(?=\{)")


class _Notation:
    """Reads one value; ValueError where it is none."""

    def __init__(self, text: str, pos: int, quote: str) -> None:
        self.text = text
        self.pos = pos
        self._quote = quote

    def skip(self) -> str:
        """White space; the character behind it."""
        match = _SPACE.match(self.text, self.pos)
        self.pos = match.end() if match else self.pos
        return self.text[self.pos : self.pos + 1]

    def value(self, depth: int = 0) -> Any:
        """An object, a list, a quoted text or a bare word."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        char = self.skip()
        if char == "{":
            return self.object(depth)
        if char == "[":
            return self._list(depth)
        if self.text.startswith(self._quote, self.pos):
            return self._quoted()
        word = self._match(_PLAIN).strip()
        try:
            return orjson.loads(word)
        except orjson.JSONDecodeError:
            return word

    def object(self, depth: int) -> dict[str, Any]:
        """From its brace on."""
        found: dict[str, Any] = {}
        self.pos += 1
        while self.skip() != "}":
            quoted = self.text.startswith(self._quote, self.pos)
            key = self._quoted() if quoted else self._match(_KEY).strip()
            if self.skip() != ":" or not key:
                raise ValueError("no key")
            self.pos += 1
            found[key] = self.value(depth + 1)
            self._comma("}")
        self.pos += 1
        return found

    def _list(self, depth: int) -> list[Any]:
        found = []
        self.pos += 1
        while self.skip() != "]":
            found.append(self.value(depth + 1))
            self._comma("]")
        self.pos += 1
        return found

    def _comma(self, close: str) -> None:
        char = self.skip()
        if char == ",":
            self.pos += 1
        elif char != close:
            raise ValueError("not closed")

    def _quoted(self) -> str:
        start = self.pos + len(self._quote)
        end = self.text.find(self._quote, start)
        if end < 0:
            raise ValueError("a text is not closed")
        self.pos = end + len(self._quote)
        return self.text[start:end]

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.pos)
        assert match is not None
        self.pos = match.end()
        return match[0]


def _reader(quote: str) -> Reader:
    def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
        head = _NAME.match(body)
        if head is None:
            return None
        notation = _Notation(body, head.end(), quote)
        try:
            arguments = notation.object(0)
        except ValueError:
            return None
        return None if notation.skip() else [ToolCall(head[1], arguments)]

    return read


FUNCTION_OPEN, FUNCTION_CLOSE, ESCAPE = "<start_function_call>", "<end_function_call>", "<escape>"
GEMMA4_OPEN, GEMMA4_CLOSE, GEMMA4_QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'

FUNCTION_RULES = (Rule(FUNCTION_OPEN, lambda: MarkerEnd(FUNCTION_CLOSE), _reader(ESCAPE), closing=FUNCTION_CLOSE),)
GEMMA4_RULES = (Rule(GEMMA4_OPEN, lambda: MarkerEnd(GEMMA4_CLOSE), _reader(GEMMA4_QUOTE), closing=GEMMA4_CLOSE),)
