"""A sequence (one running request as the scheduler sees it) and a slot (one sequence id of the KV memory)."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """WAITING in the queue, PREFILL until the first token is sampled, DECODE, DONE."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


class Sequence:
    """`tokens` is the prompt and everything sampled so far; what a context shift dropped is gone from it.

    `num_ctx` bounds `len(tokens)`; at the bound the sequence is shifted when `shift` is set.
    `prompt` counts the prompt's tokens at submission, `cached` those that needed no decoding, `remaining` is the
    most it may still generate. A sequence with a `leader` waits until that one has decoded `need` tokens to share.
    """

    __slots__ = (
        "cached",
        "id",
        "leader",
        "need",
        "num_ctx",
        "num_keep",
        "order",
        "paused",
        "prompt",
        "remaining",
        "shift",
        "slot",
        "state",
        "tokens",
    )

    def __init__(
        self, id: int, tokens: list[int], *, num_ctx: int, num_keep: int = 0, shift: bool = False, remaining: int = 1
    ) -> None:
        self.id = id
        self.tokens = tokens
        self.num_ctx = num_ctx
        self.num_keep = num_keep
        self.shift = shift
        self.remaining = remaining
        self.prompt = len(tokens)
        self.cached = 0
        self.state = State.WAITING
        self.slot: Slot | None = None
        self.leader: Sequence | None = None
        self.need = 0
        self.order = 0
        self.paused = False

    @property
    def pending(self) -> int:
        """Tokens that are not in the KV memory yet; 1 while decoding."""
        return len(self.tokens) - (self.slot.filled if self.slot is not None else 0)


class Slot:
    """A sequence id of the KV memory. Without `owner` it is idle: its content is prefix cache.

    `tokens[:filled]` are decoded. Only the first `exact` tokens were computed from exactly the tokens before
    them (a context shift breaks that; -1: all of them), so only these may serve another prompt. `used` is a
    logical time.
    """

    __slots__ = ("exact", "filled", "id", "owner", "tokens", "used")

    def __init__(self, id: int) -> None:
        self.id = id
        self.tokens: list[int] = []
        self.filled = 0
        self.exact = -1
        self.owner: Sequence | None = None
        self.used = 0
