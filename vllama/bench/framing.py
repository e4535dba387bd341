"""HTTP/1.1 response framing: where the body's bytes are, and where the response ends. No meaning, no times."""

from __future__ import annotations


class HttpError(Exception):
    """The peer broke HTTP, or closed before the response ended."""


class Framer:
    """Follows the framing of one response, however its bytes are split. Feed until `done`.

    `chunks` counts the chunks with data that ended so far, 0 for a response without transfer coding.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = False
        self.headers_done = False
        self.until_close = False
        self.chunks = 0
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
        self.chunks += 1
        self._step = self._chunk_size
        return True

    def _trailer(self, out: bytearray) -> bool:
        line = self._line()
        if line is None:
            return False
        self.done = not line
        return not self.done
