"""`python -m vllama.bench`: run, report, overhead, build-llama-server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from vllama.bench import llama_server_build, overhead, report
from vllama.bench.checks import failures, judge_all
from vllama.bench.plan import read_plan
from vllama.bench.results import read_run
from vllama.bench.run import run
from vllama.bench.systems import SystemFailed
from vllama.errors import VllamaError

EXIT_OK, EXIT_MISSED, EXIT_USAGE, EXIT_INVALID, EXIT_INTERRUPTED = 0, 1, 2, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 measured, 1 a budget was missed, 2 usage or a missing thing, 4 invalid comparison.

    130 is for an interrupted run; what it measured is kept.
    """
    parser = argparse.ArgumentParser(prog="vllama.bench", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the clone with scenarios/ (default: here)")
    commands = parser.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("run", help="measure a profile of scenarios/profiles.toml and write its report")
    measure.add_argument("--profile", default="full")
    measure.add_argument("--pairs", type=int, help="slots of each system in each cell")
    measure.add_argument("--seed", type=int)
    measure.add_argument("--systems", help="comma-separated keys instead of the profile's")
    measure.add_argument("--scenarios", help="comma-separated ids instead of the profile's")
    measure.add_argument("--model", help="a GGUF file instead of the profile's")
    measure.add_argument("--threads", type=int)
    measure.add_argument("--out", type=Path, help="write below this folder instead of results/ and reports/")
    again = commands.add_parser("report", help="write the reports of result folders again")
    again.add_argument("runs", nargs="+", type=Path)
    again.add_argument("--readme", type=Path, help="also replace the results in this page by those of the last run")
    again.add_argument("--check", action="store_true", help="only say whether they are current")
    cost = commands.add_parser("overhead", help="CPU time of the gateway above a bare ASGI application")
    overhead.add_arguments(cost)
    commands.add_parser("build-llama-server", help="build the control from llama-cpp-python's sdist into .cache/")
    args = parser.parse_args(argv)
    root = args.root.absolute()
    try:
        if args.command == "run":
            return _run(args, root)
        if args.command == "report":
            return _report(args.runs, root / "reports", args.readme, check=args.check)
        if args.command == "overhead":
            return asyncio.run(overhead.main(args, root, say))
        print(llama_server_build.build(root))
        return EXIT_OK
    except VllamaError as error:
        print(f"error: {error.text}", file=sys.stderr)
        return EXIT_USAGE
    except (SystemFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def _run(args: argparse.Namespace, root: Path) -> int:
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


def _report(folders: Sequence[Path], reports: Path, readme: Path | None, *, check: bool) -> int:
    stale = []
    measured = None
    for folder in folders:
        measured = read_run(folder)
        if not check:
            say(str(report.write(measured, reports)))
        elif not report.is_current(measured, reports):
            stale.append(folder.name)
    if readme is not None and measured is not None:
        text = readme.read_text(encoding="utf-8")
        new = report.with_summary(text, measured)
        if not check:
            readme.write_text(new, encoding="utf-8")
        elif new != text:
            stale.append(readme.name)
    if stale:
        say(f"not current: {', '.join(stale)}")
        return EXIT_MISSED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
