"""`[TOOL_CALLS]`, both generations of Mistral's format.

mistralai/Mistral-7B-Instruct-v0.3 and Mistral-Nemo-Instruct-2407 write a list:

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "abcdefghi"}]

mistralai/Magistral-Small-2509 and Mistral-Small-3.2-24B-Instruct-2506 write one marker for each call, the latter
perhaps with an id:

    [TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Oslo"}
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.arguments import decode
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import json_calls

OPEN, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_HEAD = 160
"""Characters of a name and an id."""


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """The calls behind one marker."""
    if body.lstrip()[:1] in ("{", "[") and not body.lstrip().startswith((ARGS, CALL_ID)):
        return json_calls(body, call_id="id")
    start = body.find("{")
    name, _, identity = body[:start].strip().removesuffix(ARGS).partition(CALL_ID)
    arguments = decode(body[start:]) if start >= 0 else None
    if arguments is None or not name.strip() or any(char in " \t\n<>[]" for char in name.strip()):
        return None
    return [ToolCall(name.strip(), arguments, id=identity.strip())]


RULES = (Rule(OPEN, lambda: JsonEnd(head=_HEAD, skip=(ARGS, CALL_ID)), read, trailing=("]", "}", "</s>")),)
