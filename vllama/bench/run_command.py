"""`run`: measure a profile and write its report."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from vllama.bench import report
from vllama.bench.checks import failures, judge_all
from vllama.bench.exits import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_OK
from vllama.bench.plan import read_plan
from vllama.bench.results import read_run
from vllama.bench.run import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `run`."""
    parser.add_argument("--profile", default="full")
    parser.add_argument("--pairs", type=int, help="slots of each system in each cell")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--systems", help="comma-separated keys instead of the profile's")
    parser.add_argument("--scenarios", help="comma-separated ids instead of the profile's")
    parser.add_argument("--model", help="a GGUF file instead of the profile's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="write below this folder instead of results/ and reports/")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Measure, then report; 0 measured and valid, 4 measured but a check failed, 130 interrupted (records are kept)."""
    overrides = {
        "pairs": args.pairs,
        "seed": args.seed,
        "systems": args.systems.split(",") if args.systems else None,
        "scenarios": args.scenarios.split(",") if args.scenarios else None,
        "model": {"path": args.model} if args.model else None,
        "threads": args.threads,
    }
    plan = read_plan(root / "scenarios", args.profile, overrides)
    results, reports = (
        (args.out / "results", args.out / "reports") if args.out else (root / "results", root / "reports")
    )
    before = set(results.glob(f"*-{plan.id}"))
    try:
        folder = asyncio.run(run(plan, root, results, say))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted; what was measured is kept")
        for left in sorted(set(results.glob(f"*-{plan.id}")) - before):
            say(f"  python -m vllama.bench report {left}")
        return EXIT_INTERRUPTED
    measured = read_run(folder)
    page = report.write(measured, reports)
    bad = failures(judge_all(measured))
    say(f"raw records: {folder}\nreport: {page}")
    if bad:
        say(f"invalid comparison: {', '.join(bad)} failed")
        return EXIT_INVALID
    return EXIT_OK
