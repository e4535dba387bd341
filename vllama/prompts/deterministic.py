"""A pattern as an automaton that has one way through every text: what `ambiguity` refuses can be followed so.

Each state stands for all places of the pattern where a reader may be after the same letters. There can be exponentially
many, so the work is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllama.prompts.ambiguity import Automaton, Part, TooAmbiguous
from vllama.prompts.charsets import Ranges, parts, union

MAX_WORK = 50_000
"""Steps of the construction: about 10 ms, for it is done between the tokens of others."""

MAX_POSITIONS = 2_000


@dataclass(frozen=True, slots=True)
class State:
    """`ends`: the text may end here. `edges`: what may be read next, and the state after it; no two overlap."""

    ends: bool
    edges: tuple[tuple[Ranges, int], ...]


def states(part: Part) -> list[State]:
    """The automaton; it begins in the first state. Raises `TooAmbiguous` when it takes too much."""
    automaton = Automaton(copies=None, most=MAX_POSITIONS)
    whole = automaton.add(part)
    kinds = list(dict.fromkeys(automaton.reads))
    number = {ranges: n for n, ranges in enumerate(kinds)}
    kind = [number[ranges] for ranges in automaton.reads]
    letters = parts(kinds)
    readers = [[n for n, ranges in enumerate(kinds) if _within(letter, ranges)] for letter in letters]
    last = frozenset(whole.last)
    # What tells states apart is what may come next, not how one came there.
    start = (frozenset(whole.first), whole.empty)
    numbers = {start: 0}
    waiting = [start]
    found: list[State] = []
    work = 0
    while waiting:
        coming, ends = waiting.pop(0)
        by_kind: dict[int, list[int]] = {}
        for position in coming:
            by_kind.setdefault(kind[position], []).append(position)
        work += len(coming) + len(letters)
        targets: dict[int, list[Ranges]] = {}
        for letter, reading in zip(letters, readers, strict=True):
            read = [position for n in reading for position in by_kind.get(n, ())]
            if not read:
                continue
            work += sum(len(automaton.after[position]) for position in read)
            if work > MAX_WORK:
                raise TooAmbiguous
            following = (frozenset().union(*(automaton.after[p] for p in read)), not last.isdisjoint(read))
            if following not in numbers:
                numbers[following] = len(numbers)
                waiting.append(following)
            targets.setdefault(numbers[following], []).append(letter)
        found.append(State(ends, tuple((union(*ranges), target) for target, ranges in targets.items())))
    return found


def _within(letter: Ranges, ranges: Ranges) -> bool:
    low = letter[0][0]
    return any(first <= low <= last for first, last in ranges)
