"""The arrays behind a batch."""

from __future__ import annotations

import ctypes
from typing import Any

from vllama.engines.llama.bindings.library import lib


class Rows:
    """A `llama_batch` whose arrays are filled by slices: one sequence for each row."""

    __slots__ = ("_ids", "_keep", "_positions", "_tokens", "batch", "outputs")

    def __init__(self, size: int) -> None:
        self._tokens: Any = (ctypes.c_int32 * size)()
        self._positions: Any = (ctypes.c_int32 * size)()
        self._ids: Any = (ctypes.c_int32 * size)()
        self.outputs: Any = (ctypes.c_int8 * size)()
        one = (ctypes.c_int32 * size)(*([1] * size))
        base = ctypes.addressof(self._ids)
        pointer = ctypes.POINTER(ctypes.c_int32)
        ids = (pointer * size)(*(ctypes.cast(base + 4 * i, pointer) for i in range(size)))
        self._keep = (one, ids)
        self.batch = lib.llama_batch(
            0,
            ctypes.cast(self._tokens, pointer),
            None,
            ctypes.cast(self._positions, pointer),
            ctypes.cast(one, pointer),
            ctypes.cast(ids, ctypes.POINTER(pointer)),
            ctypes.cast(self.outputs, ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, tokens: list[int], positions: list[int], sequences: list[int]) -> None:
        """The rows of the next decode; which of them are outputs is set in `outputs`."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._ids[:count] = sequences
        self.batch.n_tokens = count
