"""Ollama's two ways of answering generate and chat: a stream of JSON lines, or everything at once.

This is the hot path: a chunk costs one JSON-encoded string, one time stamp and one `send`.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any, Protocol

from vllama.api import envelopes
from vllama.api.http import (
    END,
    JSON_UTF8,
    NDJSON,
    DisconnectWatcher,
    Header,
    Send,
    dumps,
    send_json,
    start_stream,
)
from vllama.core.replies import Delta, Done, Reply
from vllama.engines.base import Logprob
from vllama.errors import RequestCanceled, ServerError, VllamaError
from vllama.prompts.messages import ToolCall

_day_second = (0, b"")


def timestamp() -> bytes:
    """Now in UTC as RFC 3339 with nanoseconds, trailing zeros cut as Go does."""
    global _day_second
    now = time.time_ns()
    seconds, nanos = divmod(now, 1_000_000_000)
    if _day_second[0] != seconds:
        _day_second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode())
    if not nanos:
        return _day_second[1] + b"Z"
    return b"%b.%bZ" % (_day_second[1], (b"%09d" % nanos).rstrip(b"0"))


def about(reply: Reply) -> tuple[Header, ...]:
    """The headers that say what Ollama's answers do not: what was left out of the prompt, what was cached of it."""
    cached = ((b"x-vllama-cached-tokens", b"%d" % reply.cached_tokens),) if reply.kind == "stream" else ()
    return (*cached, (b"x-vllama-truncated", reply.dropped.encode())) if reply.dropped else cached


class Shape(Protocol):
    """How generate or chat writes its JSON: `open` .. text .. `close` is the inside of one line."""

    text_key: bytes

    def line(self, head: bytes, delta: Delta) -> bytes:
        """One line of the stream that is not the last."""
        ...

    def last(self, head: bytes, done: Done, delta: Delta) -> bytes:
        """The last line, or the whole answer when it was not streamed."""
        ...

    def instant(self, head: bytes, reply: Reply) -> bytes:
        """The reply to load, unload and debug-render requests."""
        ...


def metrics(done: Done) -> bytes:
    """`,"total_duration":...` and the other counters; zeros are left out as Go's omitempty does."""
    parts = []
    for name, value in (
        (b"total_duration", done.total_ns),
        (b"load_duration", done.load_ns),
        (b"prompt_eval_count", done.prompt_tokens),
        (b"prompt_eval_duration", done.prompt_ns),
        (b"eval_count", done.output_tokens),
        (b"eval_duration", done.output_ns),
    ):
        if value:
            parts.append(b',"%b":%d' % (name, value))
    return b"".join(parts)


def logprobs_json(logprobs: tuple[Logprob, ...]) -> list[dict[str, Any]]:
    """Ollama's `logprobs` list. Special tokens have no bytes."""
    return [
        {**_entry(item), **({"top_logprobs": [_entry(t) for t in item.top]} if item.top else {})} for item in logprobs
    ]


def _entry(item: Logprob) -> dict[str, Any]:
    entry: dict[str, Any] = {"token": item.token, "logprob": item.logprob}
    if item.raw is not None:
        entry["bytes"] = list(item.raw)
    return entry


def tool_calls_json(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    """Ollama's `tool_calls`: arguments are an object here (a string on /v1)."""
    return [
        {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


class ChatShape:
    """Lines of /api/chat."""

    def line(self, head: bytes, delta: Delta) -> bytes:
        """A chunk: the common case, text only, is put together from bytes."""
        content, thinking, calls, logprobs = delta
        if calls or logprobs:
            return b'%b,%b,"done":false%b}\n' % (head, self._message(delta), _logprobs(delta))
        if thinking:
            return b'%b,"message":{"role":"assistant","content":%b,"thinking":%b},"done":false}\n' % (
                head,
                dumps(content) if content else b'""',
                dumps(thinking),
            )
        return b'%b,"message":{"role":"assistant","content":%b},"done":false}\n' % (head, dumps(content))

    def last(self, head: bytes, done: Done, delta: Delta) -> bytes:
        """The end, with counters."""
        return b'%b,%b,"done":true,"done_reason":"%b"%b%b}' % (
            head,
            self._message(delta),
            done.reason.encode(),
            metrics(done),
            _logprobs(delta),
        )

    def instant(self, head: bytes, reply: Reply) -> bytes:
        """Load and unload are done at once; a debug render is not "done" and has no role."""
        if reply.kind == "render":
            return b'%b,"message":{"role":"","content":""},"done":false,%b}' % (head, _debug(reply))
        return b'%b,"message":{"role":"assistant","content":""},"done":true,"done_reason":"%b"}' % (
            head,
            reply.kind.encode(),
        )

    @staticmethod
    def _message(delta: Delta) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": delta.content}
        if delta.thinking:
            message["thinking"] = delta.thinking
        if delta.tool_calls:
            message["tool_calls"] = tool_calls_json(delta.tool_calls)
        return b'"message":' + dumps(message)


class GenerateShape:
    """Lines of /api/generate."""

    def line(self, head: bytes, delta: Delta) -> bytes:
        """A chunk: the common case, text only, is put together from bytes."""
        if delta.thinking or delta.logprobs:
            return b'%b,"response":%b%b,"done":false%b}\n' % (
                head,
                dumps(delta.content),
                _thinking(delta),
                _logprobs(delta),
            )
        return b'%b,"response":%b,"done":false}\n' % (head, dumps(delta.content))

    def last(self, head: bytes, done: Done, delta: Delta) -> bytes:
        """The end, with counters and `context`."""
        context = b',"context":' + dumps(done.context) if done.context else b""
        return b'%b,"response":%b%b,"done":true,"done_reason":"%b"%b%b%b}' % (
            head,
            dumps(delta.content),
            _thinking(delta),
            done.reason.encode(),
            context,
            metrics(done),
            _logprobs(delta),
        )

    def instant(self, head: bytes, reply: Reply) -> bytes:
        """Load and unload are done at once; a debug render is not."""
        if reply.kind == "render":
            return b'%b,"response":"","done":false,%b}' % (head, _debug(reply))
        return b'%b,"response":"","done":true,"done_reason":"%b"}' % (head, reply.kind.encode())


def _thinking(delta: Delta) -> bytes:
    return b',"thinking":' + dumps(delta.thinking) if delta.thinking else b""


def _logprobs(delta: Delta) -> bytes:
    return b',"logprobs":' + dumps(logprobs_json(delta.logprobs)) if delta.logprobs else b""


def _debug(reply: Reply) -> bytes:
    info: dict[str, Any] = {"rendered_template": reply.rendered}
    if reply.image_count:
        info["image_count"] = reply.image_count
    return b'"_debug_info":' + dumps(info)


async def answer(
    reply: Reply, model: str, shape: ChatShape | GenerateShape, watcher: DisconnectWatcher, send: Send, *, stream: bool
) -> None:
    """Send `reply` for the model name that the client used, streamed or whole."""
    prefix = b'{"model":%b,"created_at":"' % dumps(model)
    try:
        if reply.kind != "stream":
            watcher.stop()
            await send_json(send, 200, shape.instant(prefix + timestamp() + b'"', reply), extra=about(reply))
        elif stream:
            await _lines(reply, prefix, shape, watcher, send)
        else:
            payload = await _whole(reply, prefix, shape)
            watcher.stop()
            await send_json(send, 200, payload, JSON_UTF8, extra=about(reply))
    finally:
        await reply.aclose()


async def _lines(
    reply: Reply, prefix: bytes, shape: ChatShape | GenerateShape, watcher: DisconnectWatcher, send: Send
) -> None:
    """One line per delta. The head goes out with the first, so that an error before it has its own status."""
    started = False
    try:
        async for event in reply.events():
            head = prefix + timestamp() + b'"'
            if type(event) is Delta:
                line = shape.line(head, event)
            else:
                assert isinstance(event, Done)
                line = shape.last(head, event, event.delta) + b"\n"
            if not started:
                started = True
                watcher.patience()
                await start_stream(send, NDJSON, extra=about(reply))
            watcher.progress += 1
            await send({"type": "http.response.body", "body": line, "more_body": True})
            watcher.progress += 1
    except VllamaError as error:
        if isinstance(error, RequestCanceled):
            raise
        watcher.stop()
        if not started:
            await envelopes.send_error(send, envelopes.ollama_stream(error))
            return
        await send({"type": "http.response.body", "body": dumps({"error": error.text}) + b"\n", "more_body": True})
    watcher.stop()
    await send(END)


async def _whole(reply: Reply, prefix: bytes, shape: ChatShape | GenerateShape) -> bytes:
    whole, done = await gathered(reply)
    return shape.last(prefix + timestamp() + b'"', done, whole)


async def gathered(reply: Reply) -> tuple[Delta, Done]:
    """Everything that was generated as one delta, and the end. Closes the reply's events."""
    content: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[Logprob] = []
    generator: Any = reply.events()  # a generator, which the protocol does not promise
    async with aclosing(generator) as events:
        async for event in events:
            delta: Delta = event if type(event) is Delta else event.delta
            content.append(delta.content)
            thinking.append(delta.thinking)
            calls.extend(delta.tool_calls)
            logprobs.extend(delta.logprobs)
            if type(event) is Done:
                return Delta("".join(content), "".join(thinking), tuple(calls), tuple(logprobs)), event
    raise ServerError("the engine ended without an answer")
