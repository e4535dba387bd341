"""Counting KV cells when sequences share them.

In a unified cache a cell holds one token and may belong to several sequences: copying a prefix costs no cell.
`Cells` mirrors that with runs of cells; it knows nothing of tokens. All sizes are cells (= tokens).
"""

from __future__ import annotations

from typing import Any, Protocol


class Memory(Protocol):
    """The KV memory as the scheduler drives it. Calls take effect at once, in the order they are made."""

    def remove(self, slot: int, start: int, end: int) -> bool:
        """Forget positions [start, end) of a sequence; `end` < 0 is its end. False: only all of it can be removed."""
        ...

    def copy(self, source: int, target: int, end: int) -> bool:
        """Give `target`, which is empty, positions [0, end) of `source`, all of which have been decoded.

        False: it is still empty.
        """
        ...

    def shift(self, slot: int, start: int, end: int, delta: int) -> None:
        """Add `delta` to positions [start, end). The cells must belong to this sequence alone."""
        ...

    def grow(self, cells: int) -> int:
        """Ask for so many cells (in each stream), keeping every sequence; returns how many there are now."""
        ...

    def reshape(self, slots: int, cells: int) -> bool:
        """Begin anew, empty, for so many sequences and with so many cells (in each stream). False: all is as before."""
        ...

    def save(self, slot: int) -> Any:
        """A copy of all cells of a sequence outside the memory; None when that cannot be had."""
        ...

    def restore(self, slot: int, state: Any) -> bool:
        """Put a saved copy into a sequence that holds nothing. False: it still holds nothing."""
        ...

    def discard(self, state: Any) -> None:
        """A saved copy is of no more use."""
        ...


class Run:
    """Cells that always belong to the same sequences."""

    __slots__ = ("holders", "size")

    def __init__(self, size: int, holders: set[int]) -> None:
        self.size = size
        self.holders = holders


class Cells:
    """Which sequence holds how many cells of one shared memory, and how many are in use in all."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._runs: dict[int, list[Run]] = {}

    @property
    def free(self) -> int:
        """Cells that hold nothing."""
        return self.total - self.used

    def held(self, slot: int) -> int:
        """Cells of one sequence, shared ones included: its length in tokens."""
        return sum(run.size for run in self._runs.get(slot, ()))

    def held_by(self, slots: set[int]) -> int:
        """Cells that at least one of these sequences holds, shared ones counted once."""
        runs = {id(run): run.size for slot in slots for run in self._runs.get(slot, ())}
        return sum(runs.values())

    def append(self, slot: int, count: int) -> None:
        """The sequence decoded `count` (> 0) more tokens."""
        runs = self._runs.get(slot)
        if runs is None:
            runs = self._runs[slot] = []
        self.used += count
        if runs and len(runs[-1].holders) == 1:
            runs[-1].size += count
        else:
            runs.append(Run(count, {slot}))

    def trim(self, slot: int, size: int) -> None:
        """Keep only the first `size` tokens of the sequence."""
        at = self._split(slot, size)
        runs = self._runs.get(slot, [])
        for run in runs[at:]:
            self._drop(run, slot)
        del runs[at:]
        if not runs:
            self._runs.pop(slot, None)

    def cut(self, slot: int, start: int, end: int) -> None:
        """Take tokens [start, end) out of the sequence; what follows moves up."""
        first = self._split(slot, start)
        last = self._split(slot, end)
        runs = self._runs[slot]
        for run in runs[first:last]:
            self._drop(run, slot)
        del runs[first:last]

    def copy(self, source: int, target: int, size: int) -> None:
        """`target`, which holds nothing, shares the first `size` (> 0) tokens of `source`."""
        at = self._split(source, size)
        shared = self._runs[source][:at]
        for run in shared:
            run.holders.add(target)
        self._runs[target] = shared

    def sharers(self, slot: int, start: int) -> set[int]:
        """The other sequences that hold a cell of this one at position `start` or later."""
        at = 0
        found: set[int] = set()
        for run in self._runs.get(slot, ()):
            at += run.size
            if at > start:
                found |= run.holders
        return found - {slot}

    def check(self) -> None:
        """Raises AssertionError when the book-keeping contradicts itself."""
        runs: dict[int, Run] = {}
        for slot, held in self._runs.items():
            assert held, f"sequence {slot} holds an empty list"
            for run in held:
                assert run.size > 0, f"sequence {slot} holds an empty run"
                assert slot in run.holders, f"sequence {slot} is no holder of its run"
                runs[id(run)] = run
        for run in runs.values():
            for holder in run.holders:
                assert any(other is run for other in self._runs[holder]), "a holder lost its run"
        used = sum(run.size for run in runs.values())
        assert used == self.used, f"{used} cells are held, {self.used} are counted"
        self._check_room()

    def _check_room(self) -> None:
        assert self.used <= self.total, f"{self.used} of {self.total} cells are in use"

    def _drop(self, run: Run, slot: int) -> None:
        run.holders.discard(slot)
        if not run.holders:
            self.used -= run.size

    def _split(self, slot: int, at: int) -> int:
        """Make position `at` the start of a run in every holder; returns its index in this sequence's list."""
        runs = self._runs.get(slot, [])
        for index, run in enumerate(runs):
            if at <= 0:
                return index
            if at < run.size:
                tail = Run(run.size - at, set(run.holders))
                run.size = at
                for holder in tail.holders:
                    held = self._runs[holder]
                    held.insert(next(i for i, other in enumerate(held) if other is run) + 1, tail)
                return index + 1
            at -= run.size
        return len(runs)


class Streams(Cells):
    """The same where every sequence has a memory of its own, of `total` cells: nothing is shared."""

    def copy(self, source: int, target: int, size: int) -> None:
        """`target`, which holds nothing, gets copies of the first `size` (> 0) tokens of `source`."""
        del source
        self.append(target, size)

    def _check_room(self) -> None:
        for slot in self._runs:
            assert self.held(slot) <= self.total, f"sequence {slot} holds more than {self.total} cells"
