"""Anthropic's message, and its stream of content blocks."""

from __future__ import annotations

import secrets
from typing import Any

from vllama.api.envelopes import anthropic_object
from vllama.api.events import event
from vllama.api.http import dumps
from vllama.core.replies import Delta, Done, Reply
from vllama.errors import VllamaError
from vllama.prompts.messages import ToolCall

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class MessageShape:
    """One message. In a stream a block of thoughts or text is open until something else comes."""

    def __init__(self, model: str) -> None:
        self._head: dict[str, Any] = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._index = 0
        self._open = ""
        self._called = False

    def begin(self, reply: Reply) -> bytes:
        """message_start. The tokens of the prompt are known by now; Ollama guesses them from the bytes."""
        usage = {"input_tokens": reply.prompt_tokens, "output_tokens": 0}
        message = {**self._head, "content": [], "usage": usage}
        return event("message_start", {"type": "message_start", "message": message})

    def events(self, delta: Delta) -> bytes:
        """A delta of the open block; another kind of piece ends it and opens the next."""
        parts: list[bytes] = []
        if delta.thinking:
            parts.append(self._opened("thinking"))
            parts.append(self._delta(b'"thinking_delta","thinking":', delta.thinking))
        if delta.content:
            parts.append(self._opened("text"))
            parts.append(self._delta(b'"text_delta","text":', delta.content))
        for call in delta.tool_calls:
            self._called = True
            parts.append(self._closed())
            parts.append(self._start({**_tool_use(call), "input": {}}))
            parts.append(self._delta(b'"input_json_delta","partial_json":', dumps(call.arguments).decode()))
            parts.append(self._stop())
        return b"".join(parts)

    def finish(self, done: Done) -> bytes:
        """What the parsers still had, the end of the open block, the reason with the usage, message_stop."""
        rest = self.events(done.delta) + self._closed()
        reason = {"stop_reason": _stop_reason(done, called=self._called)}
        data = {"type": "message_delta", "delta": reason, "usage": _usage(done)}
        return rest + event("message_delta", data) + event("message_stop", {"type": "message_stop"})

    def failed(self, error: VllamaError) -> bytes:
        """An event of type error, which clients raise."""
        return event("error", anthropic_object(error))

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """The message. Its content is a list even when it is empty: clients go over it."""
        content: list[dict[str, Any]] = []
        if delta.thinking:
            content.append({"type": "thinking", "thinking": delta.thinking})
        if delta.content:
            content.append({"type": "text", "text": delta.content})
        content.extend(_tool_use(call) for call in delta.tool_calls)
        reason = _stop_reason(done, called=bool(delta.tool_calls))
        return {**self._head, "content": content, "stop_reason": reason, "usage": _usage(done)}

    def _opened(self, kind: str) -> bytes:
        if self._open == kind:
            return b""
        before = self._closed()
        self._open = kind
        return before + self._start({"type": kind, kind: ""})

    def _closed(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return self._stop()

    def _start(self, block: dict[str, Any]) -> bytes:
        data = {"type": "content_block_start", "index": self._index, "content_block": block}
        return event("content_block_start", data)

    def _stop(self) -> bytes:
        data = {"type": "content_block_stop", "index": self._index}
        self._index += 1
        return event("content_block_stop", data)

    def _delta(self, kind: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b%b}}\n\n'
            % (self._index, kind, dumps(text))
        )


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}


def _stop_reason(done: Done, *, called: bool) -> str:
    return "tool_use" if called else _STOP_REASONS.get(done.reason, "stop_sequence")


def _usage(done: Done) -> dict[str, int]:
    return {"input_tokens": done.prompt_tokens, "output_tokens": done.output_tokens}
