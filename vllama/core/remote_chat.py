"""Conversations for servers that render them: messages, tools and calls in OpenAI's shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from vllama.engines.base import Call, Chat
from vllama.prompts.messages import Message, Think, Tool, ToolCall

_KINDS = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


def chat_of(messages: Sequence[Message], tools: Sequence[Tool], think: Think | None) -> Chat:
    """The conversation. Calls without ids get some, and results without one get that of the first call unanswered."""
    rows: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        row: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.tool_calls:
            calls = [(call.id or f"call_{len(rows)}_{at}", call) for at, call in enumerate(message.tool_calls)]
            row["tool_calls"] = [_call(number, call) for number, call in calls]
            open_calls += [(number, call.name) for number, call in calls]
        if message.role == "tool":
            row["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name)
        rows.append(row)
    effort: bool | str | None = None if think is None else (think.level if think.enabled and think.level else None)
    if think is not None and effort is None:
        effort = think.enabled
    return Chat(tuple(rows), tuple(map(_tool, tools)), effort)


def calls_of(calls: Sequence[Call]) -> tuple[ToolCall, ...]:
    """The calls that a server read out of its answer."""
    return tuple(ToolCall(call.name, call.arguments, call.id, index) for index, call in enumerate(calls))


def _answered(open_calls: list[tuple[str, str]], name: str) -> str:
    for at, (number, called) in enumerate(open_calls):
        if not name or called == name:
            del open_calls[at]
            return number
    return "call_0"


def _content(message: Message) -> Any:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content else []
    for image in message.images:
        kind = next((kind for mark, kind in _KINDS if image.startswith(mark)), "png")
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _call(number: str, call: ToolCall) -> dict[str, Any]:
    return {
        "id": number,
        "type": "function",
        "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
    }


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    row: dict[str, Any] = {"name": function.name, "parameters": function.parameters}
    if function.description:
        row["description"] = function.description
    return {"type": tool.type or "function", "function": row}
