"""Words for sizes and times, against Ollama's own."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vllama.cli import humanize

GOLDEN = Path(__file__).parents[1] / "golden" / "humanize.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)
PLAIN = {"HumanBytes": humanize.size, "HumanBytes2": humanize.binary_size, "HumanNumber": humanize.number}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_as_ollama_prints_it(case: dict) -> None:
    func = case["func"]
    if func in PLAIN:
        got = PLAIN[func](case["arg"])
    elif func == "Summary":
        got = humanize.rates(case["arg"])
    elif func == "HumanTimeForever":
        got = humanize.when(NOW + timedelta(days=365 * 292), now=NOW)
    else:
        ago = case["arg"]["seconds_ago_ns"]
        moment = None if ago is None else NOW - timedelta(microseconds=ago // 1000)
        got = humanize.when(moment, case["arg"]["zero_value"], NOW)
        got = got.lower() if func == "HumanTimeLower" else got
    assert got == case["expected"]


def test_times_of_the_api() -> None:
    assert humanize.moment("2026-05-17T12:00:00.123456789Z") is not None
    assert humanize.moment("2318-01-01T00:00:00.1+02:00") is not None
    assert humanize.moment("soon") is None
