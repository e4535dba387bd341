"""uvicorn's HTTP protocol with one difference: a chunked body may come with a Content-Length.

RFC 9112 lets a server read such a request by its chunks alone if it closes the connection afterwards, which
takes away what a smuggler would gain. Ollama reads it, and clients send it.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """For uvicorn's `http` setting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser.set_dangerous_leniencies(lenient_chunked_length=True)

    def on_headers_complete(self) -> None:
        """Forget a Content-Length that the chunks overrule, and keep nothing alive behind it."""
        names = {name for name, _ in self.headers}
        twofold = b"transfer-encoding" in names and b"content-length" in names
        if twofold:
            self.headers[:] = [header for header in self.headers if header[0] != b"content-length"]
        super().on_headers_complete()
        if twofold:
            self.cycle.keep_alive = False
