"""Blobs' requests and bodies over blocking sockets, as fast as the connection gives them.

An event loop costs more for each piece than the kernel does for moving it. Here a thread waits in `recv`, without the
interpreter's lock, and the bytes land in a buffer that is used again and again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpcore
import httpx

from vllama.models.registry.threads import finished, started

_CONNECTED = ("connect_tcp.complete", "start_tls.complete")


class Connection:
    """What one request goes through. `abort` ends it from any thread, whatever it waits for then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: httpcore.NetworkStream | None = None
        self._aborted = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's `trace` extension: notes the connection once there is one, and again when it is encrypted."""
        if event.endswith(_CONNECTED):
            with self._lock:
                self._stream = info["return_value"]
                if self._aborted:
                    self._stream.close()
                    raise httpcore.ConnectError("the transfer has ended")

    def took(self, stream: httpcore.NetworkStream) -> None:
        """Notes the connection that an answer came through."""
        with self._lock:
            self._stream = stream

    def abort(self) -> None:
        """Wakes whoever reads or writes. One that is still connecting finds out as soon as it is connected."""
        with self._lock:
            self._aborted = True
            found = self._stream.get_extra_info("socket") if self._stream is not None else None
            if isinstance(found, socket.socket):
                with contextlib.suppress(OSError):  # it is closed already
                    # Not SSLSocket's own, which would take its state away under a thread that reads.
                    socket.socket.shutdown(found, socket.SHUT_RDWR)


async def send(client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Sends a request in a thread. The response's stream is a `Body`. Raises `httpx.HTTPError`."""
    connection = Connection()
    request.extensions = dict(request.extensions) | {"trace": connection.trace}
    sending = started(
        lambda: client.send(request, stream=True), name="registry request", unwanted=lambda response: response.close()
    )
    try:
        response = await sending
    finally:
        if sending.cancelled():
            # Nobody waits for the thread: it may be connecting, which nothing can interrupt.
            connection.abort()
    return httpx.Response(
        response.status_code,
        headers=response.headers,
        stream=Body(response, connection),
        extensions=response.extensions,
        request=response.request,
    )


class Body(httpx.AsyncByteStream):
    """The body as it was sent: for a thread by `readinto`, or for an event loop as any other stream, but not both."""

    def __init__(self, response: httpx.Response, connection: Connection) -> None:
        self._response = response
        self._connection = connection
        if (stream := response.extensions.get("network_stream")) is not None:
            connection.took(stream)  # one that was used before told nobody
        self._pieces: Iterator[bytes] = response.iter_raw()
        self._piece = memoryview(b"")
        self._parsed = False
        # Bytes that are nothing but the body, once the parser's first piece is out; None if it goes on parsing.
        self._left = int(response.headers["content-length"]) if _plain(response) else None
        self._stream: httpcore.NetworkStream | None = response.extensions.get("network_stream")
        found = self._stream.get_extra_info("socket") if self._stream is not None else None
        # With TLS inside of a proxy's TLS the socket would give what is encrypted; records of 16 KiB gain nothing.
        plain = response.request.url.scheme == "http" and isinstance(found, socket.socket)
        self._socket: socket.socket | None = found if plain else None

    def readinto(self, buffer: memoryview, stall_s: float) -> int:
        """Fills the beginning of the buffer with what is there, or waits for it; 0 at the end, which may be early.

        A body of known length over HTTP/1.1 is read from the connection itself after its first piece: the parser
        copies every 64 KiB several times and has nothing more to parse. The connection is not used again then.
        Raises `httpx.HTTPError`; `httpx.ReadTimeout` after `stall_s` silent seconds.
        """
        if not self._piece and (self._left is None or not self._parsed):
            self._parsed = True
            piece = next(self._pieces, b"")
            self._piece = memoryview(piece)
            if self._left is not None:
                self._left = self._left - len(piece) if piece else 0
        if self._piece:
            # What came with the head is in this piece; whatever follows is still in the connection.
            size = min(len(buffer), len(self._piece))
            buffer[:size] = self._piece[:size]
            self._piece = self._piece[size:]
            return size
        if not self._left:
            return 0
        size = self._received(buffer[: self._left], stall_s)
        self._left -= size
        return size

    def abort(self) -> None:
        """Ends a `readinto` in another thread soon."""
        self._connection.abort()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await finished(started(lambda: next(self._pieces, b""), name="registry answer"), self.abort):
            yield piece

    async def aclose(self) -> None:
        """Closes the connection, or gives it back."""
        self._response.close()

    def _received(self, buffer: memoryview, stall_s: float) -> int:
        try:
            if self._socket is not None:
                self._socket.settimeout(stall_s)
                return self._socket.recv_into(buffer)
            assert self._stream is not None
            piece = self._stream.read(len(buffer), stall_s)
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise httpx.ReadTimeout(str(error)) from error
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise httpx.ReadError(str(error)) from error
        buffer[: len(piece)] = piece
        return len(piece)


def _plain(response: httpx.Response) -> bool:
    """Whether the body is nothing but so many bytes."""
    length = response.headers.get("content-length", "")
    return (
        response.http_version == "HTTP/1.1"
        and "transfer-encoding" not in response.headers
        and length.isdecimal()
        and len(length) < 20
        and "network_stream" in response.extensions
    )
