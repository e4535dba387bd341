"""From raw records to numbers. One slot gives one value per metric; the slot is the unit of every statistic.

The definitions are printed in every report (`DEFINITIONS`), because tools disagree about these words.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from vllama.bench.results import Sample, Slot
from vllama.bench.stats import quantile


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a slot has, or None where it does not apply. `digits` after the point when printed."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    definition: str
    of: Callable[[Slot, Sequence[Sample]], float | None]


def _usable(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.ok and sample.n_out > 0]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def ttft_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests; None without streaming."""
    if not slot.stream:
        return None
    return _median([(sample.texts[0] - sample.t_sent) / 1e6 for sample in _usable(samples)])


def decode_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests; None without streaming."""
    if not slot.stream:
        return None
    rates = [
        (sample.n_out - 1) / ((sample.texts[-1] - sample.texts[0]) / 1e9)
        for sample in _usable(samples)
        if sample.n_out > 1 and sample.texts[-1] > sample.texts[0]
    ]
    return _median(rates)


def e2e_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests."""
    return _median([(sample.t_end - sample.t_sent) / 1e6 for sample in _usable(samples)])


def aggregate_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Whole slot, prefill included."""
    usable = _usable(samples)
    if not usable:
        return None
    span = max(sample.t_end for sample in usable) - min(sample.t_sent for sample in usable)
    return sum(sample.n_out for sample in usable) / (span / 1e9) if span > 0 else None


def steady_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Only while all streams produce text; a request's tokens are spread evenly over its text time."""
    usable = [s for s in _usable(samples) if len(s.texts) > 1]
    if not slot.stream or len(usable) < slot.concurrency:
        return None
    edges = sorted([(s.texts[0], 1) for s in usable] + [(s.texts[-1], -1) for s in usable])
    running, full = 0, []
    for time, change in edges:
        running += change
        if running >= slot.concurrency or (change < 0 and running == slot.concurrency - 1):
            full.append(time)
    if len(full) < 2 or full[-1] <= full[0]:
        return None
    start, end = full[0], full[-1]
    tokens = sum(
        s.n_out * max(0, min(end, s.texts[-1]) - max(start, s.texts[0])) / (s.texts[-1] - s.texts[0])
        for s in usable
        if s.texts[-1] > s.texts[0]
    )
    return tokens / ((end - start) / 1e9)


def gaps_ns(samples: Sequence[Sample]) -> list[int]:
    """All gaps between neighbouring events with text."""
    return [later - earlier for sample in _usable(samples) for earlier, later in itertools.pairwise(sample.texts)]


def gap_p50_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median gap; None without streaming."""
    gaps = gaps_ns(samples) if slot.stream else []
    return median(gaps) / 1e6 if gaps else None


def gap_p95_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """95th percentile of the gaps, if at least five lie beyond it."""
    found = quantile([float(gap) for gap in gaps_ns(samples)], 0.95) if slot.stream else None
    return None if found is None else found / 1e6


def cpu_per_1k(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """CPU-seconds of the whole process tree per 1,000 output tokens."""
    tokens = sum(sample.n_out for sample in _usable(samples))
    return slot.cpu_s / tokens * 1000 if tokens else None


def pss_mib(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Memory of the whole process tree after the slot."""
    return slot.pss / 2**20 if slot.pss else None


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("ttft", "first text", "ms", "lower", 1, "from the last byte of the request handed to the socket to "
               "the first event with non-empty text (thinking counts); median over the slot's requests", ttft_ms),
        Metric("decode", "decode", "tok/s", "higher", 1, "(output tokens - 1) / (last text - first text), the tokens "
               "as the server counts them; median over the slot's requests", decode_tps),
        Metric("aggregate", "aggregate", "tok/s", "higher", 1, "output tokens of all requests / (last end - first "
               "request sent): the whole slot, prefill included", aggregate_tps),
        Metric("steady", "aggregate, steady", "tok/s", "higher", 1, "the same only while all streams produce text, a "
               "request's tokens spread evenly between its first and last text", steady_tps),
        Metric("e2e", "end to end", "ms", "lower", 0, "from sending to the last byte of the response; median over "
               "the slot's requests", e2e_ms),
        Metric("gap50", "gap p50", "ms", "lower", 2, "time between neighbouring events with text (chunks, not "
               "tokens), all requests of the slot", gap_p50_ms),
        Metric("gap95", "gap p95", "ms", "lower", 2, "the same, 95th percentile; n/a with fewer than five gaps "
               "beyond it", gap_p95_ms),
        Metric("cpu", "CPU", "s per 1,000 tok", "lower", 2, "CPU time of the system's whole process tree in the slot "
               "per 1,000 output tokens", cpu_per_1k),
        Metric("pss", "memory", "MiB", "lower", 0, "proportional set size of the whole process tree right after the "
               "slot", pss_mib),
    )
}  # fmt: skip
