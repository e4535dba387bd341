"""Reading bodies and sending answers on bare ASGI. Nothing in here knows Ollama, models or the core.

Header names and values are encoded once, at import: a request pays for a list of three or four tuples.
Every answer carries `X-vLLama-Version`, by which `vllama run` tells a vLLama from another server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any

import orjson

from vllama import __version__
from vllama.errors import BodyError, RequestCanceled

Scope = MutableMapping[str, Any]
ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]
OnGone = Callable[[Callable[[], None] | None], None]
Header = tuple[bytes, bytes]

BODY_LIMIT = 256 << 20
"""Most bytes of a request body that is read into memory (base64 images make large chats)."""

JSON_UTF8 = b"application/json; charset=utf-8"
JSON = b"application/json"
TEXT = b"text/plain"
TEXT_UTF8 = b"text/plain; charset=utf-8"
HTML_UTF8 = b"text/html; charset=utf-8"
NDJSON = b"application/x-ndjson"
EVENT_STREAM = b"text/event-stream"

VERSION_HEADER: Header = (b"x-vllama-version", __version__.encode())

END: ASGIMessage = {"type": "http.response.body", "body": b"", "more_body": False}
"""The last message of a stream. Servers read it and do not change it, so one is enough for all."""


STALL_S = 300.0
"""Seconds without progress, or up to twice as many, after which a stream's client is given up: it holds memory."""


class BodyTooLargeError(BodyError):
    """The body is longer than the limit. The rest stays unread, so the connection cannot be used again."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body too large: more than {limit} bytes")


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of the header `name` (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(scope: Scope, receive: Receive, limit: int = BODY_LIMIT) -> bytes:
    """The whole request body. Raises BodyTooLargeError, or RequestCanceled when the client goes away first."""
    return b"".join(await read_parts(scope, receive, limit))


async def read_parts(scope: Scope, receive: Receive, limit: int = BODY_LIMIT) -> list[bytes]:
    """The whole request body as it came, piece by piece: joining a large one takes long. Raises like `read_body`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise RequestCanceled()
    body: bytes = message.get("body", b"")
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    if not message.get("more_body", False):
        return [body]
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLargeError(limit)
    parts = [body]
    size = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestCanceled()
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLargeError(limit)
        parts.append(part)
    return parts


def dumps(value: Any) -> bytes:
    """Compact JSON as Go's encoder writes it: `<`, `>`, `&`, U+2028 and U+2029 are escaped."""
    try:
        data = orjson.dumps(value)
    except TypeError:
        data = _dumps_odd(value)
    # None of these bytes can stand outside a string, so a replacement in the finished text is safe.
    if b"<" in data:
        data = data.replace(b"<", b"\\u003c")
    if b">" in data:
        data = data.replace(b">", b"\\u003e")
    if b"&" in data:
        data = data.replace(b"&", b"\\u0026")
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def _dumps_odd(value: Any) -> bytes:
    """For what orjson refuses: integers of more than 64 bits and lone surrogates (Go: U+FFFD)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


ENGINE_HEADER = b"x-vllama-engine"
"""Of /api/show: the engine that a model gets, and why; Ollama's body stays as it is."""


async def send_json(
    send: Send,
    status: int,
    payload: bytes,
    content_type: bytes = JSON_UTF8,
    *,
    extra: Iterable[Header] = (),
) -> None:
    """Send one whole answer; `payload` is the encoded body. Right for HEAD too: servers drop the body."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(payload)),
                VERSION_HEADER,
                *extra,
            ],
        }
    )
    await send({"type": "http.response.body", "body": payload, "more_body": False})


async def send_empty(send: Send, status: int, headers: Iterable[Header] = (), *, length: bool = True) -> None:
    """Send an answer without body and content type; `length=False` leaves `Content-Length: 0` out."""
    lines: list[Header] = [VERSION_HEADER, *headers]
    if length:
        lines.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send(END)


async def start_stream(send: Send, content_type: bytes, status: int = 200, *, extra: Iterable[Header] = ()) -> None:
    """Send the head of a stream. Body messages with `"more_body": True` follow, END comes last."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), VERSION_HEADER, *extra],
        }
    )


ON_GONE = "vllama.on_gone"
"""The ASGI extension by which our own server (`protocol`) tells that a connection was lost: a function that takes a
callback, or None for no more. It saves each request a task that waits for nothing else."""


class DisconnectWatcher:
    """Cancels the task that works for a request when its client goes away.

        async with DisconnectWatcher(scope, receive) as watcher:
            async for event in reply.events(): ...
            watcher.stop()
            await send(END)

    Use it after the body was read. On a disconnect the block is cancelled wherever it waits, and
    RequestCanceled leaves it; a cancellation from anywhere else goes through as it is. Call `stop()` before
    the last message of the answer: servers report a disconnect for a finished answer as well.
    """

    __slots__ = ("_cancelling", "_on_gone", "_owner", "_receive", "_task", "_timer", "gone", "progress")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        extensions = scope.get("extensions")
        self._on_gone: OnGone | None = extensions.get(ON_GONE) if extensions else None
        self._owner: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._cancelling = 0
        self.gone = False
        self.progress = 0

    async def __aenter__(self) -> DisconnectWatcher:
        self._owner = asyncio.current_task()
        if self._owner is not None:
            self._cancelling = self._owner.cancelling()
        if self._on_gone is not None:
            self._on_gone(self._lost)
        else:
            self._task = asyncio.create_task(self._watch())
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._lost()

    def _lost(self) -> None:
        self.gone = True
        if self._owner is not None:
            self._owner.cancel()

    def patience(self) -> None:
        """From now on a client that does not take what is sent to it for `STALL_S` counts as gone.

        The sender counts `progress` up before and after each message, so that it is odd while one is being sent.
        """
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._look, -1)

    def _look(self, before: int) -> None:
        if self.progress == before and before % 2 and self._owner is not None:
            self.gone = True
            self._owner.cancel()
            return
        self._timer = asyncio.get_running_loop().call_later(STALL_S, self._look, self.progress)

    def stop(self) -> None:
        """Watch no longer; twice is fine."""
        if self._on_gone is not None:
            self._on_gone(None)
        elif self._task is not None:
            self._task.cancel()
            self._task = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self.gone and self._owner is not None:
            ours = self._owner.uncancel() <= self._cancelling
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise RequestCanceled() from None
