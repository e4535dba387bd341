"""Which slots are compared with which: the values of a system in a cell, block by block, and paired by block."""

from __future__ import annotations

from vllama.bench.measure import Metric
from vllama.bench.results import Run


def values(run: Run, cell: str, system: str, metric: Metric) -> dict[int, float]:
    """Block -> the slot's value.

    Slots with a failed request or an answer of another length are left out; checks A2 and L1 count them.
    """
    found = {}
    for block, slot in run.of(cell, system).items():
        samples = run.samples.get(slot.index, [])
        if not slot.counts(samples):
            continue
        value = metric.of(slot, samples)
        if value is not None:
            found[block] = value
    return found


def paired(run: Run, metric: Metric, ours: tuple[str, str], base: tuple[str, str]) -> tuple[list[float], list[float]]:
    """The values of two (cell, system) in the blocks that have both."""
    a = values(run, *ours, metric)
    b = values(run, *base, metric)
    blocks = sorted(set(a) & set(b))
    return [a[block] for block in blocks], [b[block] for block in blocks]
