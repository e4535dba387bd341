"""What can be wrong with a request, and cutting a prompt to its context."""

from __future__ import annotations


class RequestFault(Exception):
    """The request cannot be done. `kind` as in `frames.Step.failed`."""

    def __init__(self, kind: str, text: str, prompt_tokens: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.prompt_tokens = prompt_tokens


TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust "
    "the context length in settings, or use a model with a longer context length"
)


def fit(tokens: list[int], *, num_ctx: int, num_keep: int, truncate: bool) -> list[int]:
    """The prompt, cut as `base.Generation` says when it leaves no room for output. Raises `RequestFault`."""
    if len(tokens) < num_ctx:
        return tokens
    if not truncate:
        raise RequestFault("too_long", TOO_LONG, len(tokens))
    keep = min(num_keep if num_keep >= 0 else len(tokens), num_ctx - 1)
    room = num_ctx - max((num_ctx - keep) // 2, 1)
    return tokens[:keep] + tokens[len(tokens) - (room - keep) :] if room > keep else tokens[:keep]
