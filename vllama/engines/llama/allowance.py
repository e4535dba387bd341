"""How much CPU time a grammar may take from the step loop, in which it stops the streams of everybody.

CPU time of the thread and not the clock: on a crowded machine an honest grammar waits, but does not work more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vllama.engines.llama.prompt import RequestFault

SLICE = 1024
"""Tokens that a grammar is asked about at a time: what the C library does cannot be interrupted."""

CHOICE_S = 0.5
"""CPU seconds to find out what is allowed next. Large vocabularies take 0.03."""

AHEAD_S = 2.0
"""CPU seconds that a generation may take for its grammar beyond `TOKEN_S` for each token."""

TOKEN_S = 0.02

TOO_SLOW = "the grammar takes too long to follow; use a simpler pattern or schema"

Clock = Callable[[], float]


def asked(ask: Callable[[Any], Any], ids: Any, clock: Clock = time.thread_time) -> Any:
    """`ask(ids)`, piece by piece. Raises `RequestFault` when that takes more than `CHOICE_S`."""
    import numpy as np

    if len(ids) <= SLICE:
        return ask(ids)
    due = clock() + CHOICE_S
    found = []
    for start in range(0, len(ids), SLICE):
        found.append(ask(ids[start : start + SLICE]))
        if clock() > due:
            raise RequestFault("request", TOO_SLOW)
    return np.concatenate(found)


class Allowance:
    """What one generation has left. `spent` after each choice."""

    __slots__ = ("_clock", "_left", "_since")

    def __init__(self, clock: Clock = time.thread_time) -> None:
        self._clock = clock
        self._left = AHEAD_S
        self._since = 0.0

    def begin(self) -> None:
        """A choice begins."""
        self._since = self._clock()

    def spent(self) -> None:
        """It is made. Raises `RequestFault` when all choices together took too much."""
        self._left = min(AHEAD_S, self._left + TOKEN_S) - (self._clock() - self._since)
        if self._left < 0:
            raise RequestFault("request", TOO_SLOW)
