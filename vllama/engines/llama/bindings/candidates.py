"""Tokens to choose among: a short list of the likeliest ones, and the table that C samplers work on."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any

from vllama.engines.llama.bindings.library import lib

GROUPS = 16
"""A shortlist is made when the vocabulary is at least so many times as long."""


def largest(row: Any, count: int) -> Any:
    """Ids of the `count` largest logits, ascending, and of a few more: all those not below a bound.

    The bound is the `count`-th largest of the maxima of disjoint groups, so at least `count` logits reach it.
    """
    import numpy as np

    groups = max(4 * count, 256)
    depth = len(row) // groups
    if depth < 2:
        return np.arange(len(row))
    peaks = row[: groups * depth].reshape(depth, groups).max(axis=0)
    bound = np.partition(peaks, groups - count)[groups - count]
    return np.flatnonzero(row >= bound)


class Candidates:
    """The table that the C samplers work on, made once."""

    def __init__(self, size: int) -> None:
        self.table = (lib.llama_token_data * size)()
        self._view: Any = None
        self._array = lib.llama_token_data_array(self.table, size, -1, False)
        self._pointer = ctypes.byref(self._array)

    def apply(self, chain: Any, ids: Any, logits: Any) -> int:
        """Let the chain choose among these; -1 when it chose none."""
        array = self._fill(chain, ids, logits)
        return int(array.data[array.selected].id) if array.selected >= 0 else -1

    def passes(self, grammar: Any, ids: Any, logits: Any) -> Any:
        """Which of `ids` the grammar allows; none whose logit says that it cannot come."""
        self._fill(grammar, ids, logits)
        return self._view["logit"][: len(ids)] > -math.inf

    def _fill(self, sampler: Any, ids: Any, logits: Any) -> Any:
        if self._view is None:
            import numpy as np

            self._view = np.frombuffer(self.table, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        size = len(ids)
        view = self._view[:size]
        view["id"] = ids
        view["logit"] = logits
        view["p"] = 0
        array = self._array
        # A sampler may have replaced the pointer.
        array.data = self.table
        array.size = size
        array.selected = -1
        array.sorted = False
        lib.llama_sampler_apply(sampler, self._pointer)
        return array


candidates = Candidates(4096)


@lru_cache(maxsize=1)
def every(size: int) -> Candidates:
    """A table for a whole vocabulary."""
    return Candidates(size)
