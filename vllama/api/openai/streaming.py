"""The two shapes of OpenAI's answers, each as Server-Sent Events and as one JSON object.

A stream's constant part is encoded once; a chunk with text alone costs one JSON-encoded string.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import aclosing
from typing import Any, Protocol, cast

from vllama.api.bodies import OpenAIExtras
from vllama.api.envelopes import openai_object
from vllama.api.http import END, EVENT_STREAM, JSON, DisconnectWatcher, Send, dumps, send_json, start_stream
from vllama.api.streaming import about, gathered, logprobs_json
from vllama.core.replies import Delta, Done, Reply
from vllama.errors import VllamaError
from vllama.prompts.messages import ToolCall

log = logging.getLogger("vllama.api")

_DONE_EVENT = b"data: [DONE]\n\n"
_EMPTY = Delta()
_FINGERPRINT = "fp_ollama"


class Shape(Protocol):
    """Writes one answer; made anew for each request."""

    def chunks(self, delta: Delta) -> bytes:
        """The events of one delta of a stream."""
        ...

    def finish(self, done: Done) -> bytes:
        """The events that end a stream."""
        ...

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """The answer as one object; `delta` is everything that was generated."""
        ...

    def rendered(self, reply: Reply) -> dict[str, Any]:
        """The answer to a request that only wanted to see its prompt."""
        ...


class ChatShape:
    """chat.completion and chat.completion.chunk."""

    def __init__(self, extras: OpenAIExtras) -> None:
        self._id = "chatcmpl-" + secrets.token_hex(8)
        self._model = extras.model
        self._created = int(time.time())
        self._include_usage = extras.include_usage
        self._opened = False
        self._called = False
        head = dumps({**self._head("chat.completion.chunk"), "choices": []})
        self._before = b"data: " + head[:-2]  # without "]}"
        self._choice = self._before + b'{"index":0,"delta":'

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": _FINGERPRINT,
        }

    def chunks(self, delta: Delta) -> bytes:
        """The first carries the role. Thinking beside an answer is a chunk of its own."""
        if self._opened and not (delta.thinking or delta.tool_calls or delta.logprobs):
            return b'%b{"content":%b},"finish_reason":null}]}\n\n' % (self._choice, dumps(delta.content))
        role = {} if self._opened else {"role": "assistant"}
        self._opened = True
        logprobs = b""
        if delta.logprobs:
            logprobs = b',"logprobs":' + dumps({"content": logprobs_json(delta.logprobs)})
        answer: dict[str, Any] = {"content": delta.content}
        if delta.tool_calls:
            self._called = True
        if not delta.thinking:
            if delta.tool_calls:
                answer["tool_calls"] = _tool_calls(delta.tool_calls)
            return self._chunk(role | answer, logprobs)
        if not delta.content and not delta.tool_calls:
            return self._chunk(role | answer | {"reasoning": delta.thinking}, logprobs)
        if delta.tool_calls:
            answer["tool_calls"] = _tool_calls(delta.tool_calls)
        return self._chunk(role | {"reasoning": delta.thinking}, logprobs) + self._chunk(answer, b"")

    def _chunk(self, delta: dict[str, Any], logprobs: bytes) -> bytes:
        return b'%b%b,"finish_reason":null%b}]}\n\n' % (self._choice, dumps(delta), logprobs)

    def finish(self, done: Done) -> bytes:
        """What the parsers still had, an empty delta with the reason, the usage if it was asked for, `[DONE]`."""
        events = b"" if self._opened and done.delta == _EMPTY else self.chunks(done.delta)
        reason = _reason(done, called=self._called)
        events += b'%b{},"finish_reason":%b}]}\n\n' % (self._choice, dumps(reason))
        if self._include_usage:
            events += b'%b],"usage":%b}\n\n' % (self._before, dumps(_usage(done)))
        return events + _DONE_EVENT

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """One chat.completion."""
        message: dict[str, Any] = {"role": "assistant", "content": delta.content}
        if delta.thinking:
            message["reasoning"] = delta.thinking
        if delta.tool_calls:
            message["tool_calls"] = _tool_calls(delta.tool_calls)
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            "finish_reason": _reason(done, called=bool(delta.tool_calls)),
        }
        if delta.logprobs:
            choice["logprobs"] = {"content": logprobs_json(delta.logprobs)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(done)}

    def rendered(self, reply: Reply) -> dict[str, Any]:
        """An answer without role and text, with the prompt beside it."""
        info: dict[str, Any] = {"rendered_template": reply.rendered}
        if reply.image_count:
            info["image_count"] = reply.image_count
        choice = {"index": 0, "message": {"role": "", "content": ""}, "finish_reason": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(None),
            "_debug_info": info,
        }


class CompletionShape:
    """text_completion. Thinking, tool calls and logprobs have no place in it."""

    def __init__(self, extras: OpenAIExtras) -> None:
        self._include_usage = extras.include_usage
        self._head = {
            "id": "cmpl-" + secrets.token_hex(8),
            "object": "text_completion",
            "created": int(time.time()),
        }
        self._tail = {"model": extras.model, "system_fingerprint": _FINGERPRINT}
        self._before = b"data: " + dumps({**self._head, "choices": []})[:-2]
        usage = {"usage": _usage(None)} if extras.include_usage else {}
        self._after = b"]," + dumps({**self._tail, **usage})[1:] + b"\n\n"

    def chunks(self, delta: Delta) -> bytes:
        """One chunk, also for a delta without text."""
        return self._chunk(delta.content, b"null")

    def _chunk(self, text: str, reason: bytes) -> bytes:
        return b'%b{"text":%b,"index":0,"finish_reason":%b}%b' % (
            self._before,
            dumps(text),
            reason,
            self._after,
        )

    def finish(self, done: Done) -> bytes:
        """The reason comes with the last text, the usage (if asked for) behind it, `[DONE]` at the end."""
        events = self._chunk(done.delta.content, dumps(done.reason))
        if self._include_usage:
            tail = dumps({**self._tail, "usage": _usage(done)})[1:]
            events += b"%b],%b\n\n" % (self._before, tail)
        return events + _DONE_EVENT

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """One text_completion."""
        choice = {"text": delta.content, "index": 0, "finish_reason": done.reason}
        return {**self._head, **self._tail, "choices": [choice], "usage": _usage(done)}

    def rendered(self, reply: Reply) -> dict[str, Any]:
        """Nothing: this shape has no place for the prompt."""
        choice = {"text": "", "index": 0, "finish_reason": None}
        return {**self._head, **self._tail, "choices": [choice], "usage": _usage(None)}


async def answer(reply: Reply, shape: Shape, watcher: DisconnectWatcher, send: Send, *, stream: bool) -> None:
    """Send a reply. Errors before the first event leave as VllamaError, with nothing sent."""
    try:
        if reply.kind == "render":
            watcher.stop()
            await send_json(send, 200, dumps(shape.rendered(reply)) + b"\n", JSON, extra=about(reply))
        elif stream:
            await _stream(reply, shape, watcher, send)
        else:
            payload = dumps(shape.whole(*await gathered(reply))) + b"\n"
            watcher.stop()
            await send_json(send, 200, payload, JSON, extra=about(reply))
    finally:
        await reply.aclose()


async def _stream(reply: Reply, shape: Shape, watcher: DisconnectWatcher, send: Send) -> None:
    started = False
    async with aclosing(_generator(reply)) as events:
        try:
            async for event in events:
                data = shape.chunks(event) if type(event) is Delta else shape.finish(cast(Done, event))
                if not started:
                    started = True
                    watcher.patience()
                    await start_stream(send, EVENT_STREAM, extra=about(reply))
                watcher.progress += 1
                await send({"type": "http.response.body", "body": data, "more_body": True})
                watcher.progress += 1
        except VllamaError as error:
            if not started:
                raise
            log.error("the stream broke: %s", error.text)
            data = b"data: " + dumps(openai_object(error)) + b"\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})
    watcher.stop()
    await send(END)


def _generator(reply: Reply) -> Any:
    """The events with their `aclose`, which the protocol's AsyncIterator does not promise."""
    return reply.events()


def _reason(done: Done, *, called: bool) -> str:
    return "tool_calls" if called and done.reason == "stop" else done.reason


def _usage(done: Done | None) -> dict[str, int]:
    prompt, output = (done.prompt_tokens, done.output_tokens) if done else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def _tool_calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Arguments are JSON in a string here."""
    return [
        {
            "id": call.id,
            "index": call.index,
            "type": "function",
            "function": {"name": call.name, "arguments": dumps(call.arguments).decode()},
        }
        for call in calls
    ]
