"""Finding the resident tokens that a new prompt can reuse."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllama.engines.llama.sequence import Slot


def common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """How many leading tokens are equal, at most `limit`. Compares slices, so the work is done in C."""
    limit = min(limit, len(left), len(right))
    if limit <= 0 or left[0] != right[0]:
        return 0
    # Most candidates differ early: look at short slices first.
    low, step = 1, 16
    while low + step <= limit and left[low : low + step] == right[low : low + step]:
        low += step
        step *= 2
    high = min(low + step, limit)
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class Match:
    """What one slot offers a prompt: `ready` tokens now, `later` tokens once its owner has decoded its prompt."""

    slot: Slot
    ready: int
    later: int


def matches(tokens: list[int], slots: Iterable[Slot]) -> list[Match]:
    """Every slot that shares a beginning with the prompt. At least one token is left over, so that logits exist."""
    found = []
    for slot in slots:
        if not slot.tokens:
            continue
        limit = len(tokens) - 1
        if slot.exact >= 0:
            limit = min(limit, slot.exact)
        same = common_prefix(tokens, slot.tokens, limit)
        if same:
            ready = min(same, slot.filled)
            found.append(Match(slot, ready, same if slot.owner is not None else ready))
    return found
