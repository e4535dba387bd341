"""`run`: measure a profile and write its report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vllama.bench import estimate
from vllama.bench.checks import failures, judge_all
from vllama.bench.exits import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_OK, EXIT_USAGE
from vllama.bench.loads import lacks
from vllama.bench.observer import Observer
from vllama.bench.plan import Cell, Plan, plan_from_record, read_plan
from vllama.bench.results import Run, read_run
from vllama.bench.run import find, make_setup, model_path, run
from vllama.bench.screening import Screening
from vllama.bench.stats import williams_order
from vllama.errors import ConfigError
from vllama.goduration import parse_duration

Say = Callable[[str], None]

MIN_PAIRS = 8
"""Fewer pairs have no two-sided 99 % interval."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `run`."""
    parser.add_argument("--profile", default="claims", help="of scenarios/profiles.toml (default claims)")
    parser.add_argument("--pairs", type=int, help="slots of each system in each cell")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--systems", help="comma-separated keys instead of the profile's")
    parser.add_argument("--scenarios", help="comma-separated ids instead of the profile's")
    parser.add_argument("--model", help="a GGUF file instead of the profile's")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--asleep", help="what the systems do that are not measured: resident, paused or stopped")
    parser.add_argument("--out", type=Path, help="write below this folder instead of results/ and reports/")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="finish the interrupted run in this folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be measured, for how long, what it shows"
    )
    parser.add_argument("--budget", metavar="30m", help="as many pairs as fit into this time, and stop when it is over")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def main(args: argparse.Namespace, root: Path, say: Say) -> int:
    """Measure, then report.

    0 measured and valid; 2 something that was asked for is missing or broke; 4 measured, but a check failed or a cell
    has no valid slot; 130 interrupted. The records are kept in every case.
    """
    results, reports = (
        (args.out / "results", args.out / "reports") if args.out else (root / "results", root / "reports")
    )
    budget = _seconds(args.budget) if args.budget else 0.0
    plan = _plan(args, root)
    earlier = sorted({*_folders(root / "results"), *_folders(results)})
    if budget and args.resume is None:
        plan = _within(plan, root, earlier, budget, say)
    if args.dry_run:
        describe(plan, root, earlier, say)
        return EXIT_OK
    before = set(results.glob("*"))
    try:
        with _watched(args.plain, say) as observer:
            folder = asyncio.run(
                run(
                    plan,
                    root,
                    results,
                    _silent,
                    observer=observer,
                    resume=args.resume.absolute() if args.resume else None,
                    budget=budget,
                )
            )
    except (KeyboardInterrupt, asyncio.CancelledError):
        left = [args.resume] if args.resume else sorted(set(results.glob("*")) - before)
        say("interrupted; what was measured is kept")
        out, pages = (f" --out {args.out}", f" --out {reports}") if args.out else ("", "")
        for one in left:
            say(f"  go on:  python -m vllama.bench run --resume {one}{out}")
            say(f"  report: python -m vllama.bench report {one}{pages}")
        return EXIT_INTERRUPTED
    measured = read_run(folder)
    return conclude(measured, folder, reports, (args.systems or "").split(","), say)


def conclude(measured: Run, folder: Path, reports: Path, named: Sequence[str], say: Say) -> int:
    """Write the report of a finished run and say what is wrong with it; the exit status of `run`.

    `named` are the systems that were asked for by name: those must be there.
    """
    from vllama.bench import report  # plots and tables are heavy, and no part of measuring

    page = report.write(measured, reports)
    say(f"raw records: {folder}\nreport: {page}")
    problems = list(measured.environment.get("problems", []))
    problems += [f"{key}: {why}" for key, why in measured.environment["missing"].items() if key in named]
    for problem in problems:
        say(f"problem: {problem}")
    empty = without_valid_slot(measured)
    for text in empty:
        say(f"no valid slot: {text}")
    bad = failures(judge_all(measured))
    if bad:
        say(f"invalid comparison: {', '.join(bad)} failed")
    if problems:
        return EXIT_USAGE
    if not measured.environment["model"]["sha256"] and not empty:
        say("there is no model in this plan: it shows that the harness works, and compares nothing")
        return EXIT_OK
    return EXIT_INVALID if bad or empty else EXIT_OK


def without_valid_slot(run: Run) -> list[str]:
    """The cells that a system was measured in without one slot that counts, and the first reason."""
    found = []
    for cell in run.cells:
        for key in run.systems:
            slots = list(run.of(cell, key).values())
            if slots and not any(slot.counts(run.samples.get(slot.index, [])) for slot in slots):
                why = next((slot.error for slot in slots if slot.error), "answers of another length than asked for")
                found.append(f"{key} in {cell}: {why}")
    return found


def describe(plan: Plan, root: Path, earlier: Sequence[Path], say: Say) -> None:
    """What a run would do: systems, order, duration, what it could detect. Starts and writes nothing."""
    say(f"plan {plan.id} (profile {plan.profile}): {plan.title}; {plan.pairs} pairs, seed {plan.seed}")
    cells, missing, unscreened = _outlook(plan, root)
    for key, reason in missing.items():
        say(f"  {key}: not measured, {reason.splitlines()[0]}")
    for number, cell in enumerate(plan.cells):
        scenario = plan.scenario(cell.scenario)
        keys = cells[cell.id]
        say(f"{cell.id}: {scenario.title}; {cell.requests} requests, {cell.n_out} tokens, kind {cell.kind}")
        say(f"  systems: {', '.join(keys) or 'none'}")
        rows = williams_order(keys, plan.pairs, plan.seed + number)
        for block, row in enumerate(rows[:2], 1):
            say(f"  pair {block}: {' > '.join(row)}")
        if len(rows) > 2:
            say(f"  and {len(rows) - 2} more in balanced order")
    long = estimate.duration(plan, cells, earlier, unscreened)
    note = f", {long.screening:.0f} s for screening prompts, once for this model" if unscreened else ""
    say(
        f"about {long.seconds / 60:.0f} minutes ({long.fixed:.0f} s before and after{note}; {long.per_pair:.0f} s a "
        f"pair; {long.measured:.0%} of the slots are known from earlier runs)"
    )
    if plan.pairs < MIN_PAIRS:
        say(f"{plan.pairs} pairs are too few for an interval: {MIN_PAIRS} are needed")
        return
    known = estimate.detectable(plan, earlier)
    for one in known:
        say(
            f"detectable at {estimate.POWER:.0%} power: {one.cell} {one.metric} {one.change:+.1%} "
            f"(noise of the control against itself in {one.origin})"
        )
    if not known:
        say(
            f"detectable at {estimate.POWER:.0%} power: {estimate.assumed(plan):+.1%}, if two equal systems differ by "
            f"{estimate.ASSUMED_NOISE:.0%} in a pair; no earlier run here has the control twice, which would tell"
        )


def _outlook(plan: Plan, root: Path) -> tuple[dict[str, list[str]], dict[str, str], list[Cell]]:
    """Cell -> systems that would be measured; missing systems; the cell of each slot to screen."""
    with tempfile.TemporaryDirectory(prefix="vllama-bench-") as name:
        scratch = Path(name)
        gguf = model_path(plan.model)
        # The digest that the plan names will do: nothing is served.
        setup = make_setup(plan, root, scratch, scratch, gguf, plan.model.sha256)
        systems, missing = find(plan, setup)
        cells = {
            cell.id: [
                key
                for key, system in systems.items()
                if not lacks(system, plan.scenario(cell.scenario), cell) and not system.impossible(cell)
            ]
            for cell in plan.cells
        }
        screening = Screening(plan, setup, _silent)
        screening.read()
        return cells, missing, screening.cells if plan.model.package or plan.model.path else []


def _plan(args: argparse.Namespace, root: Path) -> Plan:
    changes = {
        "pairs": args.pairs,
        "seed": args.seed,
        "systems": args.systems.split(",") if args.systems else None,
        "scenarios": args.scenarios.split(",") if args.scenarios else None,
        "model": {"path": without_home(args.model)} if args.model else None,
        "threads": args.threads,
        "asleep": args.asleep,
    }
    if args.resume is None:
        return read_plan(root / "scenarios", args.profile, changes)
    if given := [f"--{name}" for name, value in changes.items() if value is not None]:
        raise ConfigError(f"{given[0]} cannot change a run that has begun")
    return plan_from_record(read_run(args.resume).plan)


def without_home(path: str) -> str:
    """A path below the home directory with ~ for it: records are published, and names of users are none of them."""
    home, whole = Path.home(), Path(path).absolute()
    return f"~/{whole.relative_to(home)}" if whole.is_relative_to(home) and home != Path(home.anchor) else path


def _within(plan: Plan, root: Path, earlier: Sequence[Path], budget: float, say: Say) -> Plan:
    """The plan with as many pairs as fit. Decided before anything is measured, so it cannot follow the results."""
    cells, _, unscreened = _outlook(plan, root)
    fit = min(plan.pairs, estimate.duration(plan, cells, earlier, unscreened).pairs_within(budget))
    if fit < 1:
        raise ConfigError(f"not one pair fits into {budget / 60:.0f} minutes; see --dry-run")
    if fit < plan.pairs:
        short = f", too few for an interval ({MIN_PAIRS})" if fit < MIN_PAIRS else ""
        say(f"{fit} of {plan.pairs} pairs fit into {budget / 60:.0f} minutes{short}")
    return dataclasses.replace(plan, pairs=fit)


def _seconds(text: str) -> float:
    try:
        found = parse_duration(text) / 1e9
    except ValueError as error:
        raise ConfigError(f"--budget {text}: {error}") from None
    if found <= 0:
        raise ConfigError(f"--budget {text}: must be more than nothing")
    return found


def _folders(results: Path) -> list[Path]:
    return [path for path in results.glob("*") if (path / "plan.json").is_file()]


@contextlib.contextmanager
def _watched(plain: bool, say: Say) -> Iterator[Observer]:
    """The live view on a terminal, lines elsewhere or where that is wanted."""
    from vllama.bench.live import Lines, watch  # rich is slow to import

    if plain:
        yield Lines(say)
        return
    with watch() as observer:
        yield observer


def _silent(text: str) -> None:
    """For what nobody shall read."""


__all__ = ["add_arguments", "conclude", "describe", "main", "without_valid_slot"]
