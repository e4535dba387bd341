"""Claims: each has a verdict from the records, and a page that says something else, or less, is found."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.test_gate import gate_run
from tests.bench.test_measure import make_run, sample, slot
from vllama.bench import claims
from vllama.bench.claims import BEGIN, END, Claim, judge, read_claims
from vllama.bench.plan import read_plan
from vllama.bench.results import Run
from vllama.bench.systems import SYSTEMS
from vllama.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "scenarios" / "claims.toml"

ORIGINAL = {
    "vllm-sequential-4.4x",
    "vllm-five-concurrent-1.16x-behind",
    "vllm-streaming-1.6x",
    "wrapper-time-50ms",
    "wrapper-time-70ms",
    "wrapper-memory-1.2gb",
    "wrapper-memory-1.8gb",
    "metal-26-65-tok-s",
    "macos-cpu-6x-slower",
    "max-within-2-percent",
    "max-248-vllm-512-concurrent",
}

FASTER = Claim(
    id="ours",
    said="as fast as the control",
    cells=("nothing/c9", "streaming/c1"),
    metric="decode",
    how="ratio",
    system="vllama",
    against="llama-server",
    expect="at least",
    expected=0.95,
    command="nox -s bench",
)


def test_no_original_claim_was_dropped() -> None:
    found = read_claims(FILE)
    assert {claim.id for claim in found if claim.by == "claim"} >= ORIGINAL
    assert {claim.by for claim in found} == {"claim", "goal"}


def test_every_claim_names_systems_and_cells_that_exist_and_a_command_that_can_be_typed() -> None:
    for claim in read_claims(FILE):
        assert claim.system in SYSTEMS
        assert not claim.against or claim.against in SYSTEMS
        for cell in (*claim.cells, *claim.base):
            scenario = cell.split("/")[0]
            assert (ROOT / "scenarios" / f"{scenario}.toml").is_file() or cell == "concurrent/c1", cell
        words = [word for word in shlex.split(claim.command) if "=" not in word]
        assert words[:3] == ["nox", "-s", "bench"]
        if "--systems" in words:
            assert {claim.system, claim.against} - {""} <= set(words[words.index("--systems") + 1].split(","))


def test_the_profile_for_capacity_can_be_read() -> None:
    plan = read_plan(ROOT / "scenarios", "capacity")
    assert [cell.id for cell in plan.cells] == ["capacity/c512"]
    assert plan.parallel >= 512


@pytest.mark.parametrize(("ours", "word"), [(1.0, "holds here"), (0.5, "holds here"), (1.3, "does not hold here")])
def test_a_ratio_decides(ours: float, word: str) -> None:
    verdict = judge(FASTER, make_run(ours=ours))
    assert verdict.word == word
    assert verdict.cell == "streaming/c1"
    assert verdict.estimate is not None
    assert verdict.estimate.value == pytest.approx(1 / ours, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"how": "difference", "metric": "ttft", "expect": "at most", "expected": 1}, "holds here"),
        ({"how": "difference", "metric": "ttft", "expect": "at least", "expected": 50}, "does not hold here"),
        ({"expect": "about", "expected": 1, "within": 0.02}, "holds here"),
        ({"expect": "about", "expected": 1.2, "within": 0.02}, "does not hold here"),
        ({"how": "value", "against": "", "expect": "between", "expected": 1, "upper": 100}, "holds here"),
        ({"how": "value", "against": "", "expect": "between", "expected": 26, "upper": 65}, "does not hold here"),
        ({"how": "scaling", "against": "", "base": ("streaming/c1",), "expected": 1.0}, "holds here"),
        ({"how": "scaling", "against": "", "base": ("streaming/c1",), "expected": 1.4}, "does not hold here"),
    ],
)
def test_each_kind_of_claim(fields: dict[str, Any], word: str) -> None:
    assert judge(replace(FASTER, **fields), make_run(ours=1.0)).word == word


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"os": "Darwin"}, "needs the system Darwin, this is o"),
        ({"machine": "arm64"}, "needs the processor arm64, this is"),
        ({"system": "vllm"}, "vllm: no GPU"),
        ({"against": "max"}, "max: not part of this run"),
        ({"cells": ("capacity/c512",)}, "this run has no capacity/c512"),
        ({"how": "scaling", "against": "", "base": ("x/c1",)}, "this run has no x/c1"),
    ],
)
def test_what_cannot_be_tested_says_why(fields: dict[str, Any], reason: str) -> None:
    run = make_run()
    run.environment["missing"]["vllm"] = "no GPU"
    verdict = judge(replace(FASTER, **fields), run)
    assert verdict.word == "cannot be tested here"
    assert verdict.reason.startswith(reason)


def test_too_few_pairs_and_failed_checks_test_nothing() -> None:
    reason = judge(FASTER, make_run(pairs=7)).reason
    assert reason.startswith("7 pairs, 8 are needed; so far ")
    assert float(reason.rpartition(" ")[2]) > 0
    run = make_run()
    run.environment["systems"]["vllama"]["model_sha256"] = "bb"
    assert judge(FASTER, run).reason == "validity checks failed: W1 (vllama)"
    assert judge(replace(FASTER, other_file=True), run).word == "holds here"


def test_an_estimate_without_its_bound_is_not_shown_unless_the_floor_explains_it() -> None:
    quiet = gate_run(1.0)
    measured = judge(FASTER, quiet).estimate
    assert measured is not None
    assert measured.low is not None
    claim = replace(FASTER, expected=(measured.low + measured.value) / 2)
    assert judge(claim, quiet).word == "holds here"
    # Without its twin the run has no floor; the bound must then reach the target by itself.
    alone = replace(quiet, slots=[s for s in quiet.slots if s.system != "llama-server-twin"])
    found = judge(claim, alone)
    assert (found.word, found.reason[:9]) == ("does not hold here", "not shown")


@given(st.floats(0.3, 3.0), st.floats(0.5, 2.0))
def test_a_claim_that_holds_holds_with_a_lower_target(ours: float, target: float) -> None:
    run = make_run(ours=ours)
    if judge(replace(FASTER, expected=target), run).word == "holds here":
        assert judge(replace(FASTER, expected=target * 0.9), run).word == "holds here"


def test_streams_at_once() -> None:
    first, second, third = (sample(i, texts=texts) for i, texts in enumerate([(1, 10), (5, 20), (11, 30)]))
    assert claims.EXTRA["together"].of(slot(), [first, second, third]) == 2.0
    assert claims.EXTRA["together"].of(slot(), [replace(first, error="x")]) is None


PAGE = f"# Title\n\nbefore\n\n{BEGIN}\n{END}\n\nafter\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a page and one run (a double of the reader gives its records)."""
    folder = tmp_path / "results" / "2026-01-01-0000-x"
    folder.mkdir(parents=True)
    (folder / "plan.json").touch()
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    (tmp_path / "PAGE.md").write_text(PAGE)
    runs = {"2026-01-01-0000-x": make_run(ours=1.25)}

    def read(path: Path) -> Run:
        if path.name not in runs:
            raise ConfigError(f"cannot read the results in {path}")
        return runs[path.name]

    monkeypatch.setattr(claims, "read_run", read)
    return tmp_path


def ask(place: Path, *words: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    claims.add_arguments(parser)
    said: list[str] = []
    return claims.main(parser.parse_args(words), place, said.append), "\n".join(said)


def test_a_written_page_checks_and_keeps_what_is_around(place: Path) -> None:
    page = place / "PAGE.md"
    assert ask(place, "--check", str(page)) == (1, "PAGE.md shows no claims: vllama bench claims --write PAGE.md")
    assert ask(place, "--write", str(page))[0] == 0
    text = page.read_text()
    assert text.startswith("# Title\n\nbefore\n")
    assert text.endswith("\nafter\n")
    for claim in read_claims(FILE):
        assert text.count(f"| `{claim.id}` |") == 1
    assert ask(place, "--check", str(page)) == (0, "")
    assert ask(place, "--write", str(page))[0] == 0
    assert page.read_text() == text


def test_losses_stand_first(place: Path) -> None:
    status, said = ask(place)
    assert status == 0
    words = re.findall(r"\| (\*\*does not hold here\*\*|holds here|cannot be tested here) \|", said)
    order = ["**does not hold here**", "holds here", "cannot be tested here"]
    assert words == sorted(words, key=order.index)
    assert words[0] == order[0]


def test_removing_any_id_fails_the_check(place: Path) -> None:
    page = place / "PAGE.md"
    ask(place, "--write", str(page))
    text = page.read_text()
    for claim in read_claims(FILE):
        page.write_text("".join(row for row in text.splitlines(keepends=True) if f"`{claim.id}`" not in row))
        status, said = ask(place, "--check", str(page))
        assert status == 1
        assert f"the claim {claim.id} is missing" in said


def test_editing_any_number_in_the_table_fails_the_check(place: Path) -> None:
    page = place / "PAGE.md"
    ask(place, "--write", str(page))
    text = page.read_text()
    table = slice(text.index("| id |"), text.index(END))
    digits = [table.start + match.start() for match in re.finditer(r"\d", text[table])]
    assert len(digits) > 100
    for place_of_digit in digits[::7]:
        edited = str((int(text[place_of_digit]) + 1) % 10)
        page.write_text(text[:place_of_digit] + edited + text[place_of_digit + 1 :])
        assert ask(place, "--check", str(page))[0] == 1


def test_another_word_or_a_run_that_is_not_there_fails_the_check(place: Path) -> None:
    page = place / "PAGE.md"
    ask(place, "--write", str(page))
    text = page.read_text()
    page.write_text(text.replace("**does not hold here**", "holds here", 1))
    assert ask(place, "--check", str(page))[0] == 1
    page.write_text(text.replace("2026-01-01-0000-x", "2027-01-01-0000-x"))
    with pytest.raises(ConfigError, match="2027-01-01-0000-x"):
        ask(place, "--check", str(page))


def test_a_page_without_markers_and_both_options_are_refused(place: Path) -> None:
    page = place / "PAGE.md"
    page.write_text("nothing")
    with pytest.raises(ConfigError, match="once each"):
        ask(place, "--write", str(page))
    with pytest.raises(ConfigError, match="not both"):
        ask(place, "--write", str(page), "--check", str(page))
    with pytest.raises(ConfigError, match="cannot read"):
        ask(place, "--check", str(place / "no-page.md"))


def test_without_a_complete_run_there_is_nothing_to_say(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no complete run"):
        claims.newest(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('how = "ratio"', 'how = "ration"'), "how must be"),
        (('expect = "at least"', 'expect = "more than"'), "expect must be"),
        (('metric = "e2e"', 'metric = "speed"'), "unknown metric 'speed'"),
        (('against = "vllm"\n', ""), "need against"),
        (("expected = 4.35\n", ""), "expected is missing"),
        (("other_file = true", "other_flie = true"), "unknown key 'other_flie'"),
        (('id = "vllm-streaming-1.6x"', 'id = "vllm-sequential-4.4x"'), "same id"),
        (('id = "vllm-sequential-4.4x"', 'id = "vLLM!"'), "an id is"),
        (("within = 0.2\n", ""), "range of accepted values"),
        (("[[claim]]", "[[claims]]"), "nothing else"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(FILE.read_text().replace(*change, 1))
    with pytest.raises(ConfigError, match=text):
        read_claims(path)


def test_accepted_values() -> None:
    assert replace(FASTER, expect="at most").accepted == (-math.inf, 0.95)
    assert replace(FASTER, expect="about", expected=50, within=0.2).accepted == pytest.approx((40, 60))
    assert replace(FASTER, expect="between", expected=26, upper=65).accepted == (26, 65)


def test_the_readme_is_what_its_result_says() -> None:
    parser = argparse.ArgumentParser()
    claims.add_arguments(parser)
    said: list[str] = []
    args = parser.parse_args(["--check", str(ROOT / "README.md")])
    assert claims.main(args, ROOT, said.append) == 0, said
