"""What each figure shows, as plain numbers of six digits: whether a page is current can be told without drawing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from statistics import median
from typing import Any

from vllama.bench.measure import METRICS, Metric, gaps_ns
from vllama.bench.pairing import values
from vllama.bench.report.blocks import Figure
from vllama.bench.report.numbers import headline, is_ceiling, others, ratio, title
from vllama.bench.results import Run, Sample, Slot

DELTA = 0.05
"""Half-width of the band in which a difference is called small."""

POINTS = 160
"""A distribution's curve has at most so many points."""

SMALLEST_MS = 0.01
"""Gaps below are drawn here: the axis is logarithmic, and what one read brings has a gap of 0."""


def figures(run: Run) -> dict[str, Figure]:
    """All figures that the run has data for, by id."""
    made = (forest(run), curves(run), first_texts(run), gaps(run), timeline(run), order(run), memory(run))
    return {figure.id: figure for figure in made if figure is not None}


def _six(value: float) -> float:
    """Six digits: enough for any picture, and the same on every machine."""
    return float(f"{value:.6g}")


def _systems(run: Run) -> list[list[str]]:
    """[key, title] of each system: its place here is its colour in every figure."""
    return [[system, title(run, system)] for system in run.systems]


def forest(run: Run) -> Figure | None:
    """Ratios to the control with their intervals, turned so that above 1 is better."""
    labels: list[str] = []
    rows: list[list[Any]] = []
    for cell, metric in headline(run):
        label = f"{cell}  {metric.title}"
        for system in others(run):
            if is_ceiling(run, system):
                continue
            found = ratio(run, cell, system, metric)
            if found is None:
                continue
            low, high = found.low or min(found.values), found.high or max(found.values)
            numbers = [low, found.value, high]
            if metric.better == "lower":
                numbers = [1 / number for number in reversed(numbers)]
            if label not in labels:
                labels.append(label)
            rows.append([labels.index(label), run.systems.index(system), *map(_six, numbers), found.low is not None])
    if not rows:
        return None
    control = title(run, run.plan["control"])
    caption = (
        f"Ratios to {control}, turned so that right of 1 is better than the control, with their "
        f"{run.plan['confidence']:.0%} intervals (thin: the range, too few pairs for an interval). "
        f"Grey: within {DELTA:.0%} of the control."
    )
    data = {"control": control, "delta": DELTA, "systems": _systems(run), "labels": labels, "rows": rows}
    return Figure("forest", "forest", caption, data, beside=True)


def ladder(run: Run) -> list[str]:
    """The streamed cells of one scenario, by concurrency: the scenario with most of them, and its c = 1 from the
    scenario `streaming` where it has none of its own (the same load, measured once)."""
    by_scenario: dict[str, dict[int, str]] = {}
    for slot in run.slots:
        if slot.stream and slot.concurrency > 0:
            by_scenario.setdefault(slot.scenario, {})[slot.concurrency] = slot.cell
    if not by_scenario:
        return []
    steps = dict(by_scenario[max(by_scenario, key=lambda scenario: len(by_scenario[scenario]))])
    if "streaming" in by_scenario:
        for concurrency, cell in by_scenario["streaming"].items():
            steps.setdefault(concurrency, cell)
    return [steps[concurrency] for concurrency in sorted(steps)]


def _concurrency(run: Run, cell: str) -> int:
    return next(slot.concurrency for slot in run.slots if slot.cell == cell)


def curves(run: Run) -> Figure | None:
    """Latency and throughput against the number of streams."""
    cells = ladder(run)
    if len(cells) < 2:
        return None
    panels = []
    for key in ("ttft", "gap50", "decode", "aggregate"):
        metric = METRICS[key]
        lines = []
        for number, system in enumerate(run.systems):
            points = []
            for cell in cells:
                found = sorted(values(run, cell, system, metric).values())
                if found:
                    points.append([_concurrency(run, cell), *map(_six, _quartiles(found))])
            if points:
                lines.append({"system": number, "points": points})
        panels.append({"title": f"{metric.title}, {metric.unit}", "better": metric.better, "lines": lines})
    caption = "Against the number of streams at once: median over the slots, bars from the first to the third quartile."
    return Figure("curves", "curves", caption, {"systems": _systems(run), "panels": panels})


def _quartiles(ascending: Sequence[float]) -> tuple[float, float, float]:
    last = len(ascending) - 1
    return median(ascending), ascending[last // 4], ascending[last - last // 4]


def _good(run: Run, cell: str, system: str) -> list[Sample]:
    return [s for slot in run.of(cell, system).values() for s in run.samples.get(slot.index, []) if s.ok]


def _distribution(found: Sequence[float]) -> list[list[float]]:
    """[value, share at or below it], thinned out evenly in the share; the smallest and the greatest stay."""
    ascending = sorted(found)
    n = len(ascending)
    picked = sorted({round(i * (n - 1) / (POINTS - 1)) for i in range(POINTS)}) if n > POINTS else range(n)
    return [[_six(ascending[i]), _six((i + 1) / n)] for i in picked]


def _ends(cells: list[str]) -> list[str]:
    return cells if len(cells) < 2 else [cells[0], cells[-1]]


def first_texts(run: Run) -> Figure | None:
    """Distribution of the time to first text over all requests, at the lowest and the highest concurrency."""
    return _cdf(
        run,
        "ttft",
        "Time to first text of every single request",
        "ms",
        lambda samples: [(sample.texts[0] - sample.t_sent) / 1e6 for sample in samples],
    )


def gaps(run: Run) -> Figure | None:
    """Distribution of the gaps between chunks, likewise."""
    return _cdf(
        run,
        "gaps",
        "Every single gap between neighbouring chunks with text",
        "ms",
        lambda samples: [max(gap / 1e6, SMALLEST_MS) for gap in gaps_ns(samples)],
    )


def _cdf(run: Run, key: str, what: str, unit: str, numbers: Any) -> Figure | None:
    panels = []
    for cell in _ends(ladder(run)):
        lines = []
        for number, system in enumerate(run.systems):
            found = numbers(_good(run, cell, system))
            if found:
                lines.append({"system": number, "n": len(found), "points": _distribution(found)})
        if lines:
            panels.append({"title": cell, "lines": lines})
    if not panels:
        return None
    caption = f"{what}: share of them at or below the time on the axis (logarithmic)."
    return Figure(f"cdf-{key}", "distributions", caption, {"unit": unit, "systems": _systems(run), "panels": panels})


def timeline(run: Run) -> Figure | None:
    """When each text of one slot came, for every system the slot of the same block: bursts and stalls show."""
    for cell in reversed(ladder(run)):
        having = [system for system in run.systems if any(_whole(run, s) for s in run.of(cell, system).values())]
        blocks = [{block for block, slot in run.of(cell, system).items() if _whole(run, slot)} for system in having]
        common = sorted(set.intersection(*blocks)) if blocks else []
        if not common:
            continue
        block = common[len(common) // 2]
        rows = []
        for system in having:
            samples = run.samples[run.of(cell, system)[block].index]
            streams = [
                [_six(sample.t_sent / 1e6), _six(sample.t_end / 1e6), [_six(t / 1e6) for t in sample.texts]]
                for sample in samples
            ]
            rows.append({"system": run.systems.index(system), "streams": streams})
        caption = (
            f"One slot of {cell} per system, all of pair {block + 1}: a row is a request from sending to its end, "
            "a tick is a text that arrived."
        )
        return Figure("timeline", "timeline", caption, {"systems": _systems(run), "rows": rows})
    return None


def _whole(run: Run, slot: Slot) -> bool:
    samples = run.samples.get(slot.index, [])
    return not slot.error and bool(samples) and all(sample.ok for sample in samples)


def order(run: Run) -> Figure | None:
    """Every slot in the order of the run, as it deviates from its system's median, over the machine's own state."""
    middle: dict[tuple[str, str], float] = {}
    speeds: list[tuple[Slot, float]] = []
    for slot in sorted(run.slots, key=lambda slot: slot.t_start):
        metric: Metric = METRICS["aggregate"]
        value = values(run, slot.cell, slot.system, metric).get(slot.block)
        if value is not None:
            speeds.append((slot, value))
    for key, group in itertools.groupby(
        sorted(speeds, key=lambda pair: (pair[0].cell, pair[0].system)), key=lambda pair: (pair[0].cell, pair[0].system)
    ):
        middle[key] = median(value for _, value in group)
    if not speeds:
        return None
    start = min(slot.t_start for slot in run.slots)
    work = median(slot.control_work_ns for slot in run.slots) or 1
    slots = [
        [_six((s.t_start - start) / 1e9), run.systems.index(s.system), _six(value / middle[(s.cell, s.system)])]
        for s, value in speeds
    ]
    probes = [
        [_six((s.t_start - start) / 1e9), _six(s.control_work_ns / work), s.steal, s.foreign, s.load1]
        for s in sorted(run.slots, key=lambda slot: slot.t_start)
    ]
    caption = (
        "Above: each slot's throughput over the median of its system and cell, in the order of the run. Below: the "
        "machine at that time: a fixed piece of work over its median time, the shares of CPU time that the hypervisor "
        "and other programs took, and the load. What moves all systems moves no ratio: pairs are neighbours."
    )
    return Figure("order", "order", caption, {"systems": _systems(run), "slots": slots, "probes": probes})


def memory(run: Run) -> Figure | None:
    """Memory of each system's whole process tree."""
    bars = []
    for number, system in enumerate(run.systems):
        found = [slot.pss / 2**20 for slot in run.slots if slot.system == system and slot.pss > 0]
        if found:
            bars.append([number, _six(median(found)), _six(max(found))])
    if not bars:
        return None
    caption = (
        "Proportional set size of the whole process tree in MiB: median over the slots; the line marks the greatest."
    )
    return Figure("memory", "memory", caption, {"systems": _systems(run), "bars": bars})
