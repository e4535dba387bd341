"""A name, then keys and values as elements, as zai-org/GLM-4.5 and GLM-4.6 write them.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Oslo</arg_value>
    </tool_call>

GLM-4.7 leaves the line breaks out. Texts have no quotes, other values are JSON: the tool's schema says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import MarkerEnd
from vllama.prompts.tools.reading import typed

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """One call."""
    at = body.find(_KEY)
    name = (body if at < 0 else body[:at]).strip()
    if not name or any(char.isspace() or char in "<>{}" for char in name):
        return None
    rest = "" if at < 0 else body[at:].strip()
    arguments: dict[str, Any] = {}
    pos = 0
    while pos < len(rest):
        key_end = rest.find(_KEY_END, pos)
        value = rest.find(_VALUE, key_end)
        end = rest.find(_VALUE_END, value)
        between = rest[key_end + len(_KEY_END) : value]
        if not rest.startswith(_KEY, pos) or min(key_end, value, end) < 0 or between.strip():
            return None
        key = rest[pos + len(_KEY) : key_end].strip()
        arguments[key] = typed(rest[value + len(_VALUE) : end], tools.get(name), key)
        pos = end + len(_VALUE_END)
        while pos < len(rest) and rest[pos].isspace():
            pos += 1
    return [ToolCall(name, arguments)]


RULES = (Rule(OPEN, lambda: MarkerEnd(CLOSE), read, closing=CLOSE),)
