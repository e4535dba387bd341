"""In how many ways a pattern can read the same text. Engines follow all of them, for every token that they ask about.

Thirty times `.?` is harmless to write and has 155 million ways to read fifteen letters. The parts of a pattern become
the states of an automaton, and the ways through it are counted for the text that has most, letter by letter.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vllama.prompts.charsets import Ranges

LETTERS = 16
"""Length of the text; few tokens are longer."""

MAX_WAYS = 20_000
"""One token takes a few milliseconds then."""

MAX_EDGES = 200_000

SAMPLE = "aA0 _-é"
"""Letters that are tried beside those that stand in the pattern."""


class TooAmbiguous(ValueError):
    """There are more than `MAX_WAYS`."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter: a literal, an escape, a class or `.`, as it stands in the pattern, and what it reads."""

    source: str
    reads: Ranges


@dataclass(frozen=True, slots=True)
class Row:
    """One part after the other."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One part or another."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The part so many times; `most` None is without end."""

    part: Part
    least: int
    most: int | None


Part = Letter | Row | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Fragment:
    """Where a part begins and ends: its first and last letters, and whether it can be left out."""

    first: tuple[int, ...]
    last: tuple[int, ...]
    empty: bool


_NOTHING = Fragment((), (), True)


class Automaton:
    """A state for each letter of the unrolled pattern; edges to what may come next.

    `copies` is how often at most a part is repeated, None for as often as the pattern says; `most` is how many states
    there may be. `add` raises `TooAmbiguous` beyond that.
    """

    def __init__(self, *, copies: int | None = LETTERS, most: int | None = None) -> None:
        self.sources: list[str] = []
        self.reads: list[Ranges] = []
        self.after: list[list[int]] = []
        self._copies = copies
        self._most = most
        self._edges = 0

    def add(self, part: Part) -> Fragment:
        """The part's letters, not joined to anything yet."""
        if isinstance(part, Letter):
            if self._most is not None and len(self.sources) >= self._most:
                raise TooAmbiguous
            self.sources.append(part.source)
            self.reads.append(part.reads)
            self.after.append([])
            here = (len(self.sources) - 1,)
            return Fragment(here, here, False)
        if isinstance(part, Choice):
            found = [self.add(one) for one in part.parts]
            first = tuple(state for one in found for state in one.first)
            return Fragment(first, tuple(s for one in found for s in one.last), any(one.empty for one in found))
        if isinstance(part, Row):
            whole = _NOTHING
            for one in part.parts:
                whole = self._joined(whole, self.add(one))
            return whole
        # More copies than a text has letters change nothing.
        least = part.least if self._copies is None else min(part.least, self._copies)
        whole = _NOTHING
        if part.most is None:
            for _ in range(least - 1):
                whole = self._joined(whole, self.add(part.part))
            body = self.add(part.part)
            self._link(body.last, body.first)
            return self._joined(whole, Fragment(body.first, body.last, body.empty or least == 0))
        for _ in range(least):
            whole = self._joined(whole, self.add(part.part))
        most = part.most if self._copies is None else min(part.most, self._copies + 1)
        return self._joined(whole, self._upto(part.part, most - least))

    def _upto(self, part: Part, most: int) -> Fragment:
        """Up to so many, as (x (x (x)?)?)?: a row of optional ones would be ambiguous, which engines avoid."""
        inner = _NOTHING
        for _ in range(most):
            joined = self._joined(self.add(part), inner)
            inner = Fragment(joined.first, joined.last, True)
        return inner

    def _joined(self, left: Fragment, right: Fragment) -> Fragment:
        self._link(left.last, right.first)
        first = left.first + right.first if left.empty else left.first
        last = left.last + right.last if right.empty else right.last
        return Fragment(first, last, left.empty and right.empty)

    def _link(self, before: Sequence[int], after: Sequence[int]) -> None:
        self._edges += len(before) * len(after)
        if self._edges > MAX_EDGES:
            raise TooAmbiguous
        for state in before:
            self.after[state] += after


def check(part: Part) -> None:
    """Raises `TooAmbiguous`."""
    automaton = Automaton()
    automaton.add(part)
    letters = sorted({*SAMPLE, *(char for source in set(automaton.sources) for char in source)})
    reads = {source: _read(source, letters) for source in set(automaton.sources)}
    ways = dict.fromkeys(range(len(automaton.sources)), 1)
    for _ in range(LETTERS):
        arriving: dict[int, int] = {}
        for state, count in ways.items():
            for following in automaton.after[state]:
                arriving[following] = arriving.get(following, 0) + count
        totals = dict.fromkeys(letters, 0)
        for state, count in arriving.items():
            for letter in reads[automaton.sources[state]]:
                totals[letter] += count
        worst = max(letters, key=totals.__getitem__)
        if totals[worst] > MAX_WAYS + len(automaton.sources):
            raise TooAmbiguous
        ways = {state: count for state, count in arriving.items() if worst in reads[automaton.sources[state]]}


def _read(source: str, letters: Sequence[str]) -> frozenset[str]:
    """Which of the letters it reads."""
    found = _compiled(source)
    return frozenset(letters if found is None else filter(found.fullmatch, letters))


@lru_cache(256)
def _compiled(source: str) -> re.Pattern[str] | None:
    """None for what Python reads otherwise: then it counts as reading everything."""
    try:
        with warnings.catch_warnings():
            # Brackets within a class may mean something one day.
            warnings.simplefilter("ignore")
            return re.compile(source)
    except re.error:
        return None
