"""What a report says about a run, as numbers: ratios and losses. Pure functions of the records."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from vllama.bench.measure import METRICS, Metric
from vllama.bench.pairing import paired, values
from vllama.bench.results import Run
from vllama.bench.stats import Estimate, paired_location, paired_ratio, relative_spread

SUBJECT = "vllama"

RATES = ("decode", "aggregate", "steady")
"""What we can be behind the ceiling in: there is no server and no socket in front of it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A cell and metric where the estimate says that ours is worse. `certain` None: too few pairs for an interval.

    `estimate` is ours over theirs, or ours - theirs (`is_difference`) where a value is 0: lost requests have no ratio.
    """

    cell: str
    metric: Metric
    system: str
    estimate: Estimate
    certain: bool | None
    is_difference: bool = False

    @property
    def factor(self) -> float:
        """How many times worse, above 1; infinite for a difference."""
        if self.is_difference:
            return math.inf
        return 1 / self.estimate.value if self.metric.better == "higher" else self.estimate.value

    @property
    def shown(self) -> str:
        """For a table's cell."""
        if not self.is_difference:
            return short(self.estimate)
        found, unit = self.estimate, self.metric.unit
        bounds = f" [{found.low:+.1f}, {found.high:+.1f}]" if found.low is not None else f" (n = {found.n})"
        return f"{found.value:+.1f} {unit}{bounds}"


def title(run: Run, system: str) -> str:
    """The system's name for people."""
    return str(run.environment["systems"].get(system, {}).get("title", system))


def is_ceiling(run: Run, system: str) -> bool:
    """Whether it is the raw engine without a server."""
    return bool(run.environment["systems"].get(system, {}).get("ceiling"))


def is_twin(run: Run, system: str) -> bool:
    """Whether it is the control a second time."""
    return system == f"{run.plan['control']}-twin"


def others(run: Run) -> list[str]:
    """All systems but the control, ours first."""
    rest = [system for system in run.systems if system not in (SUBJECT, run.plan["control"])]
    return [SUBJECT, *rest] if SUBJECT in run.systems else rest


def ratio(run: Run, cell: str, system: str, metric: Metric) -> Estimate | None:
    """`system` over the control, or None without a common block."""
    return ratio_of(run, metric, (cell, system), (cell, run.plan["control"]))


def ratio_of(run: Run, metric: Metric, ours: tuple[str, str], base: tuple[str, str]) -> Estimate | None:
    """One (cell, system) over another in the blocks that have both, or None."""
    above, below = paired(run, metric, ours, base)
    # A buffered stream has gaps of 0: no ratio then, and check T2 says why.
    if not above or min(*above, *below) <= 0:
        return None
    return paired_ratio(above, below, run.plan["confidence"])


SPECIAL = (
    *(
        "prefill",
        "ttft_cold",
        "ttft_warm",
        "ttft_turn1",
        "ttft_turns",
        "victim_gap",
        "joiner",
        "sched_ttft",
        "sched_e2e",
    ),
    *("refused", "lost", "recover", "cancel_tokens", "cancel_free", "cold", "load", "expiry", "ctx_change", "embed"),
    *("valid", "idle_cpu"),
)
"""Metrics that only their own kind of scenario has: a cell that has one is about it and not about the usual ones."""


def headline(run: Run) -> list[tuple[str, Metric]]:
    """(cell, metric) of the first table: what each kind of cell is for."""
    found = []
    for cell in run.cells:
        first = next(slot for slot in run.slots if slot.cell == cell)
        usual = ["ttft", "decode", "aggregate", "e2e"] if first.concurrency == 1 else ["ttft", "aggregate"]
        special = [key for key in SPECIAL if _has(run, cell, key)]
        keys = special or (usual if first.stream else ["e2e"])
        goodput = ["goodput"] if first.slo else []
        memory = ["pss"] if first.kind == "idle" else []
        found += [(cell, METRICS[key]) for key in [*keys, *goodput, *memory] if _has(run, cell, key)]
    return found


def _has(run: Run, cell: str, key: str) -> bool:
    return key in METRICS and any(values(run, cell, system, METRICS[key]) for system in run.systems)


def measured(run: Run) -> list[Metric]:
    """The metrics that the run has a value of."""
    return [metric for key, metric in METRICS.items() if any(_has(run, cell, key) for cell in run.cells)]


def comparable(run: Run, system: str, metric: Metric) -> bool:
    """Whether a ratio in this metric means something: the ceiling's first token is another thing than a first text."""
    return not is_ceiling(run, system) or metric.key != "ttft"


def losses(run: Run) -> list[Loss]:
    """Every cell, metric and system where ours is worse, the certain ones first, the worst of them first."""
    if SUBJECT not in run.systems:
        return []
    found = list(_losses(run))
    return sorted(found, key=lambda loss: (loss.certain is not True, loss.certain is not None, -loss.factor))


def _losses(run: Run) -> Iterator[Loss]:
    for system in run.systems:
        if system == SUBJECT or is_twin(run, system):
            continue
        for cell in run.cells:
            for metric in METRICS.values():
                # Time per token is decode upside down; one of them is enough.
                if metric.key == "tpot" or (is_ceiling(run, system) and metric.key not in RATES):
                    continue
                if (loss := _loss(run, cell, metric, system)) is not None:
                    yield loss


def _loss(run: Run, cell: str, metric: Metric, system: str) -> Loss | None:
    ours, theirs = paired(run, metric, (cell, SUBJECT), (cell, system))
    if not ours:
        return None
    is_difference = min(*ours, *theirs) <= 0
    if is_difference:
        found, same = paired_location([a - b for a, b in zip(ours, theirs, strict=True)], run.plan["confidence"]), 0.0
    else:
        found, same = paired_ratio(ours, theirs, run.plan["confidence"]), 1.0
    if not (found.value < same if metric.better == "higher" else found.value > same):
        return None
    certain = None
    if found.low is not None and found.high is not None:
        certain = not found.low <= same <= found.high
    return Loss(cell, metric, system, found, certain, is_difference)


def interval(found: Estimate) -> str:
    """The interval in words, with its confidence; the range where there are too few pairs."""
    if found.low is None or found.high is None:
        low, high = min(found.values), max(found.values)
        return f"(range {low:.3f} to {high:.3f}, n = {found.n}: too few pairs for an interval)"
    return f"[{found.low:.3f}, {found.high:.3f}] ({found.confidence:.0%} interval, n = {found.n} pairs)"


def short(found: Estimate | None) -> str:
    """For a table's cell; ~ means that the interval contains 1."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.3f} (n = {found.n})"
    mark = "" if found.excludes_one else " ~"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]{mark}"


def spread(run: Run, cell: str, system: str, metric: Metric) -> str:
    """Median over the slots and their spread."""
    found = list(values(run, cell, system, metric).values())
    if not found:
        return "–"
    middle = f"{median(found):.{metric.digits}f}"
    # One slot has no spread, and "±0.0 %" would say that it is exact.
    return f"{middle} ±{relative_spread(found):.1%}" if len(found) > 1 else middle
