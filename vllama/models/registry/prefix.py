"""The digest of a file that is still being written, computed behind the writers."""

from __future__ import annotations

import hashlib
import os
import threading

_PIECE = 1 << 20


class PrefixDigest:
    """SHA-256 of the first bytes of an open file. `extend` is for one thread at a time, `stop` for any."""

    def __init__(self, handle: int) -> None:
        self.done = 0
        """Bytes that are in the digest."""
        self._handle = handle
        self._hash = hashlib.sha256()
        self._stopped = threading.Event()

    def extend(self, end: int) -> None:
        """Takes the bytes up to `end` in, which nobody may change any more. Raises OSError; EOFError if they are
        not there."""
        while self.done < end and not self._stopped.is_set():
            piece = os.pread(self._handle, min(_PIECE, end - self.done), self.done)
            if not piece:
                raise EOFError("the file is shorter than what was written")
            self._hash.update(piece)
            self.done += len(piece)

    def stop(self) -> None:
        """Ends a running `extend` soon."""
        self._stopped.set()

    def digest(self) -> str:
        """`sha256:` and the hash of what was taken in."""
        return "sha256:" + self._hash.hexdigest()
