"""A grammar that one generation follows."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from vllama.engines.llama.bindings.candidates import every
from vllama.engines.llama.bindings.chain import Chain
from vllama.engines.llama.bindings.context import Context
from vllama.engines.llama.bindings.library import lib
from vllama.engines.llama.bindings.model import Model


class Grammar:
    """A GBNF grammar that follows one generation. Raises ValueError when the text is no grammar.

    Choosing freely and asking the grammar about that one token is cheap. Only when it objects is it asked which
    tokens it allows. One that it does not allow must never be accepted: the library aborts.
    """

    __slots__ = ("_openings", "pointer")

    def __init__(self, model: Model, gbnf: str) -> None:
        # An empty text would give a sampler that allows everything.
        self.pointer = lib.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root") if gbnf.strip() else None
        if not self.pointer:
            raise ValueError("failed to parse grammar")
        self._openings = model.openings()

    def sample(self, chain: Chain, context: Context, index: int) -> int | None:
        """Choose a token that the grammar allows, and remember it. None when it allows none."""
        token = self.choose(chain, context.row(index))
        if token is not None:
            lib.llama_sampler_accept(self.pointer, token)
            chain.accept(token)
        return token

    def choose(self, chain: Chain, row: Any) -> int | None:
        """Choose from logits, a float32 array; nothing is remembered. None when the grammar allows no token."""
        import numpy as np

        token = chain.propose(row)
        if token < 0:
            token = every(len(row)).apply(chain.pointer, np.arange(len(row), dtype=np.int32), row)
        if token >= 0 and row[token] > -math.inf and self._allows(token):
            return token
        table = every(len(row))
        ids = self._openings.allowed(lambda ids: table.passes(self.pointer, ids, row[ids]))
        if not len(ids):
            return None
        # Samplers take ties in this order.
        ids.sort()
        token = table.apply(chain.pointer, ids, row[ids])
        return token if token >= 0 and row[token] > -math.inf else None

    def _allows(self, token: int) -> bool:
        one = (lib.llama_token_data * 1)((token, 1.0, 0.0))
        array = lib.llama_token_data_array(one, 1, -1, False)
        lib.llama_sampler_apply(self.pointer, ctypes.byref(array))
        return bool(one[0].logit != -math.inf)

    def close(self) -> None:
        """Free it; twice is fine."""
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None
