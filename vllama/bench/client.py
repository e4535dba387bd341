"""A small HTTP/1.1 client that stamps bytes as they arrive and leaves their meaning for later.

One asyncio loop, one keep-alive connection per stream, TCP_NODELAY, 127.0.0.1. While a slot is measured
only HTTP framing is followed (to know when a response ends); JSON is parsed after the slot by `dialects`.
All times are `time.monotonic_ns()`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field


class HttpError(Exception):
    """The peer broke HTTP, or closed before the response ended."""


@dataclass(slots=True)
class Exchange:
    """One request and the raw response. `pieces` are (arrival, body bytes) per read; times in ns, 0 = never.

    `error` is empty for a response that ended as HTTP says it must, whatever its status. `reconnected`: the server
    had closed the idle connection, and the request was sent again on a new one; `t_sent` is then still the first time.
    """

    t_sent: int = 0
    t_connected: int = 0
    t_headers: int = 0
    t_end: int = 0
    reused: bool = False
    reconnected: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    received: int = 0
    error: str = ""

    @property
    def body(self) -> bytes:
        """The body, transfer coding removed."""
        return b"".join(piece for _, piece in self.pieces)


class Framer:
    """Follows the framing of one response, however its bytes are split. Feed until `done`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self.headers_done = False
        self.until_close = False
        self._buffer = bytearray()
        self._left = 0
        self._step = self._head

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the socket; returns the body bytes among them. Raises `HttpError`."""
        self._buffer += data
        out = bytearray()
        while not self.done and self._step(out):
            pass
        if self.done and self._buffer:
            raise HttpError("bytes after the end of the response")
        return bytes(out)

    def eof(self) -> None:
        """The peer closed. Ends a response that is framed by the close; otherwise raises `HttpError`."""
        if self.until_close and self.headers_done:
            self.done = True
        elif not self.done:
            raise HttpError("connection closed in the middle of the response")

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _head(self, out: bytearray) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        try:
            self.status = int(lines[0].split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise HttpError(f"no status line: {lines[0][:60]!r}") from None
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            self.headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
        if self.status in (100, 103):
            self.headers.clear()
            return True
        self.headers_done = True
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._step = self._chunk_size
        elif (length := self.headers.get("content-length")) is not None:
            self._left = int(length)
            self.done = not self._left
            self._step = self._fixed
        elif self.status in (204, 304):
            self.done = True
        else:
            self.until_close = True
            self._step = self._rest
        return True

    def _take(self, out: bytearray) -> bool:
        """Move up to `_left` bytes to `out`; True once all of them came."""
        taken = min(self._left, len(self._buffer))
        out += self._buffer[:taken]
        del self._buffer[:taken]
        self._left -= taken
        return not self._left

    def _fixed(self, out: bytearray) -> bool:
        self.done = self._take(out)
        return False

    def _rest(self, out: bytearray) -> bool:
        out += self._buffer
        self._buffer.clear()
        return False

    def _chunk_size(self, out: bytearray) -> bool:
        line = self._line()
        if line is None:
            return False
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise HttpError(f"bad chunk size {line[:20]!r}") from None
        self._step = self._chunk_data if self._left else self._trailer
        return True

    def _chunk_data(self, out: bytearray) -> bool:
        if not self._take(out):
            return False
        self._step = self._chunk_end
        return True

    def _chunk_end(self, out: bytearray) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            raise HttpError("chunk is longer than its size")
        self._step = self._chunk_size
        return True

    def _trailer(self, out: bytearray) -> bool:
        line = self._line()
        if line is None:
            return False
        self.done = not line
        return not self.done


class _Protocol(asyncio.Protocol):
    """Stamps reads. The stamp is the first thing that happens when the loop hands over bytes."""

    def __init__(self) -> None:
        self.exchange = Exchange()
        self.framer = Framer()
        self.finished: asyncio.Future[None] | None = None
        self.closed = False

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        exchange = self.exchange
        exchange.received += len(data)
        if self.finished is None or self.finished.done():
            self.closed = True  # bytes nobody asked for: this connection is not to be trusted any more
            return
        try:
            body = self.framer.feed(data)
        except (HttpError, ValueError) as error:
            self._finish(now, str(error))
            return
        if not exchange.t_headers and self.framer.headers_done:
            exchange.t_headers = now
        if body:
            exchange.pieces.append((now, body))
        if self.framer.done:
            self._finish(now, "")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.finished is None or self.finished.done():
            return
        try:
            self.framer.eof()
        except HttpError as error:
            self._finish(time.monotonic_ns(), f"{error}{f' ({exc})' if exc else ''}")
        else:
            self._finish(time.monotonic_ns(), "")

    def _finish(self, now: int, error: str) -> None:
        exchange = self.exchange
        exchange.t_end = now
        exchange.error = error
        exchange.status = self.framer.status
        exchange.headers = self.framer.headers
        if error or self.framer.headers.get("connection", "").lower() == "close":
            self.closed = True
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(None)


class Connection:
    """One keep-alive connection to 127.0.0.1; opens itself when needed. One request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._transport: asyncio.Transport | None = None
        self._protocol: _Protocol | None = None

    async def request(self, path: str, body: bytes | None, *, timeout: float, method: str | None = None) -> Exchange:
        """Send and wait for the whole response. Failures are in `Exchange.error`, never raised.

        `timeout` in seconds covers connecting and the whole response.
        """
        verb = method or ("GET" if body is None else "POST")
        head = f"{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept: */*\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        message = head.encode() + b"\r\n" + (body or b"")
        exchange = Exchange()
        try:
            async with asyncio.timeout(timeout):
                await self._exchange(message, exchange)
                if exchange.error and exchange.reused and not exchange.received:
                    # llama-server drops a kept-alive connection after a stream without a word. Every HTTP client
                    # tries again when not one byte came; the lost time stays in the measurement.
                    self.close()
                    first_sent = exchange.t_sent
                    exchange.error, exchange.t_end = "", 0
                    exchange.reused, exchange.reconnected = False, True
                    await self._exchange(message, exchange)
                    exchange.t_sent = first_sent
        except TimeoutError:
            exchange.error = f"timeout after {timeout:g} s"
        except OSError as error:
            exchange.error = f"cannot connect: {error}"
        if exchange.error:
            exchange.t_end = exchange.t_end or time.monotonic_ns()
            self.close()
        return exchange

    async def _exchange(self, message: bytes, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        if self._protocol is None or self._protocol.closed or self._transport is None:
            self.close()
            transport, protocol = await loop.create_connection(_Protocol, "127.0.0.1", self.port)
            self._transport, self._protocol = transport, protocol
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            exchange.t_connected = time.monotonic_ns()
        else:
            exchange.reused = True
        assert self._protocol is not None
        assert self._transport is not None
        protocol = self._protocol
        protocol.exchange = exchange
        protocol.framer = Framer()
        protocol.finished = loop.create_future()
        exchange.t_sent = time.monotonic_ns()
        self._transport.write(message)
        await protocol.finished

    @property
    def no_delay(self) -> bool:
        """Whether TCP_NODELAY is set on the open socket."""
        if self._transport is None:
            return False
        sock = self._transport.get_extra_info("socket")
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    @property
    def is_open(self) -> bool:
        """Whether the next request would reuse the socket."""
        return self._protocol is not None and not self._protocol.closed

    def close(self) -> None:
        """Drop the connection; the next request opens a new one."""
        if self._transport is not None:
            self._transport.abort()
        self._transport = None
        self._protocol = None


async def fetch(port: int, path: str, body: bytes | None = None, *, timeout: float = 30.0) -> Exchange:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.request(path, body, timeout=timeout)
    finally:
        connection.close()
