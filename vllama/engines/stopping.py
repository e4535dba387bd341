"""Stop strings over a stream of text pieces: nothing that may become a stop string leaves too early."""

from __future__ import annotations

from collections.abc import Sequence


class StopBuffer:
    """Cuts a stream of text at the first stop string.

    `feed(piece)` returns the text that may be sent now; `stopped` tells that a stop string was met, after
    which `feed` returns nothing more. `flush()` gives what was held back when the stream ended without a
    match. An empty stop string matches at once (as in Ollama).
    """

    __slots__ = ("_held", "_longest", "_stops", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(s) for s in self._stops), default=0)
        self._held = ""
        self.stopped = "" in self._stops

    def feed(self, piece: str) -> str:
        """Text that can no longer be part of a stop string; "" while all of it is held."""
        if not self._stops:
            return piece
        if self.stopped:
            return ""
        text = self._held + piece
        first = -1
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0 and (first < 0 or at < first):
                first = at
        if first >= 0:
            self.stopped = True
            self._held = ""
            return text[:first]
        keep = self._partial(text)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep]

    def _partial(self, text: str) -> int:
        """Length of the longest tail of `text` that begins a stop string."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0

    def flush(self) -> str:
        """What was held back; the stream has ended without a stop string."""
        held, self._held = self._held, ""
        return "" if self.stopped else held
