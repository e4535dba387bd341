"""`export`: the numbers of a run for other programs. CSV for tables, benchstat's text for an independent verdict.

benchstat (golang.org/x/perf) reads Go's benchmark format: one line per measurement, `BenchmarkName 1 VALUE UNIT ...`.
Each slot gives one line. The system stands in the configuration line `system: KEY`, so that

    benchstat -col system results.txt

puts systems side by side and computes its own medians, intervals and p-values from the same slots. It compares two sets
and knows no pairs, so its intervals are wider than ours; what it calls a difference must not contradict what we say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from vllama.bench.exits import EXIT_OK
from vllama.bench.measure import METRICS, Metric
from vllama.bench.pairing import values
from vllama.bench.results import Run, read_run
from vllama.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `export`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder below results/")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--csv", action="store_true", help="one line per slot and metric")
    form.add_argument("--requests", action="store_true", help="CSV with one line per request")
    form.add_argument("--benchstat", action="store_true", help="text for golang.org/x/perf/cmd/benchstat")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to standard output")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Write the text; 0, or ConfigError for a folder without records."""
    run = read_run(args.run)
    if not run.slots:
        raise ConfigError(f"{args.run} has no finished slot")
    text = benchstat(run) if args.benchstat else requests_csv(run) if args.requests else csv(run)
    if args.out is None:
        sys.stdout.write(text)
    else:
        args.out.write_text(text, encoding="utf-8")
        say(str(args.out))
    return EXIT_OK


def csv(run: Run) -> str:
    """Every value of every slot that is in the statistics, with the unit and which way is better."""
    from vllama.bench.report.frames import values_frame

    return values_frame(run).to_csv(index=False, lineterminator="\n")


def requests_csv(run: Run) -> str:
    """Every request, failed ones too; times in ns since the slot's start."""
    from vllama.bench.report.frames import requests_frame

    return requests_frame(run).to_csv(index=False, lineterminator="\n")


def benchstat(run: Run) -> str:
    """The same as text for benchstat; names and units in the characters that it takes."""
    machine = run.environment["machine"]
    lines = [
        f"# run {run.name}; compare with: benchstat -col system FILE",
        f"goos: {machine['os'].lower()}",
        f"cpu: {machine['cpu']}",
        f"model: {run.environment['model']['file']}",
    ]
    used = [metric for metric in METRICS.values() if _cells_with(run, metric)]
    lines += [f"Unit {unit(metric)} better={metric.better}" for metric in used]
    # benchstat takes the first column for the base of its comparisons.
    control = str(run.plan["control"])
    for system in sorted(run.systems, key=lambda system: system != control):
        lines += ["", f"system: {system}"]
        for cell in run.cells:
            by_metric = [(metric, values(run, cell, system, metric)) for metric in used]
            for block in sorted({block for _, found in by_metric for block in found}):
                numbers = [f"{found[block]:.9g} {unit(metric)}" for metric, found in by_metric if block in found]
                lines.append(f"Benchmark{_name(cell)} 1 {' '.join(numbers)}")
    return "\n".join(lines) + "\n"


def _cells_with(run: Run, metric: Metric) -> bool:
    return any(values(run, cell, system, metric) for cell in run.cells for system in run.systems)


def unit(metric: Metric) -> str:
    """One word: the metric's key and its unit, as in "ttft-ms". benchstat takes the end of a unit for its meaning."""
    word = re.sub(r"[^A-Za-z0-9/]+", "-", metric.unit).strip("-")
    return f"{metric.key}-{word}" if word else metric.key


def _name(cell: str) -> str:
    """A name as in Go: "concurrent/c8" becomes "Concurrent/c=8", so that benchstat can filter and group by c."""
    scenario, _, concurrency = cell.rpartition("/c")
    words = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", scenario))
    return f"{words}/c={concurrency}"
