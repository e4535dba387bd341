"""A sampler chain of one request, and the probabilities that a client asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vllama.engines.llama.bindings.candidates import GROUPS, candidates, largest
from vllama.engines.llama.bindings.context import Context
from vllama.engines.llama.bindings.library import lib
from vllama.engines.llama.bindings.model import Model
from vllama.engines.llama.sampling import Stage


class Chain:
    """One request's sampler chain. `shortlist` largest logits are enough for it (0: it must see all)."""

    __slots__ = ("_greedy", "_shortlist", "pointer")

    def __init__(self, model: Model, stages: Sequence[Stage], shortlist: int = 0) -> None:
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self.pointer = lib.llama_sampler_chain_init(params)
        self._shortlist = shortlist if model.vocab_size >= GROUPS * shortlist else 0
        self._greedy = [name for name, _ in stages] == ["greedy"]
        for name, values in stages:
            lib.llama_sampler_chain_add(self.pointer, _stage(model, name, values))

    def sample(self, context: Context, index: int) -> int:
        """Choose a token for a batch row and remember it."""
        if self._shortlist:
            token = self.choose(context.row(index))
            if token >= 0:
                return token
        chosen: int = lib.llama_sampler_sample(self.pointer, context.pointer, index)
        return chosen

    def choose(self, row: Any) -> int:
        """Choose from logits, a float32 array, by a shortlist, and remember it; -1 when that cannot be done."""
        token = self.propose(row)
        if token >= 0 and not self._greedy:
            lib.llama_sampler_accept(self.pointer, token)
        return token

    def propose(self, row: Any) -> int:
        """Like `choose`, but nothing is remembered.

        The library would fill and sort a table of the whole vocabulary, which costs several times as much.
        """
        if not self._shortlist:
            return -1
        if self._greedy:
            best = int(row.argmax())
            return best if row[best] < math.inf else -1
        ids = largest(row, self._shortlist)
        if not self._shortlist <= len(ids) <= len(candidates.table):
            return -1
        return candidates.apply(self.pointer, ids, row[ids])

    def accept(self, token: int) -> None:
        """Count a token for the penalties that was not sampled here."""
        lib.llama_sampler_accept(self.pointer, token)

    def close(self) -> None:
        """Free it; twice is fine."""
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None


def _stage(model: Model, name: str, values: tuple[Any, ...]) -> Any:
    if name == "logit_bias":
        biases = (lib.llama_logit_bias * len(values))(*values)
        return lib.llama_sampler_init_logit_bias(model.vocab_size, len(values), biases)
    if name == "penalties":
        return lib.llama_sampler_init_penalties(model.vocab_size, *values)
    if name in ("top_p", "min_p", "typical"):
        values = (*values, 1)
    return getattr(lib, f"llama_sampler_init_{name}")(*values)


def top_logprobs(logits: Any, size: int, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Log-probability of `token` under the raw logits, and the `count` likeliest tokens with theirs."""
    import numpy as np

    row = np.ctypeslib.as_array(logits, (size,))
    peak = float(row.max())
    norm = peak + math.log(float(np.exp(row - peak, dtype=np.float64).sum()))
    best: list[tuple[int, float]] = []
    if count > 0:
        count = min(count, size)
        ids = np.argpartition(row, size - count)[size - count :]
        ids = ids[np.argsort(-row[ids], kind="stable")]
        best = [(int(i), float(row[i]) - norm) for i in ids]
    return float(row[token]) - norm, best
