"""Functions and parameters as elements, as Qwen/Qwen3-Coder-30B-A3B-Instruct writes them.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Oslo
    </parameter>
    </function>
    </tool_call>

Also nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B. Values have no quotes: the tool's schema says what they are. The model
sometimes leaves the outer element out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import MarkerEnd
from vllama.prompts.tools.reading import typed

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The call inside of `<tool_call>`."""
    head, mark, inner = body.partition(_FUNCTION)
    return read_function(inner, tools) if mark and not head.strip() else None


def read_function(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The call behind `<function=`."""
    name, mark, rest = body.partition(">")
    name = name.strip().strip("\"'")
    if not mark or not name or "<" in name:
        return None
    arguments: dict[str, Any] = {}
    at = 0
    while (start := rest.find(_PARAMETER, at)) >= 0:
        if rest[at:start].strip():
            return None
        key_end = rest.find(">", start)
        end = rest.find(_PARAMETER_END, key_end)
        if key_end < 0 or end < 0:
            return None
        key = rest[start + len(_PARAMETER) : key_end].strip()
        value = rest[key_end + 1 : end].removeprefix("\n").removesuffix("\n")
        arguments[key] = typed(value, tools.get(name), key)
        at = end + len(_PARAMETER_END)
    tail = rest[at:].strip()
    if tail not in ("", _FUNCTION_END):
        return None
    return [ToolCall(name, arguments)]


RULES = (
    Rule("<tool_call>", lambda: MarkerEnd("</tool_call>"), read, closing="</tool_call>"),
    Rule(_FUNCTION, lambda: MarkerEnd(_FUNCTION_END), read_function, closing=_FUNCTION_END, trailing=("</tool_call>",)),
)
