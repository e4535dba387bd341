"""Sets of characters as sorted ranges of code points, both ends included."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

Ranges = tuple[tuple[int, int], ...]

EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""Halves of surrogate pairs are no characters."""


def union(*sets: Iterable[tuple[int, int]]) -> Ranges:
    """What is in any of them; neighbours become one range."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pair for ranges in sets for pair in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def without(ranges: Ranges, removed: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    left = []
    for low, high in ranges:
        for first, last in removed:
            if last < low or first > high:
                continue
            if low < first:
                left.append((low, first - 1))
            low = last + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def of(characters: str) -> Ranges:
    """These characters."""
    return union((ord(char), ord(char)) for char in characters)


def parts(sets: Iterable[Ranges]) -> list[Ranges]:
    """The coarsest sets without common characters of which all of these can be put together."""
    known = list(sets)
    edges = sorted({edge for ranges in known for low, high in ranges for edge in (low, high + 1)})
    found: dict[frozenset[int], list[tuple[int, int]]] = {}
    for low, end in pairwise(edges):
        within = frozenset(n for n, ranges in enumerate(known) if any(a <= low <= b for a, b in ranges))
        if within:
            found.setdefault(within, []).append((low, end - 1))
    return [union(ranges) for ranges in found.values()]
