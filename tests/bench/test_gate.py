"""The gate on hand-made numbers and records: each verdict, its exit status, and what may not be judged at all."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.test_measure import make_run
from vllama.bench import gate
from vllama.bench.gate import Observed, decide, overall
from vllama.bench.policy import Policy, Rule, read_policy
from vllama.bench.results import Run
from vllama.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
DECODE = Rule("streaming/c1", "decode", 0.05)
TTFT = Rule("streaming/c1", "ttft", 0.05)
POLICY = Policy(pairs=12, extend=12, split=(0.005, 0.005), rules=(DECODE,))
QUIET = tuple(0.001 * (-1) ** i for i in range(12))


def look(slowdowns: tuple[float, ...], floor: tuple[float, ...] = QUIET, rule: Rule = DECODE) -> list[Observed]:
    return [Observed(rule, slowdowns, floor)]


def wobble(middle: float, width: float, n: int = 12) -> tuple[float, ...]:
    """n values spread evenly over middle +- width."""
    return tuple(middle + width * (2 * i / (n - 1) - 1) for i in range(n))


@pytest.mark.parametrize(
    ("slowdowns", "word"),
    [
        (wobble(0.0, 0.02), "PASS"),
        (wobble(0.02, 0.01), "PASS"),
        (wobble(-0.3, 0.1), "PASS"),
        (wobble(0.10, 0.02), "FAIL"),
        (wobble(0.0, 0.20), "INCONCLUSIVE"),
        (wobble(0.045, 0.03), "INCONCLUSIVE"),
        (wobble(0.10, 0.50), "INCONCLUSIVE"),
        ((0.2,) * 7, "INCONCLUSIVE"),
        ((), "INCONCLUSIVE"),
    ],
)
def test_each_verdict(slowdowns: tuple[float, ...], word: str) -> None:
    assert decide([look(slowdowns)], POLICY)[0].word == word


@pytest.mark.parametrize("floor", [wobble(0.0, 0.3), wobble(0.06, 0.001), (0.0,) * 5, ()])
def test_a_run_that_cannot_see_delta_judges_nothing(floor: tuple[float, ...]) -> None:
    for slowdowns in (wobble(0.0, 0.001), wobble(0.5, 0.001)):
        assert decide([look(slowdowns, floor)], POLICY)[0].word == "BLIND"


def test_the_extension_decides_only_what_was_open() -> None:
    open_one, more = wobble(0.0, 0.20), wobble(0.0, 0.01, 40)
    found = decide([look(open_one), look(open_one + more, QUIET * 2)], POLICY)[0]
    assert (found.word, found.look) == ("PASS", 2)
    failed = wobble(0.10, 0.02)
    found = decide([look(failed), look(failed + (0.0,) * 40, QUIET * 2)], POLICY)[0]
    assert (found.word, found.look) == ("FAIL", 1)


def test_holm_is_applied_over_the_gated_metrics() -> None:
    # 8 of 8 pairs slower: p = 1/256 = 0.0039, below 0.005 alone, not below 0.005 / 2 beside a second metric.
    slower, equal = (0.1,) * 8, (0.0,) * 8
    policy = replace(POLICY, rules=(DECODE, TTFT))
    assert decide([look(slower)], POLICY)[0].word == "FAIL"
    both = look(slower) + look(equal, rule=TTFT)
    assert [f.word for f in decide([both], policy)] == ["INCONCLUSIVE", "PASS"]


@given(st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=20), st.floats(0.001, 0.5))
def test_more_slow_down_never_gives_a_better_verdict(values: list[float], more: float) -> None:
    order = ["PASS", "INCONCLUSIVE", "FAIL"]
    before = decide([look(tuple(values))], POLICY)[0].word
    after = decide([look(tuple(x + more for x in values))], POLICY)[0].word
    assert order.index(after) >= order.index(before)


@given(st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=20))
def test_the_order_of_the_pairs_does_not_matter(values: list[float]) -> None:
    assert decide([look(tuple(values))], POLICY)[0].word == decide([look(tuple(values[::-1]))], POLICY)[0].word


def test_a_seen_regression_outranks_blindness() -> None:
    blind, failed, passed = (
        decide([look(wobble(0, 0.01), wobble(0, 0.3))], POLICY),
        decide([look(wobble(0.1, 0.02))], POLICY),
        decide([look(wobble(0, 0.01))], POLICY),
    )
    assert overall(blind + failed + passed) == "FAIL"
    assert overall(blind + passed) == "BLIND"
    assert overall(passed) == "PASS"


@pytest.mark.parametrize(
    ("word", "strict", "status"),
    [("PASS", True, 0), ("FAIL", False, 1), ("BLIND", False, 3), ("INCONCLUSIVE", False, 0), ("INCONCLUSIVE", True, 5)],
)
def test_exit_status(word: Any, strict: bool, status: int) -> None:
    assert gate.exit_status(word, strict=strict) == status


def gate_run(change: float, pairs: int = 12, seed: int = 1, system: str = "vllama", **environment: Any) -> Run:
    """A run of four systems; the judged one takes `change` times as long. Slots differ a little, as slots do."""
    run = make_run(pairs=pairs)
    slots, samples = [], {}
    for block in range(pairs):
        for place, key in enumerate((system, "vllama@base", "llama-server", "llama-server-twin")):
            source = run.slots[2 * block]
            index = len(slots)
            factor = (change if key == system else 1.0) * (1 + 0.002 * ((block * 7 + place * 3 + seed) % 5))
            slots.append(replace(source, index=index, system=key, place=(place + block) % 4))
            texts = [round(t * factor) for t in run.samples[source.index][0].texts]
            old = run.samples[source.index][0]
            samples[index] = [replace(old, slot=index, texts=texts, t_end=texts[-1] + 5, prompt_sha=f"{seed}-{block}")]
    systems = {
        name: run.environment["systems"]["vllama"] | {"title": name} for name in dict.fromkeys(s.system for s in slots)
    }
    plan = {**run.plan, "systems": list(systems), "pairs": pairs, "seed": seed}
    return replace(
        run,
        name=f"run-{seed}",
        plan=plan,
        environment={**run.environment, "systems": systems, **environment},
        slots=slots,
        samples=samples,
        scores=[],
    )


TWO = replace(POLICY, rules=(DECODE, TTFT))


def judged(runs: list[Run], policy: Policy = TWO, *, strict: bool = False) -> tuple[int, str]:
    said: list[str] = []
    status = gate.judge_and_say(runs, policy, said.append, strict=strict)
    return status, "\n".join(said)


def test_the_same_commit_passes_and_a_slower_one_fails() -> None:
    assert judged([gate_run(1.0)])[0] == 0
    status, said = judged([gate_run(1.10)])
    assert status == 1
    assert "FAIL: at least one gated metric" in said
    assert "| streaming/c1 | decode | +9." in said
    assert "| FAIL | slower by +9." in said


def test_a_faster_commit_passes() -> None:
    assert judged([gate_run(0.8)])[0] == 0


def test_an_invalid_comparison_has_no_verdict() -> None:
    status, said = judged([gate_run(1.0, state="interrupted")])
    assert status == 4
    assert "A1 (vllama)" in said


def test_checks_of_systems_that_are_not_judged_do_not_matter() -> None:
    run = gate_run(1.0)
    run.environment["systems"]["ollama"] = run.environment["systems"]["vllama"] | {"model_sha256": "bb"}
    assert gate.invalid(run, TWO) == []
    run.environment["systems"]["vllama@base"]["model_sha256"] = "bb"
    assert [text.split(":")[0] for text in gate.invalid(run, TWO)] == ["W1 (vllama@base)"]


def test_a_run_without_base_or_without_a_gated_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match="did not measure vllama@base: not in its plan"):
        judged([make_run()])
    with pytest.raises(ConfigError, match="no cell concurrent/c8"):
        judged([gate_run(1.0)], replace(TWO, rules=(Rule("concurrent/c8", "aggregate", 0.1),)))


def test_only_the_registered_extension_counts() -> None:
    first = gate_run(1.0)
    assert judged([first, gate_run(1.0, seed=2)])[0] == 0
    for other, why in (
        (gate_run(1.0, seed=3), "its seed is 3, registered is 2"),
        (gate_run(1.0, seed=2, pairs=13), "it has 13 pairs, registered are 12"),
        (replace(gate_run(1.0, seed=2), plan={**gate_run(1.0, seed=2).plan, "ctx": 1}), "its plan differs in ctx"),
    ):
        status, said = judged([first, other])
        assert status == 4
        assert why in said
    newer = gate_run(1.0, seed=2)
    newer.environment["systems"]["vllama"] = newer.environment["systems"]["vllama"] | {"version": "2"}
    assert "vllama is another version" in judged([first, newer])[1]


def test_power_is_stated_before_a_run_from_the_policy_or_an_earlier_run() -> None:
    policy = replace(TWO, rules=(replace(DECODE, noise=0.04), TTFT))
    decode, unknown = gate.expect(policy, 24, 0, None)
    assert unknown is None
    assert decode is not None
    assert decode.origin == "policy"
    assert decode.power.error == pytest.approx(0.04 / math.sqrt(24))
    known = gate.expect(policy, 24, 0, gate_run(1.0))
    assert known[1] is not None
    assert known[1].origin == "run-1"
    said: list[str] = []
    gate.say_expected(replace(policy, rules=(replace(DECODE, noise=0.5), TTFT)), None, said.append)
    assert "too noisy to PASS" in said[1]
    assert "noise unknown" in said[2]


def test_the_command_reads_the_committed_policy(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser)
    said: list[str] = []
    assert gate.main(parser.parse_args(["--plan"]), ROOT, said.append) == 0
    assert len(said) == 1 + 2 * len(read_policy(ROOT / "scenarios" / "gate.toml").rules)
    with pytest.raises(ConfigError, match="a result folder"):
        gate.main(parser.parse_args([]), ROOT, said.append)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("pairs = 20", "pears = 20"), "unknown key 'pears'"),
        (("delta = 0.10", "delta = 1.5"), "delta of gate-concurrent/c8 aggregate"),
        (('metric = "pss"', 'metric = "speed"'), "unknown metric 'speed'"),
        (('metric = "ttft"', 'metric = "decode"'), "two gates for the same cell"),
        (("split = [0.005, 0.005]", "split = [0.01]"), "split must be"),
        (("min_pairs = 8", "min_pairs = 4"), "min_pairs must be at least 8"),
        (("pairs = 20", "pairs = true"), "pairs must be int"),
        (("[[gate]]", "[[gate"), "gate.toml: "),
    ],
)
def test_a_wrong_policy_is_refused(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text((ROOT / "scenarios" / "gate.toml").read_text().replace(*change, 1))
    with pytest.raises(ConfigError, match=text):
        read_policy(path)


def test_a_policy_without_rules_or_without_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    with pytest.raises(ConfigError, match="cannot read"):
        read_policy(path)
    path.write_text("pairs = 24\nextend = 24\nsplit = [0.005, 0.005]\n")
    with pytest.raises(ConfigError, match="could not fail"):
        read_policy(path)
