"""DeepSeek's markup of invocations and parameters, as deepseek-ai/DeepSeek-V3.2 writes it.

    <｜DSML｜function_calls>
    <｜DSML｜invoke name="get_weather">
    <｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>
    <｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
    </｜DSML｜invoke>
    </｜DSML｜function_calls>

Texts stand as they are, every other value is JSON: `string` says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.blocks import Rule
from vllama.prompts.tools.ends import MarkerEnd
from vllama.prompts.tools.reading import typed

MARK = "｜DSML｜"
CALLS, CALLS_END = f"<{MARK}function_calls>", f"</{MARK}function_calls>"
CALL, CALL_END = f"<{MARK}invoke", f"</{MARK}invoke>"
_OPEN = re.compile(rf"\s*{re.escape(CALL)}(?=\s)")
_CLOSE = re.compile(rf"\s*{re.escape(CALL_END)}")
_NAME = re.compile(r'\s+name="([^"\s]+)"\s*>')
_PARAMETER = re.compile(rf'\s*<{MARK}parameter\s+name="([^"]+)"(?:\s+string="(true|false)")?\s*>')
_PARAMETER_END = f"</{MARK}parameter>"


def read(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """One invocation, from behind its opening marker to before its closing one."""
    found = _invocation(body, 0, tools)
    return [found[0]] if found is not None and not body[found[1] :].strip() else None


def read_all(body: str, tools: Mapping[str, Tool]) -> list[ToolCall] | None:
    """All invocations of a block, with their markers; None if any of it is none."""
    calls: list[ToolCall] = []
    pos = 0
    while (start := _OPEN.match(body, pos)) is not None:
        found = _invocation(body, start.end(), tools)
        if found is None:
            return None
        end = _CLOSE.match(body, found[1])
        if end is None:
            return None
        calls.append(found[0])
        pos = end.end()
    return calls if calls and not body[pos:].strip() else None


def _invocation(body: str, pos: int, tools: Mapping[str, Tool]) -> tuple[ToolCall, int] | None:
    """The call, and where its parameters end."""
    head = _NAME.match(body, pos)
    if head is None:
        return None
    arguments: dict[str, Any] = {}
    pos = head.end()
    while (match := _PARAMETER.match(body, pos)) is not None:
        end = body.find(_PARAMETER_END, match.end())
        if end < 0:
            return None
        text = body[match.end() : end]
        # Without its attribute a value is what the tool's schema wants.
        tool = tools.get(head[1]) if match[2] is None else None
        arguments[match[1]] = text if match[2] == "true" else typed(text, tool, match[1])
        pos = end + len(_PARAMETER_END)
    return ToolCall(head[1], arguments), pos


RULES = (
    Rule(CALLS, lambda: MarkerEnd(CALLS_END), read_all, closing=CALLS_END),
    Rule(CALL, lambda: MarkerEnd(CALL_END), read, closing=CALL_END, trailing=(CALLS_END,)),
)
