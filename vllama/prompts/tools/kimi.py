"""A section of calls, as moonshotai/Kimi-K2-Instruct and Kimi-K2-Thinking write it.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}
    <|tool_call_end|><|tool_calls_section_end|>

The text before the arguments is the call's id too; the template wants to see it again, so it is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import object_text

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENT = "<|tool_call_argument_begin|>"
_HEAD = 200
"""Characters of an id and the marker behind it."""


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """One call."""
    identity, mark, text = body.partition(ARGUMENT)
    identity = identity.strip()
    name = identity.removeprefix("functions.").rpartition(":")[0] or identity.removeprefix("functions.")
    arguments = object_text(text)
    if not mark or arguments is None or not name or any(char.isspace() for char in name):
        return None
    return [ToolCall(name, arguments, id=identity)]


DROPPED = (SECTION, SECTION_END)
RULES = (Rule(CALL, lambda: JsonEnd(CALL_END, head=_HEAD), read, closing=CALL_END, trailing=("}",)),)
