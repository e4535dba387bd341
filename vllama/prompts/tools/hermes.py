"""`<tool_call>` around JSON, as NousResearch/Hermes-2-Pro-Llama-3-8B and Qwen/Qwen3-8B write it.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Also ibm-granite/granite-4.0-h-small. One block for each call; a list of calls in one block is taken too.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import json_calls

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The calls of one block."""
    return json_calls(body)


RULES = (Rule(OPEN, lambda: JsonEnd(CLOSE), read, closing=CLOSE, trailing=("}", "]")),)
