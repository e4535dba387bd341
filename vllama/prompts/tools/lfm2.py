"""A Python list of calls between marks, as LiquidAI/LFM2-1.2B writes it; on request it writes JSON.

<|tool_call_start|>[get_weather(city="Oslo", days=3), list_files()]<|tool_call_end|>
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import MarkerEnd
from vllama.prompts.tools.pythonic import read_list
from vllama.prompts.tools.reading import json_calls

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """Python, or JSON."""
    return read_list(body, tools) or json_calls(body)


RULES = (Rule(OPEN, lambda: MarkerEnd(CLOSE), read, closing=CLOSE),)
