"""`report`: write the pages of results again, or say whether they are current."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.bench.report import claims_of, is_current, with_summary, write
from vllama.bench.results import read_run
from vllama.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `report`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder below results/")
    parser.add_argument("--readme", type=Path, help="also replace the results in this page by those of the last run")
    parser.add_argument("--check", action="store_true", help="only say whether they are current")
    parser.add_argument("--out", type=Path, help="write into this folder instead of reports/")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """0 written or current, 1 a page is not what the records say."""
    reports = args.out or root / "reports"
    claims = claims_of(root)
    stale = []
    runs = [read_run(folder) for folder in args.runs]
    for run in runs:
        if not args.check:
            say(str(write(run, reports, claims)))
        elif not is_current(run, reports, claims):
            stale.append(run.name)
    if args.readme is not None:
        text = args.readme.read_text(encoding="utf-8")
        try:
            new = with_summary(text, runs[-1])
        except ValueError as error:
            raise ConfigError(f"{args.readme}: {error}") from error
        if not args.check:
            args.readme.write_text(new, encoding="utf-8")
        elif new != text:
            stale.append(args.readme.name)
    if stale:
        say(f"not current: {', '.join(stale)}")
        return EXIT_MISSED
    return EXIT_OK
