"""The digest of a file that is still being written, computed behind the writers."""

from __future__ import annotations

import hashlib
import os
import threading

_PIECE = 1 << 20


class PrefixDigest:
    """SHA-256 of an open file of `size` bytes. `follow` is for one thread, everything else for any."""

    def __init__(self, handle: int, size: int) -> None:
        self._handle = handle
        self._size = size
        self._hash = hashlib.sha256()
        self._end = 0
        self._stopped = False
        self._grown = threading.Condition()

    def grow(self, end: int) -> None:
        """The first `end` bytes are there, and nobody will change them any more."""
        with self._grown:
            self._end = max(self._end, end)
            self._grown.notify()

    def stop(self) -> None:
        """Ends `follow` soon."""
        with self._grown:
            self._stopped = True
            self._grown.notify()

    def follow(self) -> bool:
        """Takes in what is there, and waits for more; True at the file's end, False if it was stopped before.

        Raises OSError; EOFError if the file is shorter than was said.
        """
        at, buffer = 0, memoryview(bytearray(_PIECE))
        while at < self._size:
            with self._grown:
                while self._end <= at and not self._stopped:
                    self._grown.wait()
                if self._stopped:
                    return False
                end = self._end
            count = os.preadv(self._handle, [buffer[: min(_PIECE, end - at)]], at)
            if not count:
                raise EOFError("the file is shorter than what was written")
            self._hash.update(buffer[:count])
            at += count
        return True

    def digest(self) -> str:
        """`sha256:` and the hash of what was taken in. Once `follow` was True."""
        return "sha256:" + self._hash.hexdigest()
