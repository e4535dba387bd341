"""Prefix cache outside the KV memory: decoded sequences copied to host memory, where no step looks at them.

Attention walks over every used cell of a unified KV memory, whoever it belongs to; a parked sequence costs nothing
until a prompt wants it back. Copying takes some microseconds a token, computing it again some milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllama.engines.llama.prefix import common_prefix

WORTH = 32
"""Sequences and matches shorter than this are computed again rather than copied."""

COPY_PER_COMPUTE = 64
"""A parked sequence is fetched when at least one in so many of its tokens is of use: the whole of it is copied."""


@dataclass(eq=False, slots=True)
class Parked:
    """A sequence in host memory, or on disk: its `tokens`, and their KV as the memory saved it."""

    tokens: list[int]
    state: Any


class Parking:
    """Parked sequences, the least recently used first; at most `limit` tokens of them."""

    def __init__(self, limit: int, discard: Callable[[Any], None]) -> None:
        self.limit = limit
        self._discard = discard
        self.size = 0
        self.entries: list[Parked] = []

    def wants(self, tokens: list[int]) -> bool:
        """Whether parking a sequence of these tokens would bring anything."""
        return WORTH <= len(tokens) <= self.limit

    def holds(self, tokens: list[int]) -> bool:
        """Whether an entry begins with all these tokens; it counts as used then."""
        for entry in reversed(self.entries):
            if common_prefix(tokens, entry.tokens, len(tokens)) == len(tokens):
                self.touch(entry)
                return True
        return False

    def put(self, tokens: list[int], state: Any) -> None:
        """Keep a sequence, in place of those that are a beginning of it and, if need be, of the oldest."""
        for entry in list(self.entries):
            if common_prefix(entry.tokens, tokens, len(entry.tokens)) == len(entry.tokens):
                self.drop(entry)
        self.entries.append(Parked(tokens, state))
        self.size += len(tokens)
        while self.size > self.limit:
            self.drop(self.entries[0])

    def best(self, tokens: list[int], more_than: int, *, whole: bool = False) -> Parked | None:
        """The entry with the longest beginning in common with a prompt, if that is worth fetching.

        It must save at least `WORTH` tokens over `more_than`, which are resident. The last token of a prompt is
        always computed, for its logits. `whole`: only entries that the prompt begins with in full.
        """
        found, most = None, more_than + WORTH - 1
        for entry in self.entries:
            same = common_prefix(tokens, entry.tokens, len(tokens) - 1)
            if whole and same < len(entry.tokens):
                continue
            if same > most and (same - more_than) * COPY_PER_COMPUTE >= len(entry.tokens):
                found, most = entry, same
        return found

    def touch(self, entry: Parked) -> None:
        """It was used just now."""
        self.entries.remove(entry)
        self.entries.append(entry)

    def drop(self, entry: Parked) -> None:
        """Forget it."""
        self.entries.remove(entry)
        self._discard(entry.state)
        self.size -= len(entry.tokens)

    def check(self) -> None:
        """Raises AssertionError when the book-keeping contradicts itself."""
        assert self.size == sum(len(entry.tokens) for entry in self.entries), "parked tokens are counted wrongly"
        assert self.size <= self.limit or not self.entries, "more is parked than may be"
