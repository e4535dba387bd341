"""From token bytes to text that may be sent: whole UTF-8 characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from vllama.engines.stopping import StopBuffer

_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """`feed(bytes)` returns the text that may leave now, `flush()` the rest at the end of the generation.

    Bytes that can still become a character are held back; those that cannot become U+FFFD.
    """

    __slots__ = ("_decoder", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = _decoder("replace")
        self._stops = StopBuffer(stops) if stops else None

    @property
    def stopped(self) -> bool:
        """A stop string was met; everything before it has been returned."""
        return self._stops is not None and self._stops.stopped

    def feed(self, piece: bytes) -> str:
        """Text that may be sent now, "" while it is held back."""
        text = self._decoder.decode(piece)
        if self._stops is None or not text:
            return text
        return self._stops.feed(text)

    def flush(self) -> str:
        """What was held back. Nothing after a stop."""
        text = self._decoder.decode(b"", True)
        if self._stops is None:
            return text
        return self._stops.feed(text) + self._stops.flush()
