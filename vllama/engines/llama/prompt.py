"""What can be wrong with a request, and cutting a prompt to its context."""

from __future__ import annotations

from vllama.engines.fitting import TOO_LONG, cut_prompt


class RequestFault(Exception):
    """The request cannot be done. `kind` as in `frames.Step.failed`."""

    def __init__(self, kind: str, text: str, prompt_tokens: int = 0) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.prompt_tokens = prompt_tokens


def fit(tokens: list[int], *, num_ctx: int, num_keep: int, truncate: bool) -> list[int]:
    """The prompt, cut as `base.Generation` says when it leaves no room for output. Raises `RequestFault`."""
    if len(tokens) < num_ctx:
        return tokens
    if not truncate:
        raise RequestFault("too_long", TOO_LONG, len(tokens))
    return cut_prompt(tokens, num_ctx=num_ctx, num_keep=num_keep)
