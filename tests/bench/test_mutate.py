"""Every fault must be seen by its check: on the wire where no clock decides, else in planted times."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from vllama.bench import checks, mutate
from vllama.bench.mutate import DELTA, MUTATIONS, SUBJECT, TIMING, Mutation, judge, planted_run, try_mutation

BY_NAME = {mutation.name: mutation for mutation in MUTATIONS}


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if not m.timing], ids=lambda m: m.name)
async def test_a_fault_on_the_wire_is_seen_by_its_checks_and_on_its_system_alone(mutation: Mutation) -> None:
    outcome = await try_mutation(mutation, own_processes=False)
    assert (outcome.missed, outcome.false) == ([], [])
    assert bool(outcome.red) == bool(mutation.seen_by)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("no fault, gated", {}),
        ("slower by 2 delta", {"slower": 2 * DELTA}),
        ("TCP_NODELAY missing", {"later": 0.04}),
        ("stream buffered", {"buffered": True}),
    ],
)
def test_a_fault_of_time_is_seen_in_planted_records(name: str, times: dict[str, Any]) -> None:
    outcome = judge(BY_NAME[name], planted_run(24, **times), TIMING)
    assert (outcome.missed, outcome.false) == ([], [])
    assert outcome.word == BY_NAME[name].gate


def test_a_blind_harness_would_be_found_out() -> None:
    clean = planted_run(24)
    for name in ("TCP_NODELAY missing", "stream buffered", "context truncated"):
        outcome = judge(BY_NAME[name], clean, TIMING)
        assert outcome.missed == list(BY_NAME[name].seen_by)
        assert not outcome.good
        assert "NOT SEEN BY" in mutate.describe(outcome)
    assert judge(BY_NAME["slower by 2 delta"], clean, TIMING).missed == ["gate (FAIL)"]


def test_an_alarm_without_a_fault_would_be_found_out() -> None:
    outcome = judge(BY_NAME["no fault"], planted_run(4, later=0.04), TIMING)
    assert outcome.false == [f"N1 ({SUBJECT})"]
    assert "FALSE ALARM" in mutate.describe(outcome)


def test_every_expected_check_exists_and_every_fault_is_expected_by_something() -> None:
    known = {check.id for check in checks.CHECKS}
    assert {check for mutation in MUTATIONS for check in mutation.seen_by} <= known
    assert set(TIMING) <= known
    assert all(mutation.seen_by or mutation.gate for mutation in MUTATIONS if not mutation.name.startswith("no fault"))


async def test_nothing_chosen_is_no_success(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    mutate.add_arguments(parser)
    said: list[str] = []
    assert await mutate.main(parser.parse_args(["--short", "--only", "no such fault"]), tmp_path, said.append) == 1
    assert said == ["0 of 0 as it should be"]
