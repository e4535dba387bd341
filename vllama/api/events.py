"""Answers as named Server-Sent Events, or as one JSON object: what /v1/messages and /v1/responses have in common."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import Any, Protocol

from vllama.api.http import END, EVENT_STREAM, JSON, DisconnectWatcher, Send, dumps, send_json, start_stream
from vllama.api.streaming import about, gathered
from vllama.core.replies import Delta, Done, Reply
from vllama.errors import RequestCanceled, VllamaError

log = logging.getLogger("vllama.api")


class EventShape(Protocol):
    """Writes one answer; made anew for each request."""

    def begin(self, reply: Reply) -> bytes:
        """The events in front of the first delta."""
        ...

    def events(self, delta: Delta) -> bytes:
        """The events of one delta of a stream; may be empty."""
        ...

    def finish(self, done: Done) -> bytes:
        """The events that end a stream."""
        ...

    def failed(self, error: VllamaError) -> bytes:
        """The events of an error in the middle of a stream."""
        ...

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """The answer as one object; `delta` is everything that was generated."""
        ...


def event(name: str, data: dict[str, Any]) -> bytes:
    """One event. `data` has to name its type as well, as clients read it there."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dumps(data))


async def answer(reply: Reply, shape: EventShape, watcher: DisconnectWatcher, send: Send, *, stream: bool) -> None:
    """Send a reply. Errors before the first event leave as VllamaError, with nothing sent."""
    try:
        if stream:
            await _stream(reply, shape, watcher, send)
        else:
            payload = dumps(shape.whole(*await gathered(reply))) + b"\n"
            watcher.stop()
            await send_json(send, 200, payload, JSON, extra=about(reply))
    finally:
        await reply.aclose()


async def _stream(reply: Reply, shape: EventShape, watcher: DisconnectWatcher, send: Send) -> None:
    started = False
    generator: Any = reply.events()  # a generator, which the protocol does not promise
    async with aclosing(generator) as events:
        try:
            async for piece in events:
                data = b""
                if not started:
                    started = True
                    data = shape.begin(reply)
                    watcher.patience()
                    await start_stream(send, EVENT_STREAM, extra=about(reply))
                data += shape.events(piece) if type(piece) is Delta else shape.finish(piece)
                if data:
                    watcher.progress += 1
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    watcher.progress += 1
        except VllamaError as error:
            if not started or isinstance(error, RequestCanceled):
                raise
            log.error("the stream broke: %s", error.text)
            await send({"type": "http.response.body", "body": shape.failed(error), "more_body": True})
    watcher.stop()
    await send(END)
