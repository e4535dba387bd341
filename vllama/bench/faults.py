"""Faults in the measured path: a proxy that alters what is asked or how it is answered, as a broken gateway would.

A fault knows the wire and nothing of the checks; nothing in a record says that it was there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from vllama.bench.framing import Framer, HttpError

Lines = AsyncIterator[bytes]
Send = Callable[[bytes], Awaitable[None]]

DELAYED_ACK_S = 0.04


class Fault:
    """No fault: everything is passed on as it comes. `answer` sends lines of NDJSON, each with its line feed."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """What is asked of the server instead."""
        return body

    async def answer(self, lines: Lines, send: Send) -> None:
        """What the client gets instead. Raising `ConnectionError` hangs up."""
        async for line in lines:
            await send(line)


class SlowDown(Fault):
    """Everything takes longer by a share of its time."""

    def __init__(self, share: float) -> None:
        self.share = share

    async def answer(self, lines: Lines, send: Send) -> None:
        """Each line waits for the share of the time since the line before it."""
        last = time.monotonic()
        owed = 0.0
        async for line in lines:
            now = time.monotonic()
            owed += self.share * (now - last)
            # A sleep is late by some 0.1 ms itself; what it took too long is taken off the next one.
            before = time.monotonic()
            if owed > 0:
                await asyncio.sleep(owed)
            owed -= time.monotonic() - before
            await send(line)
            last = time.monotonic()


class Buffered(Fault):
    """A stream that is held until it ends."""

    async def answer(self, lines: Lines, send: Send) -> None:
        """One write."""
        await send(b"".join([line async for line in lines]))


class DelayedAck(Fault):
    """A sender without TCP_NODELAY that writes each event in two parts to a receiver that acknowledges late."""

    async def answer(self, lines: Lines, send: Send) -> None:
        """The second part waits."""
        async for line in lines:
            half = len(line) // 2
            await send(line[:half])
            await asyncio.sleep(DELAYED_ACK_S)
            await send(line[half:])


class Truncated(Fault):
    """A context that is silently cut to the second half of the prompt."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Half of the words."""
        words = body["prompt"].split()
        return {**body, "prompt": " ".join(words[len(words) // 2 :])}


class DoubledStart(Fault):
    """Tokenised twice: the first word, where a server would put its beginning-of-text, comes twice."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """One word more."""
        return {**body, "prompt": f"{body['prompt'].split()[0]} {body['prompt']}"}


class SharedStart(Fault):
    """A prompt that is put behind a text that is always the same, in place of its own beginning."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """As many words, but the first ten are always the same."""
        words = body["prompt"].split()
        return {**body, "prompt": " ".join([*("same",) * 10, *words[10:]])}


class FewerTokens(Fault):
    """A limit of its own on the answer's length."""

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Half of what was asked for."""
        options = body["options"]
        return {**body, "options": {**options, "num_predict": options["num_predict"] // 2}}


class ExtraTokens(Fault):
    """Counts that say more than was generated."""

    async def answer(self, lines: Lines, send: Send) -> None:
        """Twice as many, in the last event."""
        async for line in lines:
            event = json.loads(line)
            if "eval_count" in event:
                event["eval_count"] *= 2
            await send(json.dumps(event).encode() + b"\n")


class EarlyEnd(Fault):
    """An answer that is ended half way, in good order."""

    async def answer(self, lines: Lines, send: Send) -> None:
        """Every other line is the rest."""
        every = [line async for line in lines]
        for line in every[: len(every) // 2]:
            await send(line)
        last = json.loads(every[-1])
        await send(json.dumps({**last, "done_reason": "stop", "eval_count": len(every) // 2}).encode() + b"\n")


class HangUp(Fault):
    """A connection that breaks half way in every fourth answer."""

    def __init__(self) -> None:
        self._count = 0

    async def answer(self, lines: Lines, send: Send) -> None:
        """Two lines, then nothing."""
        self._count += 1
        number = 0
        async for line in lines:
            number += 1
            if self._count % 4 == 0 and number > 2:
                raise ConnectionError
            await send(line)


class SwallowedErrors(HangUp):
    """The same failure, but passed off as an answer that ended."""

    async def answer(self, lines: Lines, send: Send) -> None:
        """The last event follows the second."""
        self._count += 1
        number = 0
        async for line in lines:
            number += 1
            last = json.loads(line).get("done")
            if self._count % 4 or number <= 2 or last:
                await send(line)


class CachedAnswer(Fault):
    """The first answer is kept and given to every later question."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    async def answer(self, lines: Lines, send: Send) -> None:
        """The kept words with the true last event, so that all counts are right."""
        every = [line async for line in lines]
        self._kept = self._kept or every
        for line in (*self._kept[:-1], every[-1]):
            await send(line)


class Proxy:
    """Use as `async with Proxy(port, fault) as proxy`; clients speak to `proxy.port`."""

    def __init__(self, upstream: int, fault: Fault) -> None:
        self._upstream = upstream
        self._fault = fault
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Proxy:
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
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._upstream)
            for end in (writer, far):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                await self._carry(reader, writer, far_reader, far)
        except (OSError, asyncio.IncompleteReadError, HttpError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            if far is not None:
                far.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        size = next(int(x[15:]) for x in head.splitlines() if x.lower().startswith("content-length:"))
        body = self._fault.ask(json.loads(await reader.readexactly(size)))
        raw = json.dumps(body, ensure_ascii=False).encode()
        path = head.split(" ")[1]
        far.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)

        async def send(data: bytes) -> None:
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()

        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        lines = _lines(far_reader)
        async with contextlib.aclosing(lines):
            await self._fault.answer(lines, send)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _lines(reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    """The lines of one response, as they come."""
    framer = Framer()
    rest = b""
    while not framer.done:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError("the server hung up")
        *whole, rest = (rest + framer.feed(data)).split(b"\n")
        for line in whole:
            yield line + b"\n"
