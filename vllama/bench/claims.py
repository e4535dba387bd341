"""Claims: every one that was made has an id in scenarios/claims.toml and a verdict computed from a result.

`holds here`, `does not hold here`, or `cannot be tested here` with the reason and the command for the owner of a
machine that can. A claim holds when the estimate reaches it and the bound towards it is within the run's own floor of
it, the interval of the control against itself. What is reached by the estimate alone is not shown, and does not hold.

`--write` puts the table between two markers of a page; `--check` compiles it again and compares, so a number that was
edited, or an id that was removed, is found.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vllama.bench import stats
from vllama.bench.checks import judge_all
from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.bench.measure import METRICS, Metric
from vllama.bench.pairing import paired, values
from vllama.bench.results import Run, Sample, Slot, read_run
from vllama.bench.tables import keyed, read_toml
from vllama.errors import ConfigError

BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"

MIN_PAIRS = 8

Word = Literal["does not hold here", "holds here", "cannot be tested here"]

WORDS: tuple[Word, ...] = ("does not hold here", "holds here", "cannot be tested here")
"""In the order of the table: losses stand first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim; scenarios/claims.toml explains the keys. `expected` and `upper` are ratios or in the metric's unit."""

    id: str
    said: str
    cells: tuple[str, ...]
    metric: str
    how: str
    system: str
    expect: str
    expected: float
    command: str
    by: str = "claim"
    against: str = ""
    base: tuple[str, ...] = ()
    within: float = 0.0
    upper: float = 0.0
    os: str = ""
    machine: str = ""
    other_file: bool = False

    @property
    def accepted(self) -> tuple[float, float]:
        """The values with which the claim is true."""
        if self.expect == "at least":
            return self.expected, math.inf
        if self.expect == "at most":
            return -math.inf, self.expected
        if self.expect == "between":
            return self.expected, self.upper
        return self.expected * (1 - self.within), self.expected * (1 + self.within)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`estimate` is on the claim's own scale (ratio, difference or value); None where nothing could be tested."""

    claim: Claim
    word: Word
    reason: str
    cell: str = ""
    estimate: stats.Bounds | None = None


def _together(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The most streams that were between their first and their last text at one time."""
    edges = sorted([(s.texts[0], 1) for s in samples if s.ok] + [(s.texts[-1] + 1, -1) for s in samples if s.ok])
    running = most = 0
    for _, change in edges:
        running += change
        most = max(most, running)
    return float(most) or None


EXTRA = {
    "together": Metric(
        "together", "streams at once", "streams", "higher", 0,
        "the most streams that were between their first and their last text at one time", _together,
    )
}  # fmt: skip


def metric_of(claim: Claim) -> Metric:
    """The metric of a claim: those of the report, and one that only a claim needs."""
    return METRICS.get(claim.metric) or EXTRA[claim.metric]


def read_claims(path: Path) -> list[Claim]:
    """The file of claims. Raises `ConfigError` naming the claim and the key."""
    raw = read_toml(path)
    if set(raw) != {"claim"}:
        raise ConfigError(f"{path.name}: needs [[claim]] tables and nothing else")
    claims = []
    for number, table in enumerate(raw["claim"], start=1):
        where = f"{path.name} {table.get('id', f'claim {number}')}"
        lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
        claims.append(Claim(**keyed(Claim, {**table, **lists}, where)))
        _check(claims[-1], where)
    if len({claim.id for claim in claims}) != len(claims):
        raise ConfigError(f"{path.name}: two claims with the same id")
    return claims


def _check(claim: Claim, where: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", claim.id):
        raise ConfigError(f"{where}: an id is lower case letters, digits, dots and hyphens")
    if claim.metric not in {**METRICS, **EXTRA}:
        raise ConfigError(f"{where}: unknown metric {claim.metric!r}")
    if claim.how not in ("ratio", "difference", "scaling", "value"):
        raise ConfigError(f"{where}: how must be ratio, difference, scaling or value")
    if claim.expect not in ("at least", "at most", "about", "between"):
        raise ConfigError(f"{where}: expect must be at least, at most, about or between")
    if (claim.how in ("ratio", "difference")) != bool(claim.against) or (claim.how == "scaling") != bool(claim.base):
        raise ConfigError(f"{where}: ratio and difference need against, scaling needs base, and nothing else does")
    if not claim.cells or claim.accepted[0] > claim.accepted[1] or (claim.expect == "about" and not claim.within):
        raise ConfigError(f"{where}: needs cells, and for about or between a range of accepted values")


def judge(claim: Claim, run: Run) -> Verdict:
    """The verdict of a run on a claim."""
    machine = run.environment["machine"]
    for name, wanted, found in (
        ("system", claim.os, machine.get("os", "")),
        ("processor", claim.machine, machine.get("machine", "")),
    ):
        if wanted and wanted != found:
            return Verdict(claim, WORDS[2], f"needs the {name} {wanted}, this is {found}")
    for key in filter(None, (claim.system, claim.against)):
        if key not in run.systems:
            why = run.environment["missing"].get(key, "not part of this run")
            return Verdict(claim, WORDS[2], f"{key}: {' '.join(why.split())[:160]}")
    cell = next((cell for cell in claim.cells if cell in run.cells), None)
    base = next((cell for cell in claim.base if cell in run.cells), None)
    if cell is None or (claim.base and base is None):
        return Verdict(claim, WORDS[2], f"this run has no {' or '.join(claim.base if cell else claim.cells)}")
    if bad := _failed_checks(claim, run):
        return Verdict(claim, WORDS[2], f"validity checks failed: {', '.join(bad)}", cell)
    samples = _samples(claim, run, cell, base or cell)
    if len(samples) < MIN_PAIRS:
        return Verdict(claim, WORDS[2], _too_few(claim, samples), cell)
    return _compare(claim, run, cell, samples)


def _too_few(claim: Claim, samples: Sequence[float]) -> str:
    """The estimate stands there all the same: a bad one must not hide behind a missing pair."""
    needed = f"{len(samples)} pairs, {MIN_PAIRS} are needed"
    if not samples:
        return needed
    value = stats.hodges_lehmann(samples)
    metric = metric_of(claim)
    if claim.how in ("ratio", "scaling"):
        return f"{needed}; so far {math.exp(value):.3f}"
    return f"{needed}; so far {value:{'+' if claim.how == 'difference' else ''}.{metric.digits}f} {metric.unit}"


def _compare(claim: Claim, run: Run, cell: str, samples: Sequence[float]) -> Verdict:
    """Estimate and two-sided bounds, on the scale on which they are additive, against the accepted range."""
    found = stats.bounds(samples, (1 - float(run.plan["confidence"])) / 2)
    is_log = claim.how in ("ratio", "scaling")
    floor = _floor(claim, run, cell)
    low, high = (_scale(limit, is_log) for limit in claim.accepted)
    above = stats.reaches(found.value, found.low, low, floor)
    below = stats.reaches(-found.value, None if found.high is None else -found.high, -high, floor)
    shown = found
    if is_log:
        low_bound, high_bound = (None if b is None else math.exp(b) for b in (found.low, found.high))
        shown = stats.Bounds(math.exp(found.value), low_bound, high_bound, found.p_above, found.n)
    if above is False or below is False:
        return Verdict(claim, WORDS[0], "", cell, shown)
    if above is None or below is None:
        return Verdict(claim, WORDS[0], "not shown: the estimate is within, the interval is not", cell, shown)
    return Verdict(claim, WORDS[1], "", cell, shown)


def _scale(limit: float, is_log: bool) -> float:
    if not is_log or math.isinf(limit):
        return limit
    return math.log(limit)


def _samples(claim: Claim, run: Run, cell: str, base: str) -> list[float]:
    metric = metric_of(claim)
    if claim.how == "value":
        return list(values(run, cell, claim.system, metric).values())
    ours, theirs = paired(run, metric, (cell, claim.system), (base, claim.against or claim.system))
    if claim.how == "difference":
        return [a - b for a, b in zip(ours, theirs, strict=True)]
    return [math.log(a / b) for a, b in zip(ours, theirs, strict=True) if a > 0 and b > 0]


def _floor(claim: Claim, run: Run, cell: str) -> float:
    """How far the control's twin may lie from the control in this run; 0 without a twin, which makes a claim harder."""
    control = str(run.plan["control"])
    if claim.how == "value" or f"{control}-twin" not in run.systems:
        return 0.0
    twin, same = paired(run, metric_of(claim), (cell, f"{control}-twin"), (cell, control))
    if claim.how == "difference":
        differences = [a - b for a, b in zip(twin, same, strict=True)]
    else:
        differences = [math.log(a / b) for a, b in zip(twin, same, strict=True) if a > 0 and b > 0]
    return stats.farthest(differences, float(run.plan["confidence"])) or 0.0


def _failed_checks(claim: Claim, run: Run) -> list[str]:
    # What is wrong with the control is wrong with the floor.
    concerned = {"", claim.system, claim.against or claim.system, str(run.plan["control"])}
    return [
        f"{check}{f' ({key})' if key else ''}"
        for check, by_system in judge_all(run).items()
        if not (check == "W1" and claim.other_file)
        for key, verdict in by_system.items()
        if verdict.ok is False and key in concerned
    ]


def judge_claims(claims: Sequence[Claim], run: Run) -> list[Verdict]:
    """All verdicts, losses first, in the order of the file within each word."""
    found = [judge(claim, run) for claim in claims]
    return [verdict for word in WORDS for verdict in found if verdict.word == word]


def block(verdicts: Sequence[Verdict], run: Run) -> str:
    """The table as Markdown, with the markers."""
    counts = ", ".join(f"{sum(v.word == word for v in verdicts)} {word}" for word in WORDS)
    lines = [
        BEGIN,
        f"Run `{run.name}`: {counts}. Verdicts are about this machine, this model and this load; "
        "[how they are reached](docs/claims.md).",
        "",
        "| id | what was said | verdict | measured, or what it takes |",
        "| --- | --- | --- | --- |",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row(verdict)) + " |" for verdict in verdicts]
    return "\n".join([*lines, END])


def row(verdict: Verdict) -> tuple[str, str, str, str]:
    """Id, what was said, verdict, and what was measured or what it takes; texts may use `code` and **bold**."""
    claim = verdict.claim
    said = f"Goal: {claim.said}" if claim.by == "goal" else claim.said
    return f"`{claim.id}`", said, _bold(verdict.word), found_text(verdict)


def _bold(word: Word) -> str:
    return f"**{word}**" if word == WORDS[0] else word


def found_text(verdict: Verdict) -> str:
    """What was measured for a claim, or why nothing was and what it takes."""
    claim = verdict.claim
    if verdict.word == WORDS[2]:
        return f"{verdict.reason}; `{claim.command}`"
    assert verdict.estimate is not None
    found, metric = verdict.estimate, metric_of(claim)
    sign = "+" if claim.how == "difference" else ""
    digits, unit = (metric.digits, f" {metric.unit}") if claim.how in ("difference", "value") else (3, "")
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    against = {
        "ratio": f"{claim.system} ÷ {claim.against}",
        "difference": f"{claim.system} − {claim.against}",
        "scaling": f"{claim.system} against one reader",
        "value": claim.system,
    }[claim.how]
    text = f"{metric.title} at {verdict.cell}, {against}: {found.value:{sign}.{digits}f}{unit}{interval}, n = {found.n}"
    return text + (f"; {verdict.reason}" if verdict.reason else "")


def compiled(page: str, claims: Sequence[Claim], run: Run) -> str:
    """The page with both generated blocks as the run says: the results (where the page has them) and the claims.

    Raises `ConfigError` without the markers of the claims.
    """
    from vllama.bench.report import BEGIN as RESULTS
    from vllama.bench.report import with_summary

    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ConfigError(f"the page needs {BEGIN} and {END}, once each")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    page = f"{before}{block(judge_claims(claims, run), run)}{after}"
    return with_summary(page, run) if RESULTS in page else page


def named_run(page: str) -> str | None:
    """The run that the block of claims names."""
    found = re.search(r"Run `([^`]+)`", page.partition(BEGIN)[2].partition(END)[0])
    return found[1] if found else None


def differences(page: str, wanted: str, claims: Sequence[Claim]) -> list[str]:
    """What is wrong with a page, for a person: ids that are missing, then the first lines that differ."""
    shown = page.partition(BEGIN)[2].partition(END)[0]
    wrong = [f"the claim {claim.id} is missing" for claim in claims if f"| `{claim.id}` |" not in shown]
    have, want = page.splitlines(), wanted.splitlines()
    changed = [number for number, (a, b) in enumerate(zip(have, want, strict=False), start=1) if a != b]
    if changed:
        wrong.append(f"line {changed[0]} is not what the result says: {have[changed[0] - 1][:120]}")
    elif len(have) != len(want):
        wrong.append(f"{len(have)} lines, the result makes {len(want)}")
    return wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `claims`."""
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the verdicts and the results into a page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="say whether a page is what its result says")
    parser.add_argument("--run", type=Path, help="a result folder; default: the newest, or the one that the page names")
    parser.add_argument("--claims", type=Path, help="default: scenarios/claims.toml")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Print, write or check the verdicts; 1 if a page is not what its result says."""
    claims = read_claims(args.claims or root / "scenarios" / "claims.toml")
    if args.write and args.check:
        raise ConfigError("--write or --check, not both")
    if not args.check:
        run = read_run(args.run or newest(root / "results"))
        if not args.write:
            say(block(judge_claims(claims, run), run))
            return EXIT_OK
        args.write.write_text(compiled(_read(args.write), claims, run), encoding="utf-8")
        say(f"{args.write.name}: claims and results of {run.name}")
        return EXIT_OK
    page = _read(args.check)
    name = named_run(page)
    if name is None and args.run is None:
        say(f"{args.check.name} shows no claims: vllama bench claims --write {args.check.name}")
        return EXIT_MISSED
    run = read_run(args.run or root / "results" / str(name))
    wanted = compiled(page, claims, run)
    if wanted == page:
        return EXIT_OK
    for line in differences(page, wanted, claims):
        say(f"{args.check.name}: {line}")
    return EXIT_MISSED


def newest(results: Path) -> Path:
    """The newest complete run. Raises `ConfigError` without one."""
    for folder in sorted((f for f in results.glob("*") if (f / "plan.json").is_file()), reverse=True):
        if read_run(folder).environment.get("state") == "complete":
            return folder
    raise ConfigError(f"no complete run in {results}: nox -s bench")


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {page}: {error.strerror}") from error
