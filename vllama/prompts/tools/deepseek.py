"""DeepSeek's markers, in the two forms of its templates.

deepseek-ai/DeepSeek-V3, DeepSeek-R1 and its distillations:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Oslo"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

deepseek-ai/DeepSeek-V3.1:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}
    <｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

from collections.abc import Mapping

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import JsonEnd
from vllama.prompts.tools.reading import object_text

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
_HEAD = 200
"""Characters of the kind, the separator, a name and the fence."""


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """One call, either form."""
    first, mark, rest = body.partition(SEPARATOR)
    if not mark:
        return None
    name, text = first.strip(), rest
    start = rest.find("{")
    if start < 0:
        return None
    head = rest[:start].strip()
    if head:
        # The older form: a kind stands first, and the name before the fence.
        if name != "function":
            return None
        name, text = head.removesuffix("```json").removesuffix("```").strip(), rest[start:]
    arguments = object_text(text)
    if arguments is None or not name or any(char.isspace() for char in name):
        return None
    return [ToolCall(name, arguments)]


DROPPED = (CALLS, CALLS_END)
RULES = (Rule(CALL, lambda: JsonEnd(CALL_END, head=_HEAD), read, closing=CALL_END, trailing=("```", "}")),)
