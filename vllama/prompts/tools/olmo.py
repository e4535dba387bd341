"""Python calls, each on a line of its own, as allenai/Olmo-3-7B-Instruct writes them.

<function_calls>
get_weather(city="Oslo", days=3)
list_files()
</function_calls>
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import MarkerEnd
from vllama.prompts.tools.pythonic import read_calls

OPEN, CLOSE = "<function_calls>", "</function_calls>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """One call after the other."""
    return read_calls(body, separator="")


RULES = (Rule(OPEN, lambda: MarkerEnd(CLOSE), read, closing=CLOSE),)
