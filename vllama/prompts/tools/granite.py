"""A list of calls behind `<|tool_call|>`, as ibm-granite/granite-3.3-8b-instruct writes it.

    <|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]

microsoft/Phi-4-mini-instruct writes the same, and closes it with `<|/tool_call|>`. Granite 4 writes Hermes' format.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import json_calls

OPEN, CLOSE = "<|tool_call|>", "<|/tool_call|>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The calls of one list."""
    return json_calls(body)


RULES = (Rule(OPEN, lambda: JsonEnd(CLOSE), read, closing=CLOSE, trailing=("]", "}", "<|end_of_text|>")),)
