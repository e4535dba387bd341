"""Whole inputs to vectors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from vllama.engines.llama.bindings.library import LoadError, lib
from vllama.engines.llama.bindings.model import Model
from vllama.engines.llama.bindings.rows import Rows


class EmbeddingContext:
    """Pools whole inputs to vectors; nothing is kept between two packs. For a model that says how it pools.

    `tokens` is the largest pack, `inputs` how many inputs it may hold. Raises `LoadError`.
    """

    def __init__(self, model: Model, *, tokens: int, inputs: int, threads: int, flash_attention: bool | None) -> None:
        self.tokens = tokens
        self.inputs = inputs
        self.threads = threads
        params = lib.llama_context_default_params()
        # The library rounds contexts up and asserts that an encoder sees a pack in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = inputs
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = {None: -1, False: 0, True: 1}[flash_attention]
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LoadError(model.log.reason())
        self._memory = lib.llama_get_memory(self.pointer)
        self.width: int = lib.llama_model_n_embd_out(model.pointer)
        self._rows = Rows(tokens)
        ctypes.memset(self._rows.outputs, 1, tokens)

    @property
    def pooling(self) -> int:
        """llama.cpp's number: 0 none, 1 mean, 2 first token, 3 last token, 4 a ranking score."""
        return int(lib.llama_pooling_type(self.pointer))

    def pool(self, pack: Sequence[Sequence[int]]) -> list[Any] | None:
        """One float32 array of `width` for each input, as the model pools it. None: it could not be evaluated."""
        import numpy as np

        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for slot, ids in enumerate(pack):
            tokens += ids
            positions += range(len(ids))
            slots += [slot] * len(ids)
        self._rows.fill(tokens, positions, slots)
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        if lib.llama_decode(self.pointer, self._rows.batch):
            return None
        rows = [lib.llama_get_embeddings_seq(self.pointer, slot) for slot in range(len(pack))]
        if not all(rows):
            return None
        return [np.ctypeslib.as_array(row, (self.width,)).copy() for row in rows]

    def set_threads(self, count: int) -> None:
        """Use so many threads from the next pack on."""
        self.threads = count
        lib.llama_set_n_threads(self.pointer, count, count)

    def close(self) -> None:
        """Free its buffers; twice is fine."""
        if self.pointer:
            lib.llama_free(self.pointer)
            self.pointer = None
