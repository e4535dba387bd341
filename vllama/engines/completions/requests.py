"""The parameter map: a `Generation` as the body of POST /v1/completions.

`Dialect.vllm` speaks of everything that vLLM's server knows, `Dialect.max` of what Modular's knows; without them only
OpenAI's own fields are sent, because others refuse what they do not know. There is no typical_p, no repeat_last_n
(penalties look at the whole prompt and answer) and no context shift on this side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from vllama.engines.base import Constraint, Generation

MOST_STOPS = 4
"""OpenAI's own limit."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server understands. `model` is its own name for the model. `add_special` as /tokenize means it."""

    model: str
    vllm: bool = False
    max: bool = False


def body_of(
    request: Generation,
    dialect: Dialect,
    *,
    prompt: str | list[int],
    limit: int | None,
    add_special: bool,
    constraint: Constraint | None,
    stop: tuple[str, ...],
    include_stop: bool = False,
) -> dict[str, Any]:
    """The request. `limit` is max_tokens, None for as many as the server allows. Constraints are vLLM's only."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": dialect.model,
        "prompt": prompt,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": limit,
        "temperature": max(0.0, sampling.temperature),
        "top_p": sampling.top_p if 0 < sampling.top_p <= 1 else 1.0,
        "presence_penalty": clamp(sampling.presence_penalty, -2, 2),
        "frequency_penalty": clamp(sampling.frequency_penalty, -2, 2),
    }
    if limit is None and not dialect.vllm:
        del body["max_tokens"]
    if stop:
        body["stop"] = list(stop)
    if sampling.seed is not None:
        # Ollama's seed is any integer; vLLM takes 64 bits, and -1 means a random one nowhere.
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): clamp(bias, -100, 100) for token, bias in sampling.logit_bias}
    if request.top_logprobs is not None:
        body["logprobs"] = request.top_logprobs
    if dialect.vllm or dialect.max:
        body |= {
            "top_k": max(0, sampling.top_k),
            "min_p": clamp(sampling.min_p, 0, 1),
            # It must be above zero; Ollama takes 0 as "no penalty" too.
            "repetition_penalty": sampling.repeat_penalty if sampling.repeat_penalty > 0 else 1.0,
            "return_token_ids": True,
        }
    if dialect.vllm:
        body["stream_options"]["continuous_usage_stats"] = True
        body |= {
            "add_special_tokens": add_special,
            "skip_special_tokens": not request.control,
            "include_stop_str_in_output": include_stop,
        }
        if request.top_logprobs is not None:
            body["return_tokens_as_token_ids"] = True
        if constraint is not None:
            body["structured_outputs"] = structured(constraint)
    return body


def structured(constraint: Constraint) -> dict[str, Any]:
    """vLLM's way to say what the output must match; a schema is handed on as it is: its compiler knows more."""
    if constraint.schema is None:
        return {"grammar": constraint.gbnf}
    return {"json": orjson.loads(constraint.schema)} if constraint.schema else {"json_object": True}


def clamp(value: float, low: float, high: float) -> float:
    """The nearest value between the two."""
    return min(max(value, low), high)
