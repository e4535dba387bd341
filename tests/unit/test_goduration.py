"""vllama.goduration against what Go's time package and Ollama's api.Duration returned."""

import json
import re
from pathlib import Path

import pytest

from vllama.goduration import FOREVER_NS, duration_from_json, format_duration, parse_duration

GOLDEN = Path(__file__).parents[1] / "golden" / "duration.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


def _decodes(case: dict[str, str]) -> bool:
    if case["json"] in (
        "nan",
        "Infinity",
        "null",
    ):  # Python reads the first two, JSON does not; null means unset
        return False
    try:
        json.loads(case["json"])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("case", [c for c in CASES if c["kind"] == "format"], ids=lambda c: c["id"])
def test_format(case: dict) -> None:
    assert format_duration(case["ns"]) == case["expected"]["string"]


@pytest.mark.parametrize("case", [c for c in CASES if c["kind"] == "json" and _decodes(c)], ids=lambda c: c["id"])
def test_json(case: dict) -> None:
    value = json.loads(case["json"])
    if "error" in case:
        with pytest.raises(ValueError, match=re.escape(case["error"])) as caught:
            duration_from_json(value)
        assert str(caught.value) == case["error"]
    else:
        assert duration_from_json(value) == case["expected"]["ns"]


def test_most_cases_were_usable() -> None:
    usable = [c for c in CASES if c["kind"] == "format" or _decodes(c)]
    assert len(usable) >= 80


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h15m30.918s", 4_530_918_000_000),
        ("-1.5h", -5_400_000_000_000),
        ("-0", 0),
        ("+0", 0),
        (".5s", 500_000_000),
    ],
)
def test_parse_gives_nanoseconds(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


def test_the_largest_and_the_smallest_duration() -> None:
    assert parse_duration("9223372036854775807ns") == FOREVER_NS
    assert parse_duration("-9223372036854775808ns") == -(2**63)
    for digits in ("9223372036854775808", "9" * 5000):
        with pytest.raises(ValueError, match="time: invalid duration"):
            parse_duration(digits + "ns")
    assert duration_from_json(10**400) == -(2**63)


@pytest.mark.parametrize("ns", [1, 999, 1_500, 999_999_999, 61 * 10**9, 10**15 + 7, FOREVER_NS])
def test_what_is_printed_reads_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns
    assert parse_duration(format_duration(-ns)) == -ns


def test_digits_of_other_scripts_are_no_digits() -> None:
    with pytest.raises(ValueError, match=r'time: invalid duration "\\xd9\\xa5m"'):
        parse_duration("٥m")
