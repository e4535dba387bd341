"""Two results beside each other: a run against another run of the same plan, or two systems within one run.

Systems of one run are paired in time, so their ratios stand on their own. Two runs are not: the machine may have been
another one that day. Each system is therefore compared through its control, (system / control in B) over (system /
control in A), block by block: the prompts of a block are the same in both, and the day cancels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vllama.bench.checks import failures, judge_all
from vllama.bench.exits import EXIT_INVALID, EXIT_OK
from vllama.bench.measure import METRICS, Metric
from vllama.bench.pairing import paired, values
from vllama.bench.results import Run, read_run
from vllama.bench.stats import Estimate, paired_ratio
from vllama.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Line:
    """One row: medians of both sides, in the metric's unit, and the ratio second / first."""

    cell: str
    metric: Metric
    system: str
    first: float
    second: float
    ratio: Estimate

    @property
    def word(self) -> str:
        """What the interval says: "~" where it holds 1, "n too small" where there is none."""
        if self.ratio.low is None:
            return "n too small"
        if not self.ratio.excludes_one:
            return "~"
        return "better" if (self.ratio.value > 1) == (self.metric.better == "higher") else "worse"


def within(run: Run, system: str, against: str) -> list[Line]:
    """Every cell and metric of two systems of one run: `system` is the second side."""
    for key in (system, against):
        if key not in run.systems:
            raise ConfigError(f"{run.name} did not measure {key}; it has {', '.join(run.systems)}")
    lines = []
    for cell in run.cells:
        for metric in METRICS.values():
            ours, theirs = paired(run, metric, (cell, system), (cell, against))
            if ours and min(*ours, *theirs) > 0:
                ratio = paired_ratio(ours, theirs, run.plan["confidence"])
                lines.append(Line(cell, metric, system, median(theirs), median(ours), ratio))
    return lines


def across(a: Run, b: Run) -> list[Line]:
    """Every system of both runs but the control, through the control; then the control itself, unpaired in time."""
    if why := mismatch(a, b):
        raise ConfigError(f"{a.name} and {b.name} are not comparable: {why}")
    control = str(a.plan["control"])
    lines = []
    systems = [key for key in a.systems if key in b.systems and key != control]
    for cell in [cell for cell in a.cells if cell in b.cells]:
        for metric in METRICS.values():
            for system in systems:
                lines += _through_control(a, b, cell, metric, system, control)
    return lines


def _through_control(a: Run, b: Run, cell: str, metric: Metric, system: str, control: str) -> list[Line]:
    relative = []
    for run in (a, b):
        ours, base = values(run, cell, system, metric), values(run, cell, control, metric)
        relative.append({x: ours[x] / base[x] for x in ours if base.get(x, 0) > 0 and ours[x] > 0})
    blocks = sorted(set(relative[0]) & set(relative[1]))
    if not blocks:
        return []
    first, second = ([side[x] for x in blocks] for side in relative)
    return [
        Line(cell, metric, system, median(first), median(second), paired_ratio(second, first, a.plan["confidence"]))
    ]


def mismatch(a: Run, b: Run) -> str:
    """Why two runs cannot be compared; empty if the same questions went to the same model with as many threads."""
    if a.plan["id"] != b.plan["id"]:
        keys = sorted(key for key in {*a.plan, *b.plan} - {"id", "schema"} if a.plan.get(key) != b.plan.get(key))
        return f"their plans differ in {', '.join(keys)}"
    for name, key in (("model", "model"), ("threads", "threads")):
        if a.environment.get(key) != b.environment.get(key):
            return f"another {name}"
    return ""


def machines(a: Run, b: Run) -> list[str]:
    """What differs between the machines and versions of two runs, for a person."""
    found = [
        f"{key}: {a.environment['machine'].get(key)} / {b.environment['machine'].get(key)}"
        for key in ("cpu", "usable_cores", "os", "kernel", "python", "packages")
        if a.environment["machine"].get(key) != b.environment["machine"].get(key)
    ]
    for key in [key for key in a.systems if key in b.systems]:
        one, two = (run.environment["systems"][key]["version"] for run in (a, b))
        if one != two:
            found.append(f"{key}: {one} / {two}")
    return found


def render(lines: Sequence[Line], head: tuple[str, str, str]) -> str:
    """A Markdown table; `head` names the first side, the second side and their ratio."""
    rows = [
        "| cell | metric | system | " + " | ".join(head) + " | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        found = line.ratio
        interval = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
        shown = [_short(value) for value in (line.first, line.second)]
        rows.append(
            f"| {line.cell} | {line.metric.title} | {line.system} | {shown[0]} | {shown[1]} | "
            f"{found.value:.3f}{interval} n = {found.n} | {line.word} |"
        )
    return "\n".join(rows)


def _short(value: float) -> str:
    """Four significant digits."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `compare`."""
    parser.add_argument("first", type=Path, help="a result folder")
    parser.add_argument("second", type=Path, nargs="?", help="another run of the same plan")
    parser.add_argument("--system", default="vllama", help="with one folder: this system (default vllama) ...")
    parser.add_argument(
        "--against", help="... against this one (default: vllama@base if it was measured, else the control)"
    )


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Print the table; 4 if the runs cannot be compared or a validity check of theirs failed."""
    a = read_run(args.first)
    if args.second is None:
        against = args.against or ("vllama@base" if "vllama@base" in a.systems else str(a.plan["control"]))
        say(f"{a.name}: {args.system} against {against}, paired by block; the ratio is {args.system} ÷ {against}.\n")
        say(render(within(a, args.system, against), (against, args.system, "ratio")))
        return _judge([a], say)
    b = read_run(args.second)
    if why := mismatch(a, b):
        say(f"{a.name} and {b.name} are not comparable: {why}")
        return EXIT_INVALID
    say(
        f"A = {a.name}, B = {b.name}: each number is the system over its own run's {a.plan['control']}; "
        "the ratio is B ÷ A, paired by block (same prompts, not the same time).\n"
    )
    say(render(across(a, b), ("A ÷ control", "B ÷ control", "B ÷ A")))
    if changed := machines(a, b):
        say("\nWhat differs:\n" + "\n".join(f"- {line}" for line in changed))
    return _judge([a, b], say)


def _judge(runs: Sequence[Run], say: Callable[[str], None]) -> int:
    bad = [f"{run.name}: {text}" for run in runs for text in failures(judge_all(run))]
    if bad:
        say("\nvalidity checks failed: " + "; ".join(bad))
        return EXIT_INVALID
    return EXIT_OK
