"""A request's sampling options as stages of a llama.cpp sampler chain, in llama.cpp's (and Ollama's) order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

Stage = tuple[str, tuple[Any, ...]]
"""Name of the C sampler and its arguments."""


class Options(Protocol):
    """The sampling fields of `frames.Submit`, which are those of `base.Sampling`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    logit_bias: list[tuple[int, float]]


def penalty_window(options: Options, num_ctx: int) -> int:
    """How many of the last tokens are penalised: 0 when no penalty is set."""
    if options.repeat_penalty == 1.0 and not options.presence_penalty and not options.frequency_penalty:
        return 0
    return num_ctx if options.repeat_last_n < 0 else options.repeat_last_n


def stages(options: Options, num_ctx: int) -> Sequence[Stage]:
    """The chain. Stages that would change nothing are left out; a temperature of 0 or less is greedy."""
    chain: list[Stage] = []
    if options.logit_bias:
        chain.append(("logit_bias", tuple(options.logit_bias)))
    window = penalty_window(options, num_ctx)
    if window:
        penalties = (window, options.repeat_penalty, options.frequency_penalty, options.presence_penalty)
        chain.append(("penalties", penalties))
    if options.temperature <= 0:
        chain.append(("greedy", ()))
        return chain
    if options.top_k > 0:
        chain.append(("top_k", (options.top_k,)))
    if options.typical_p < 1:
        chain.append(("typical", (options.typical_p,)))
    if options.top_p < 1:
        chain.append(("top_p", (options.top_p,)))
    if options.min_p > 0:
        chain.append(("min_p", (options.min_p,)))
    if options.temperature != 1:
        chain.append(("temp", (options.temperature,)))
    chain.append(("dist", (seed(options.seed),)))
    return chain


SHORTLIST = 1024
"""Longer shortlists are not worth making."""


def shortlist(options: Options, num_ctx: int) -> int:
    """How many of the largest logits are enough for the chain to choose as it would among all; 0: it needs all.

    What the chain keeps first are the `top_k` largest (one when greedy). Penalties only lower the tokens of their
    window, so no token further down than that many more can rise among them.
    """
    if options.logit_bias:
        return 0
    count = 1 if options.temperature <= 0 else options.top_k
    window = penalty_window(options, num_ctx)
    if window:
        if options.repeat_penalty < 1 or options.presence_penalty < 0 or options.frequency_penalty < 0:
            return 0
        count += window if count > 0 else 0
    return count if 0 < count <= SHORTLIST else 0


def seed(wanted: int | None) -> int:
    """The C generator's seed, 32 bits; a fresh one for None and -1."""
    if wanted is None or wanted == -1:
        return int.from_bytes(os.urandom(4), "little")
    return wanted & 0xFFFFFFFF
