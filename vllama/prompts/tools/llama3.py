"""Llama 3: bare JSON or the Python tag, as meta-llama/Llama-3.1-8B-Instruct and -3.2-3B-Instruct write it.

    {"name": "get_weather", "parameters": {"city": "Oslo"}}
    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}
    <|python_tag|>brave_search.call(query="weather in Oslo")

Bare JSON is a call only where the output begins with it and the tool is known; several are separated by `;`. Behind the
tag, what is neither JSON nor `name.call(…)` is Python code: content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.arguments import decode_any
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd, MarkerEnd
from vllama.prompts.tools.reading import json_calls

TAG, MESSAGE_END = "<|python_tag|>", "<|eom_id|>"

_BUILTIN = re.compile(r"\s*(\w+)\.call\((.*)\)\s*", re.DOTALL)
_PARAMETER = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)\s*(?:,|$)', re.DOTALL)
_WORDS = {"True": True, "False": False, "None": None}


class _TagEnd:
    """Behind the tag: JSON ends with itself, code with the message."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end: JsonEnd | MarkerEnd | None = None

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """See `End`."""
        if self._end is None:
            start = re.compile(r"\S").search(text, pos)
            if start is None:
                return len(text), False
            self._end = JsonEnd(MESSAGE_END) if start[0] in "{[" else MarkerEnd(MESSAGE_END)
        return self._end.scan(text, pos)


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """JSON, or a call of a tool that the template knows by itself."""
    builtin = _BUILTIN.fullmatch(body)
    if builtin is None:
        return json_calls(body, arguments=("parameters", "arguments"))
    arguments: dict[str, Any] = {}
    text, at = builtin[2].rstrip(), 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            return None
        value = match[2]
        if value in _WORDS:
            arguments[match[1]] = _WORDS[value]
        else:
            arguments[match[1]] = decode_any(value)
            if arguments[match[1]] is None:
                return None
        at = match.end()
    return [ToolCall(builtin[1], arguments)]


_TRAILING = (";", "}", "]", "<|eot_id|>")
RULES = (
    Rule(TAG, _TagEnd, read, closing=MESSAGE_END, trailing=_TRAILING),
    Rule("", JsonEnd, read, trailing=(*_TRAILING, MESSAGE_END)),
)
