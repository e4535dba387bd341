"""A run as data frames: one line per measured value, one per request, one per gap."""

from __future__ import annotations

import pandas as pd

from vllama.bench.measure import METRICS
from vllama.bench.pairing import values
from vllama.bench.results import Run
from vllama.bench.stats import relative_spread

VALUE_COLUMNS = (
    "cell",
    "scenario",
    "concurrency",
    "block",
    "place",
    "slot",
    "system",
    "metric",
    "unit",
    "better",
    "value",
)


def values_frame(run: Run) -> pd.DataFrame:
    """One line per slot and metric that it has; slots that leave the statistics are left out here too."""
    lines = []
    for cell in run.cells:
        for system in run.systems:
            slots = run.of(cell, system)
            for metric in METRICS.values():
                for block, value in values(run, cell, system, metric).items():
                    slot = slots[block]
                    where = (cell, slot.scenario, slot.concurrency, block, slot.place, slot.index, system)
                    lines.append((*where, metric.key, metric.unit, metric.better, value))
    return pd.DataFrame(lines, columns=list(VALUE_COLUMNS))


REQUEST_FIELDS = (
    *("index", "role", "prompt_sha", "t_sched", "t_sent", "t_headers", "t_first_event", "t_end", "status", "reused"),
    *("n_prompt", "n_cached", "n_out", "source", "finish", "outcome", "received", "error"),
)


def requests_frame(run: Run) -> pd.DataFrame:
    """One line per request, failed ones too. Times in ns since the slot's start; -1 did not happen or was not said."""
    lines = []
    for slot in run.slots:
        for sample in run.samples.get(slot.index, []):
            first, last = (sample.texts[0], sample.texts[-1]) if sample.texts else (-1, -1)
            where = (slot.index, slot.cell, slot.block, slot.place, slot.system)
            what = (getattr(sample, name) for name in REQUEST_FIELDS)
            lines.append((*where, *what, first, last, len(sample.texts)))
    head = ["slot", "cell", "block", "place", "system", *REQUEST_FIELDS, "t_first_text", "t_last_text", "texts"]
    return pd.DataFrame(lines, columns=head)


def summary_frame(run: Run) -> pd.DataFrame:
    """Per cell, metric and system: median over the slots, their relative spread, and how many there are."""
    frame = values_frame(run)
    grouped = frame.groupby(["cell", "metric", "system"], sort=False)["value"]
    found = grouped.agg(median="median", spread=lambda column: relative_spread(list(column)), slots="count")
    return found.reset_index()


def details(run: Run) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table with everything: metrics down, systems across."""
    frame = summary_frame(run)
    head = ["cell", "metric", *run.systems]
    if frame.empty:
        return head, []
    digits = frame["metric"].map(lambda key: METRICS[key].digits)
    frame["shown"] = [
        f"{middle:.{places}f} ±{wide:.1%}"
        for middle, places, wide in zip(frame["median"], digits, frame["spread"], strict=True)
    ]
    wide = frame.pivot(index=["cell", "metric"], columns="system", values="shown")
    order = [(cell, key) for cell in run.cells for key in METRICS if (cell, key) in wide.index]
    wide = wide.reindex(index=pd.MultiIndex.from_tuples(order, names=["cell", "metric"]), columns=run.systems)
    rows = []
    for (cell, key), shown in zip(order, wide.to_numpy().tolist(), strict=True):
        metric = METRICS[key]
        rows.append(
            [cell, f"{metric.title}, {metric.unit}", *(cell if isinstance(cell, str) else "–" for cell in shown)]
        )
    return head, rows
