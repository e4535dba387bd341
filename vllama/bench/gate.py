"""The gate: did a change make vLLama slower? Three answers, decided by rules that were written before the run.

For each gated metric the run gives one log slow-down per block (head against base, in the same block) and, as the
run's own floor, one per block of the control against itself. `decide` is pure and is what the simulation runs.

* BLIND: the floor's interval reaches beyond delta; the run cannot see what it should rule out.
* FAIL: the slow-down is certain (exact signed-rank p-value, Holm over all metrics) and its estimate is above delta.
* PASS: the one-sided upper bound lies below delta. All metrics must, so there is nothing to correct for.
* INCONCLUSIVE: neither. One extension, registered in the policy, pools its pairs; each look has its share of alpha.

A verdict of the first look stands: the extension decides only what was still open.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vllama.bench import stats
from vllama.bench.checks import judge_all
from vllama.bench.exits import EXIT_BLIND, EXIT_INCONCLUSIVE, EXIT_INVALID, EXIT_MISSED, EXIT_OK, EXIT_USAGE
from vllama.bench.measure import METRICS
from vllama.bench.pairing import paired
from vllama.bench.policy import Policy, Rule, read_policy
from vllama.bench.results import Run, read_run
from vllama.errors import ConfigError

Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "BLIND"]


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run says of one rule: log slow-downs per block, of the change and of the control against itself."""

    rule: Rule
    slowdowns: tuple[float, ...]
    floor: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one rule. `bounds` are one-sided at the look's alpha, on the log scale; `look` counts from 1."""

    rule: Rule
    word: Word
    bounds: stats.Bounds | None
    floor: float | None
    look: int
    reason: str
    observed: Observed


def decide(looks: Sequence[Sequence[Observed]], policy: Policy) -> list[Finding]:
    """The verdicts after the first look, or after both; the second look's samples include the first's."""
    found = _look(looks[0], policy, 0)
    if len(looks) > 1:
        second = _look(looks[1], policy, 1)
        found = [a if a.word in ("PASS", "FAIL") else b for a, b in zip(found, second, strict=True)]
    return found


def overall(findings: Sequence[Finding]) -> Word:
    """The worst verdict decides; a regression that is seen outranks what cannot be seen."""
    words = {finding.word for finding in findings}
    order: tuple[Word, ...] = ("FAIL", "BLIND", "INCONCLUSIVE")
    return next((word for word in order if word in words), "PASS")


def _look(observed: Sequence[Observed], policy: Policy, number: int) -> list[Finding]:
    alpha = policy.split[number]
    bounds = [stats.bounds(o.slowdowns, alpha) if o.slowdowns else None for o in observed]
    rejected = stats.holm([1.0 if b is None else b.p_above for b in bounds], alpha)
    return [_judge(o, b, slower, policy, number + 1) for o, b, slower in zip(observed, bounds, rejected, strict=True)]


def _judge(observed: Observed, bounds: stats.Bounds | None, slower: bool, policy: Policy, look: int) -> Finding:
    rule = observed.rule
    delta = math.log1p(rule.delta)
    floor = stats.farthest(observed.floor, policy.floor_confidence)

    def finding(word: Word, reason: str) -> Finding:
        return Finding(rule, word, bounds, floor, look, reason, observed)

    if floor is None:
        return finding("BLIND", f"{len(observed.floor)} pairs of the control with itself: no floor")
    if floor > delta:
        return finding("BLIND", f"the control differs from itself by up to {_percent(floor)}")
    if bounds is None or bounds.n < policy.min_pairs:
        return finding("INCONCLUSIVE", f"{0 if bounds is None else bounds.n} pairs, {policy.min_pairs} are needed")
    if slower and bounds.value > delta:
        return finding("FAIL", f"slower by {_percent(bounds.value)}, p = {bounds.p_above:.2g}")
    if bounds.high is not None and bounds.high < delta:
        return finding("PASS", f"slower by less than {_percent(bounds.high)}")
    return finding("INCONCLUSIVE", "slower, but delta is not shown exceeded" if slower else "the bound exceeds delta")


def slowdowns(run: Run, rule: Rule, system: str, against: str) -> tuple[float, ...]:
    """Log slow-down of `system` per block: positive is worse, whatever the metric's direction."""
    metric = METRICS[rule.metric]
    ours, theirs = paired(run, metric, (rule.cell, system), (rule.cell, against))
    sign = 1.0 if metric.better == "lower" else -1.0
    return tuple(sign * math.log(a / b) for a, b in zip(ours, theirs, strict=True) if a > 0 and b > 0)


def observe(runs: Sequence[Run], policy: Policy) -> list[Observed]:
    """The pairs of all runs, pooled."""
    return [
        Observed(
            rule,
            tuple(x for run in runs for x in slowdowns(run, rule, policy.system, policy.against)),
            tuple(x for run in runs for x in slowdowns(run, rule, policy.twin, policy.control)),
        )
        for rule in policy.rules
    ]


def judge_runs(runs: Sequence[Run], policy: Policy) -> list[Finding]:
    """The verdicts on a run, or on a run and its extension. Raises `ConfigError` where there is nothing to judge."""
    for run in runs:
        for key in (policy.system, policy.against):
            if key not in run.systems:
                why = run.environment.get("missing", {}).get(key, "not in its plan")
                raise ConfigError(f"{run.name} did not measure {key}: {why}")
        for rule in policy.rules:
            if rule.cell not in run.cells:
                raise ConfigError(f"{run.name} has no cell {rule.cell}, which the policy gates")
    return decide([observe(runs[: n + 1], policy) for n in range(len(runs))], policy)


def invalid(run: Run, policy: Policy) -> list[str]:
    """The validity checks that failed for a system that the gate looks at, as "id (system): evidence"."""
    concerned = {"", policy.system, policy.against, policy.control, policy.twin}
    return [
        f"{check}{f' ({key})' if key else ''}: {verdict.detail}"
        for check, by_system in judge_all(run).items()
        for key, verdict in by_system.items()
        if verdict.ok is False and key in concerned
    ]


def extension_mismatch(first: Run, second: Run, policy: Policy) -> str:
    """Why `second` is not the one extension of `first` that the policy allows; empty if it is."""
    free = {"seed", "pairs", "id", "schema"}
    mine = {key: value for key, value in first.plan.items() if key not in free}
    other = {key: value for key, value in second.plan.items() if key not in free}
    if different := sorted(key for key in {*mine, *other} if mine.get(key) != other.get(key)):
        return f"its plan differs in {', '.join(different)}"
    if second.plan["seed"] != first.plan["seed"] + 1:
        return f"its seed is {second.plan['seed']}, registered is {first.plan['seed'] + 1}"
    if second.plan["pairs"] != policy.extend:
        return f"it has {second.plan['pairs']} pairs, registered are {policy.extend}"
    for key in (policy.system, policy.against, policy.control):
        a, b = (run.environment["systems"].get(key, {}).get("version") for run in (first, second))
        if a != b:
            return f"{key} is another version"
    return ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known about a rule before the run: power with n pairs, and where the noise was taken from."""

    rule: Rule
    pairs: int
    power: stats.Power
    origin: str


def expect(policy: Policy, pairs: int, look: int, earlier: Run | None) -> list[Expected | None]:
    """For each rule, what `pairs` pairs can show; noise from an earlier run's A/A pairs, else the policy's."""
    alpha = policy.split[look]
    found: list[Expected | None] = []
    for rule in policy.rules:
        pair_noise, origin = rule.noise, "policy"
        if earlier is not None and rule.cell in earlier.cells:
            samples = slowdowns(earlier, rule, policy.twin, policy.control)
            error = stats.location_error(samples, policy.floor_confidence)
            if error:
                pair_noise, origin = error * math.sqrt(len(samples)), earlier.name
        if not pair_noise:
            found.append(None)
            continue
        # Holm may ask for alpha over the number of rules, so power is stated for that.
        strict = stats.power(
            pair_noise / math.sqrt(pairs), math.log1p(rule.delta), alpha / len(policy.rules), policy.power
        )
        plain = stats.power(strict.error, math.log1p(rule.delta), alpha, policy.power)
        found.append(Expected(rule, pairs, replace(plain, detectable=strict.detectable), origin))
    return found


def newest_with_twin(results: Path, policy: Policy) -> Run | None:
    """The newest run under `results` in which the control ran twice; None without one."""
    for folder in sorted((f for f in results.glob("*") if (f / "plan.json").is_file()), reverse=True):
        try:
            run = read_run(folder)
        except ConfigError:
            continue
        if {policy.control, policy.twin} <= set(run.systems) and run.environment["state"] == "complete":
            return run
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `gate`."""
    parser.add_argument("runs", nargs="*", type=Path, help="a result folder, and the folder of its extension")
    parser.add_argument("--policy", type=Path, help="default: scenarios/gate.toml")
    parser.add_argument("--system", help="judge this system instead of the policy's")
    parser.add_argument("--against", help="compare with this system instead of the policy's")
    parser.add_argument("--twin", help="the second copy of the control")
    parser.add_argument("--control", help="the control")
    parser.add_argument("--plan", action="store_true", help="say what a run could detect, and judge nothing")
    parser.add_argument("--strict", action="store_true", help="inconclusive is a failure (5)")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Judge a run; the exit status is the verdict (`exits`)."""
    overrides: dict[str, Any] = {key: getattr(args, key) for key in ("system", "against", "twin", "control")}
    policy = read_policy(args.policy or root / "scenarios" / "gate.toml", overrides)
    if args.plan:
        say_expected(policy, newest_with_twin(root / "results", policy), say)
        return EXIT_OK
    if not 1 <= len(args.runs) <= 2:
        raise ConfigError("gate needs a result folder, or two: the run and its one extension")
    return judge_and_say([read_run(folder) for folder in args.runs], policy, say, strict=args.strict)


def judge_and_say(runs: Sequence[Run], policy: Policy, say: Callable[[str], None], *, strict: bool) -> int:
    """Print the verdicts on a run (and its extension) and return the exit status."""
    if len(runs) == 2 and (why := extension_mismatch(runs[0], runs[1], policy)):
        say(f"{runs[1].name} is not the registered extension of {runs[0].name}: {why}")
        return EXIT_INVALID
    findings = judge_runs(runs, policy)
    say(render(findings, policy, runs))
    if bad := [f"{run.name}: {text}" for run in runs for text in invalid(run, policy)]:
        say("INVALID: validity checks failed, so no verdict counts\n" + "\n".join(f"  {line}" for line in bad))
        return EXIT_INVALID
    word = overall(findings)
    say(f"{word}: {_sentence(word, len(runs))}")
    return exit_status(word, strict=strict)


def exit_status(word: Word, *, strict: bool) -> int:
    """The exit status of a verdict."""
    if word == "INCONCLUSIVE":
        return EXIT_INCONCLUSIVE if strict else EXIT_OK
    return {"PASS": EXIT_OK, "FAIL": EXIT_MISSED, "BLIND": EXIT_BLIND}.get(word, EXIT_USAGE)


def _sentence(word: Word, looks: int) -> str:
    return {
        "PASS": "no gated metric is slower by delta or more",
        "FAIL": "at least one gated metric is slower by more than delta",
        "BLIND": "the run's own noise exceeds delta; use a quieter machine or more pairs",
        "INCONCLUSIVE": "neither shown; run the registered extension (seed + 1)"
        if looks == 1
        else "neither shown, and the one extension is spent",
    }[word]


def render(findings: Sequence[Finding], policy: Policy, runs: Sequence[Run]) -> str:
    """The verdicts as a Markdown table."""
    names = " + ".join(f"`{run.name}`" for run in runs)
    lines = [
        f"Gate `{policy.id}`: {policy.system} against {policy.against} in {names}. Slow-down: above 0 % is worse; "
        f"{policy.confidence:.0%} two-sided intervals; floor: {policy.twin} against {policy.control}.",
        "",
        "| cell | metric | slow-down | delta | floor | pairs | look | verdict | because |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for finding in findings:
        rule, bounds = finding.rule, finding.bounds
        low, high = stats.one_sided(finding.observed.slowdowns, (1 - policy.confidence) / 2)
        interval = "" if low is None or high is None else f" [{_percent(low)}, {_percent(high)}]"
        lines.append(
            f"| {rule.cell} | {METRICS[rule.metric].title} | "
            f"{'–' if bounds is None else _percent(bounds.value) + interval} | {_percent(math.log1p(rule.delta))} | "
            f"{'–' if finding.floor is None else _percent(finding.floor)} | {0 if bounds is None else bounds.n} | "
            f"{finding.look} | {finding.word} | {finding.reason} |"
        )
    return "\n".join(lines) + "\n"


def say_expected(policy: Policy, earlier: Run | None, say: Callable[[str], None]) -> None:
    """Print, before any run, what it could detect: after the first look and with the extension."""
    say(f"gate {policy.id}: FAIL and PASS at {policy.power:.0%} power, one-sided alpha {policy.split}")
    for look, pairs in enumerate((policy.pairs, policy.pairs + policy.extend)):
        for rule, known in zip(policy.rules, expect(policy, pairs, look, earlier), strict=True):
            if known is None:
                say(f"  {pairs} pairs  {rule.id:<26} noise unknown")
                continue
            sees = "" if known.power.equivalence <= math.log1p(rule.delta) else "  (too noisy to PASS at this power)"
            say(
                f"  {pairs} pairs  {rule.id:<26} delta {rule.delta:.1%}: a slow-down of "
                f"{_percent(known.power.detectable)} FAILs; no change PASSes from delta = "
                f"{_percent(known.power.equivalence)} on; noise from {known.origin}{sees}"
            )


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.1%}"
