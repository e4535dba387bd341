"""Cohere's actions.

CohereLabs/c4ai-command-r7b-12-2024 and command-a-03-2025, whose answer stands between markers of its own:

    <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Oslo"}}]<|END_ACTION|>
    <|START_RESPONSE|>It rains.<|END_RESPONSE|>

CohereLabs/c4ai-command-r-v01 and command-r-plus:

    Action: ```json
    [{"tool_name": "get_weather", "parameters": {"city": "Oslo"}}]
    ```

The ids only count the calls of one turn, so they are not handed on. `directly_answer` is no tool: it says that none is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import json_calls

OPEN, CLOSE = "<|START_ACTION|>", "<|END_ACTION|>"
RESPONSE, RESPONSE_END = "<|START_RESPONSE|>", "<|END_RESPONSE|>"
_NO_TOOL = ("directly_answer", "directly-answer")


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The calls of one list of actions."""
    calls = json_calls(body, name="tool_name", arguments=("parameters",))
    return None if calls is None else [call for call in calls if call.name in tools or call.name not in _NO_TOOL]


DROPPED = (RESPONSE, RESPONSE_END)
RULES = (Rule(OPEN, lambda: JsonEnd(CLOSE), read, closing=CLOSE, trailing=("]", "}")),)

OLD_RULES = tuple(Rule(opening, JsonEnd, read, trailing=("```",)) for opening in ("Action: ```json", "Action:```json"))
