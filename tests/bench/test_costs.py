"""The deterministic gates: the committed budgets hold, and one call too many does not pass."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from vllama.bench import costs
from vllama.bench.costs import Costs, budgets_for, exceeded, read_budgets, render
from vllama.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


async def test_the_committed_budgets_hold() -> None:
    said: list[str] = []
    status = await costs.main(argparse.Namespace(write=False), ROOT, said.append)
    assert [line for line in said if line.startswith("MISSED")] == []
    assert status == 0


FOUND: Costs = {"/api/chat": {"request_calls": 177.0, "chunk_calls": 11.0, "chunk_writes": 1.0}, "modules": {"m": 30.0}}


def test_budgets_have_some_slack_and_come_back_from_the_file(tmp_path: Path) -> None:
    budgets = budgets_for(FOUND)
    assert budgets == {"/api/chat": {"request_calls": 195, "chunk_calls": 13, "chunk_writes": 1}, "modules": {"m": 33}}
    path = tmp_path / "budgets.toml"
    path.write_text(render(budgets))
    assert read_budgets(path) == budgets
    assert exceeded(FOUND, budgets) == []


def test_a_call_too_many_a_lost_budget_and_a_lost_count_are_seen() -> None:
    more = {"/api/chat": {"request_calls": 177.0, "chunk_calls": 14.0, "chunk_writes": 2.0, "new": 1.0}}
    assert exceeded(more, budgets_for(FOUND)) == [
        "/api/chat chunk_calls: 14 is above 13",
        "/api/chat chunk_writes: 2 is above 1",
        "/api/chat new: no budget",
        "modules m: not counted",
    ]


def test_a_broken_budget_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"budgets\.toml"):
        read_budgets(tmp_path / "budgets.toml")
    (tmp_path / "budgets.toml").write_text("[a]\nb = 'c'\n")
    with pytest.raises(ConfigError, match=r"budgets\.toml"):
        read_budgets(tmp_path / "budgets.toml")
