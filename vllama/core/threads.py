"""Who may use how many threads while several models compute at once."""

from __future__ import annotations

from collections.abc import Sequence


def shares(alone: Sequence[int]) -> list[int]:
    """How many threads each engine gets that computes now; `alone` is how many each would use by itself.

    The machine is taken to have as many as the most demanding of them. Each gets an equal part and at least one; what
    somebody cannot use goes to the others, the first ones before the later ones. Threads that wait for each other at
    every operation of a step lose far more than they gain: two workers with two threads each on two cores made less
    than half of what they make with one each.
    """
    left = max(alone, default=0)
    found = [0] * len(alone)
    order = sorted(range(len(alone)), key=lambda index: alone[index])
    for position, index in enumerate(order):
        waiting = len(order) - position
        # Rounded up for the first of those that want equally much.
        part = max(1, min(alone[index], -(-left // waiting)))
        found[index] = part
        left = max(0, left - part)
    return found
