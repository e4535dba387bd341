"""Who watches a run: a live view, or nobody. The run tells; it never waits for an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vllama.bench.results import Sample, Slot


@dataclass(frozen=True, slots=True)
class Outline:
    """What will be measured, told once before the first slot.

    `cells` are the cells' ids in the order of a block, `order` the systems of each cell in each block,
    `slots` the number of slots still to measure, `seconds` how long that should take, `folder` where the records go.
    `not_measured` is cell -> system -> the reason.
    """

    plan_id: str
    profile: str
    control: str
    pairs: int
    cells: Sequence[str]
    systems: Mapping[str, str]
    order: Mapping[str, Sequence[Sequence[str]]]
    slots: int
    seconds: float
    folder: str
    not_measured: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A system over the control so far. `low` and `high` are None while the pairs are too few for an interval."""

    metric: str
    value: float
    low: float | None
    high: float | None
    n: int


class Observer(Protocol):
    """All methods return at once and raise nothing; they are called between slots, never during one."""

    def outlined(self, outline: Outline) -> None:
        """The plan is fixed; the servers run; measuring begins."""

    def slot_started(self, cell: str, block: int, system: str) -> None:
        """The next slot. Nothing may use the CPU until `slot_finished`."""

    def slot_finished(self, slot: Slot, samples: Sequence[Sample]) -> None:
        """The slot is on the disk."""

    def ratios(self, cell: str, system: str, ratios: Sequence[Ratio]) -> None:
        """After a block: where the ratios of a system to the control stand in a cell."""

    def said(self, text: str) -> None:
        """A line of progress, also printed where nobody watches."""

    def finished(self, state: str) -> None:
        """The last call: "complete", "interrupted", "failed" or "out of time"."""


class Nobody:
    """An observer that does nothing."""

    def outlined(self, outline: Outline) -> None:
        """See `Observer`."""

    def slot_started(self, cell: str, block: int, system: str) -> None:
        """See `Observer`."""

    def slot_finished(self, slot: Slot, samples: Sequence[Sample]) -> None:
        """See `Observer`."""

    def ratios(self, cell: str, system: str, ratios: Sequence[Ratio]) -> None:
        """See `Observer`."""

    def said(self, text: str) -> None:
        """See `Observer`."""

    def finished(self, state: str) -> None:
        """See `Observer`."""
