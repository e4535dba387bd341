"""Prompts that are longer than their context."""

from __future__ import annotations

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust "
    "the context length in settings, or use a model with a longer context length"
)

INPUT_TOO_LONG = "the input length exceeds the context length"
INPUT_NOT_SHORTER = "input exceeds maximum context length and cannot be truncated further"
NO_ROOM_FOR_INPUT = "input after truncation exceeds maximum context length"


def cut_prompt(tokens: list[int], *, num_ctx: int, num_keep: int) -> list[int]:
    """The first `num_keep` tokens (negative: as many as fit) and the newest, as `base.Generation` says.

    A prompt that leaves room for a token of output stays as it is.
    """
    if len(tokens) < num_ctx:
        return tokens
    keep = min(num_keep if num_keep >= 0 else len(tokens), num_ctx - 1)
    room = num_ctx - max((num_ctx - keep) // 2, 1)
    return tokens[:keep] + tokens[len(tokens) - (room - keep) :] if room > keep else tokens[:keep]
