"""uvicorn's HTTP protocol with three differences: a head has a largest size, as in Go, a chunked body may come
with a Content-Length, and a request can have itself called when its connection is lost.

RFC 9112 lets a server read such a request by its chunks alone if it closes the connection afterwards, which
takes away what a smuggler would gain. Ollama reads it, and clients send it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vllama.api.http import ON_GONE

HEAD_LIMIT = 1 << 20
"""Most bytes of a request's line and headers; what is beyond would only fill the memory."""


_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """For uvicorn's `http` setting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser.set_dangerous_leniencies(lenient_chunked_length=True)
        self._head = 0
        self._gone: Callable[[], None] | None = None
        self._lost = False

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head is not complete."""
        before = self._head
        super().data_received(data)
        if self._head and self._head == before:
            self._head += len(data)
            if self._head > HEAD_LIMIT and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head = 1
        super().on_message_begin()
        # An extension is a dict for who describes ASGI in types; ours is a function.
        self.scope["extensions"] = {ON_GONE: self.on_gone}  # type: ignore[dict-item]

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """What to call once the client has gone, or None. Only one request of a connection is worked on at a time."""
        self._gone = callback
        if callback is None:
            return
        if self._lost:
            self.loop.call_soon(callback)
        else:
            # A body may have stopped the reading, and what is not read has no end either.
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered."""
        super().connection_lost(exc)
        self._lost = True
        if self._gone is not None:
            self._gone()

    def on_headers_complete(self) -> None:
        """Forget a Content-Length that the chunks overrule, and keep nothing alive behind it."""
        self._head = 0
        names = {name for name, _ in self.headers}
        twofold = b"transfer-encoding" in names and b"content-length" in names
        if twofold:
            self.headers[:] = [header for header in self.headers if header[0] != b"content-length"]
        super().on_headers_complete()
        if twofold:
            self.cycle.keep_alive = False
