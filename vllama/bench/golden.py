"""A server with known answers: what the client says of it can be checked word for word.

`GoldenServer` answers the paths of each API with a scripted stream whose writes are cut at awkward places
(inside a chunk header, inside a UTF-8 character, several events in one write). It logs when it handed each write
to the socket, on the same clock as the client, so that a test can compare orders without trusting a wall clock.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["ndjson", "sse", "sse-crlf", "json"]
Split = Literal["event", "byte", "pairs", "odd"]


@dataclass(frozen=True, slots=True)
class Script:
    """What to answer: words, one token each. Delays in seconds; `role_chunk` begins an SSE stream without text.

    `split` says how writes are cut: one per event, one per byte, two events per write, or every 7 bytes.
    `fail_after` sends an error line instead of word number `fail_after`; `hang_up_after` closes the socket there.
    `drop_idle` closes a connection without a word when it brings a second request.
    """

    words: tuple[str, ...]
    shape: Shape = "ndjson"
    split: Split = "event"
    ttft: float = 0.0
    gap: float = 0.0
    role_chunk: bool = False
    n_prompt: int = 5
    fail_after: int | None = None
    hang_up_after: int | None = None
    chunked: bool = True
    drop_idle: bool = False


@dataclass(slots=True)
class Served:
    """One answered request, and for each event of text the time just before its last byte was sent."""

    path: str
    body: dict[str, Any]
    sent: list[int] = field(default_factory=list)
    connection: int = 0


class GoldenServer:
    """Use as `async with GoldenServer(script) as server`; `server.port`, `server.served`."""

    def __init__(self, script: Script | Callable[[dict[str, Any]], Script]) -> None:
        self._script = script
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.port = 0
        self.served: list[Served] = []

    async def __aenter__(self) -> GoldenServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections += 1
        number = self._connections
        try:
            while await self._answer(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ")[1]
        length = next(
            (int(line.partition(":")[2]) for line in head.splitlines() if line.lower().startswith("content-length")), 0
        )
        body = json.loads(await reader.readexactly(length)) if length else {}
        script = self._script(body) if callable(self._script) else self._script
        if script.drop_idle and any(served.connection == number for served in self.served):
            return False
        served = Served(path, body, connection=number)
        self.served.append(served)
        return await _Writer(script, writer, served).run()


@dataclass(slots=True)
class _Writer:
    script: Script
    writer: asyncio.StreamWriter
    served: Served

    async def run(self) -> bool:
        script = self.script
        kinds = {"ndjson": "application/x-ndjson", "json": "application/json"}
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kinds.get(script.shape, 'text/event-stream')}\r\n"
        if script.shape == "json":
            whole = self._json()
            await self._write(head.encode() + f"Content-Length: {len(whole)}\r\n\r\n".encode() + whole)
            return True
        framing = "Transfer-Encoding: chunked" if script.chunked else "Connection: close"
        await self._write(f"{head}{framing}\r\n\r\n".encode())
        await asyncio.sleep(script.ttft)
        held = b""
        for index, (is_text, event) in enumerate(self._events()):
            if index and script.gap:
                await asyncio.sleep(script.gap)
            held += self._frame(event)
            if script.split == "pairs" and index % 2 == 0:
                if is_text:
                    self.served.sent.append(time.monotonic_ns())
                continue
            await self._write(held, stamp=is_text)
            held = b""
        if script.hang_up_after is not None:
            self.writer.close()
            return False
        await self._write(held + (b"0\r\n\r\n" if script.chunked else b""))
        if not script.chunked:
            self.writer.close()
        return script.chunked

    def _frame(self, event: bytes) -> bytes:
        return f"{len(event):x}\r\n".encode() + event + b"\r\n" if self.script.chunked else event

    async def _write(self, data: bytes, *, stamp: bool = False) -> None:
        size = {"byte": 1, "odd": 7}.get(self.script.split, len(data) or 1)
        for start in range(0, len(data), size):
            # The event is complete with its own last byte; the end of its HTTP chunk carries nothing.
            if stamp and start <= len(data) - (3 if self.script.chunked else 1) < start + size:
                self.served.sent.append(time.monotonic_ns())
            self.writer.write(data[start : start + size])
            await self.writer.drain()
            if size < len(data):
                await asyncio.sleep(0)

    def _events(self) -> Iterable[tuple[bool, bytes]]:
        script = self.script
        if script.role_chunk and script.shape != "ndjson":
            yield False, self._event({"object": "chat.completion.chunk", "choices": [{"delta": {"role": "assistant"}}]})
        for index, word in enumerate(script.words):
            if index == script.hang_up_after:
                return
            if index == script.fail_after:
                yield False, self._event({"error": "scripted failure"})
                return
            yield True, self._event(self._word(word))
        yield from ((False, self._event(last)) for last in self._last())

    def _word(self, word: str) -> dict[str, Any]:
        if self.script.shape == "ndjson":
            return {"model": "golden", "response": word, "done": False}
        return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": word}}]}

    def _last(self) -> Iterable[dict[str, Any] | bytes]:
        count, prompt = len(self.script.words), self.script.n_prompt
        if self.script.shape == "ndjson":
            yield {"response": "", "done": True, "done_reason": "length", **self._counts()}
            return
        yield {"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": "length"}]}
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 0}}
        yield {"object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield b"[DONE]"

    def _counts(self) -> dict[str, int]:
        return {"prompt_eval_count": self.script.n_prompt, "eval_count": len(self.script.words), "eval_duration": 7}

    def _event(self, event: dict[str, Any] | bytes) -> bytes:
        raw = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
        if self.script.shape == "ndjson":
            return raw + b"\n"
        end = b"\r\n" if self.script.shape == "sse-crlf" else b"\n"
        return b": a comment" + end + b"data: " + raw + end + end

    def _json(self) -> bytes:
        text = "".join(self.script.words)
        return json.dumps({"response": text, "done": True, "done_reason": "length", **self._counts()}).encode()
