"""A small HTTP/1.1 client that stamps bytes as they arrive and leaves their meaning for later.

One asyncio loop, one keep-alive connection per stream (or a fresh one per request), TCP_NODELAY, 127.0.0.1. While
a slot is measured only HTTP framing is followed (to know when a response ends); JSON is parsed after the slot by
`dialects`. All times are `time.monotonic_ns()`; arrivals are the kernel's own stamps where it gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass, field

from vllama.bench import kernel_stamps
from vllama.bench.framing import Framer, HttpError

_READ_SIZE = 1 << 18


@dataclass(slots=True)
class Exchange:
    """One request and the raw response. `pieces` are (arrival, body bytes) per read; times in ns, 0 = never.

    `error` is empty for a response that ended as HTTP says it must, whatever its status. `reconnected`: the server
    had closed the idle connection, and the request was sent again on a new one; `t_sent` is then still the first time.
    `cancelled`: the client hung up, as it was told to, and `t_end` is when it did.

    `t_connect` and `t_connected` enclose the making of a connection, `t_sent` and `t_written` the handing over of the
    request. `stamps` says whose clock `pieces` carries: "kernel" or the event "loop", "mixed" if the kernel
    left some reads unstamped. `lags` has, for each read with a kernel stamp, the ns from the arrival to the read: the
    error that the loop's clock would have made. `coalesced` lists the pieces in which several events ended, which
    therefore share one stamp, that of the last.
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
    t_connect: int = 0
    t_written: int = 0
    cancelled: bool = False
    stamps: kernel_stamps.Source = ""
    lags: list[int] = field(default_factory=list)
    coalesced: list[int] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The body, transfer coding removed."""
        return b"".join(piece for _, piece in self.pieces)


class _EventCounter:
    """Counts whole events in a body: lines of NDJSON, `data:` lines of SSE, however they are cut."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""

    def feed(self, body: bytes) -> int:
        """How many events ended in these bytes."""
        *whole, self._rest = (self._rest + body).split(b"\n")
        ended = sum(line.startswith((b"data:", b"{")) for line in whole)
        self.count += ended
        return ended


class Connection:
    """One connection to 127.0.0.1; opens itself when needed. One request at a time.

    `keep_alive` False opens a new one for every request. `kernel_stamps` False uses the event loop's clock even where
    the kernel has a better one (to measure the difference).
    """

    def __init__(self, port: int, *, keep_alive: bool = True, kernel_stamps: bool = True) -> None:
        self.port = port
        self._keep_alive = keep_alive
        self._want_stamps = kernel_stamps
        self._has_stamps = False
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stale = False
        self._exchange = Exchange()
        self._framer = Framer()
        self._events = _EventCounter()
        self._cancel_after: int | None = None
        self._finished: asyncio.Future[None] | None = None
        self._no_delay = False

    async def request(
        self,
        path: str,
        body: bytes | None,
        *,
        timeout: float,
        method: str | None = None,
        cancel_after: int | None = None,
    ) -> Exchange:
        """Send and wait for the whole response. Failures are in `Exchange.error`, never raised.

        `timeout` in seconds covers connecting and the whole response. `cancel_after` closes the connection once so
        many events (lines of NDJSON, `data:` lines of SSE) have come; 0 hangs up as soon as the request is sent.
        """
        verb = method or ("GET" if body is None else "POST")
        head = f"{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept: */*\r\n"
        if not self._keep_alive:
            head += "Connection: close\r\n"
            self.close()
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        message = head.encode() + b"\r\n" + (body or b"")
        exchange = Exchange()
        self._cancel_after = cancel_after
        try:
            async with asyncio.timeout(timeout):
                await self._run(message, exchange)
                if exchange.error and exchange.reused and not exchange.received:
                    # llama-server drops a kept-alive connection after a stream without a word. Every HTTP client
                    # tries again when not one byte came; the lost time stays in the measurement.
                    self.close()
                    first_sent = exchange.t_sent
                    exchange.error, exchange.t_end = "", 0
                    exchange.reused, exchange.reconnected = False, True
                    await self._run(message, exchange)
                    exchange.t_sent = first_sent
        except TimeoutError:
            exchange.error = f"timeout after {timeout:g} s"
        except OSError as error:
            what = "the connection broke" if exchange.t_sent else "cannot connect"
            exchange.error = f"{what}: {error}"
        except asyncio.CancelledError:
            self.close()
            raise
        if exchange.error or exchange.cancelled:
            exchange.t_end = exchange.t_end or time.monotonic_ns()
            self.close()
        elif not self._keep_alive:
            self.close()
        return exchange

    async def _run(self, message: bytes, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        if self._socket is None or self._stale:
            self.close()
            exchange.t_connect = time.monotonic_ns()
            await self._open(loop)
            exchange.t_connected = time.monotonic_ns()
        else:
            exchange.reused = True
        sock = self._socket
        assert sock is not None
        self._exchange = exchange
        self._framer = Framer()
        self._events = _EventCounter()
        self._finished = loop.create_future()
        exchange.t_sent = time.monotonic_ns()
        try:
            sent = sock.send(message)
        except BlockingIOError:
            sent = 0
        if sent < len(message):
            await loop.sock_sendall(sock, message[sent:])
        exchange.t_written = time.monotonic_ns()
        if self._cancel_after == 0:
            self._hang_up(exchange.t_written)
        await self._finished

    async def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._has_stamps = self._want_stamps and kernel_stamps.enable(sock)
            await loop.sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        self._socket, self._loop, self._stale = sock, loop, False
        self._no_delay = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        """One read. The stamp is the first thing that happens with its bytes."""
        sock = self._socket
        if sock is None:
            return
        arrival = 0
        try:
            if self._has_stamps:
                data, ancillary, _, _ = sock.recvmsg(_READ_SIZE, kernel_stamps.ANCILLARY_SIZE)
                now = time.monotonic_ns()
                arrival = kernel_stamps.stamp(ancillary, self._exchange.t_sent, now)
            else:
                data = sock.recv(_READ_SIZE)
                now = time.monotonic_ns()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(str(error))
            return
        if not data:
            self._lost("")
        elif self._finished is None or self._finished.done():
            self._stale = True  # bytes nobody asked for: this connection is not to be trusted any more
            self._stop_reading()
        else:
            self._take(data, arrival, now)

    def _take(self, data: bytes, arrival: int, now: int) -> None:
        exchange, framer = self._exchange, self._framer
        source: kernel_stamps.Source = "kernel" if arrival else "loop"
        if arrival:
            exchange.lags.append(now - arrival)
        exchange.stamps = source if exchange.stamps in ("", source) else "mixed"
        # Between a read stamped by the loop and one stamped by the kernel, time must not run backwards.
        last = exchange.pieces[-1][0] if exchange.pieces else exchange.t_headers
        arrival = max(arrival or now, last)
        exchange.received += len(data)
        chunks = framer.chunks
        try:
            body = framer.feed(data)
        except (HttpError, ValueError) as error:
            self._finish(arrival, str(error))
            return
        if not exchange.t_headers and framer.headers_done:
            exchange.t_headers = arrival
        if body:
            ended = framer.chunks - chunks
            if self._cancel_after or not framer.chunks:
                ended = max(ended, self._events.feed(body))
            if ended > 1:
                exchange.coalesced.append(len(exchange.pieces))
            exchange.pieces.append((arrival, body))
        if framer.done:
            self._finish(arrival, "")
        elif self._cancel_after and self._events.count >= self._cancel_after:
            self._hang_up(time.monotonic_ns())

    def _hang_up(self, now: int) -> None:
        self._exchange.cancelled = True
        self._finish(now, "")
        self.close()

    def _lost(self, why: str) -> None:
        """The peer closed, or the connection broke."""
        self._stale = True
        self._stop_reading()
        if self._finished is None or self._finished.done():
            return
        now = time.monotonic_ns()
        try:
            self._framer.eof()
        except HttpError as error:
            self._finish(now, f"{error}{f' ({why})' if why else ''}")
        else:
            self._finish(now, f"connection broke: {why}" if why else "")

    def _finish(self, now: int, error: str) -> None:
        exchange = self._exchange
        exchange.t_end = now
        exchange.error = error
        exchange.status = self._framer.status
        exchange.headers = self._framer.headers
        if error or self._framer.headers.get("connection", "").lower() == "close":
            self._stale = True
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    @property
    def no_delay(self) -> bool:
        """Whether TCP_NODELAY was set on the last socket that this connection opened; False after a failure."""
        return self._no_delay

    @property
    def is_open(self) -> bool:
        """Whether the next request would reuse the socket."""
        return self._socket is not None and not self._stale

    def _stop_reading(self) -> None:
        if self._socket is not None and self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(ValueError, OSError):
                self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Drop the connection; the next request opens a new one."""
        self._stop_reading()
        if self._socket is not None:
            self._socket.close()
        self._socket = None


async def fetch(port: int, path: str, body: bytes | None = None, *, timeout: float = 30.0) -> Exchange:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        return await connection.request(path, body, timeout=timeout)
    finally:
        connection.close()
