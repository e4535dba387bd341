"""Merging of options against Ollama's own (the `options` of tests/golden/jsonerrors.jsonl)."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from vllama.core.options import MIN_NUM_CTX, OptionError, Options, merge_options
from vllama.engines.base import Sampling

GOLDEN = Path(__file__).parents[1] / "golden" / "jsonerrors.jsonl"
CASES = [
    case
    for case in map(json.loads, GOLDEN.read_text("utf-8").splitlines())
    if "options" in case or "options_error" in case
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_options_merge_as_in_go(case: dict[str, Any]) -> None:
    given = json.loads(case["body"])["options"]
    if "options_error" in case:
        with pytest.raises(OptionError) as caught:
            merge_options({}, given)
        assert caught.value.text == case["options_error"]
        assert caught.value.status == 400
        return
    merged = dataclasses.asdict(merge_options({}, given))
    merged["stop"] = list(merged["stop"])
    # Go leaves zero values out of what it prints.
    want = case["options"]
    for name, value in merged.items():
        assert (value or 0) == (want.get(name) or 0), name
    assert want.keys() <= merged.keys()


def test_the_request_goes_over_the_model_and_the_defaults() -> None:
    merged = merge_options({"temperature": 0.1, "top_k": 5, "stop": ["a"]}, {"top_k": 6.9, "stop": ["b", "c"]})
    assert merged == Options(temperature=0.1, top_k=6, stop=("b", "c"))


def test_null_leaves_the_models_value() -> None:
    assert merge_options({"seed": 3}, {"seed": None}).seed == 3


def test_no_options_are_the_defaults() -> None:
    assert merge_options({}, {}) == Options()
    assert Options().to_sampling() == Sampling()


@pytest.mark.parametrize(("given", "want"), [(0, MIN_NUM_CTX), (-1, MIN_NUM_CTX), (3.9, MIN_NUM_CTX), (64, 64)])
def test_context_has_a_least_size(given: float, want: int) -> None:
    assert merge_options({}, {"num_ctx": given}).num_ctx == want


@pytest.mark.parametrize(("given", "want"), [(0, -1), (-1, -1), (-2, -1), (0.9, -1), (1, 1), (500, 500)])
def test_zero_and_negative_predictions_have_no_limit(given: float, want: int) -> None:
    assert merge_options({}, {"num_predict": given}).num_predict == want


@pytest.mark.parametrize(("given", "want"), [(1e30, -(2**63)), (-1e30, -(2**63)), (2**53 + 1, 2**53)])
def test_integers_pass_through_float64(given: float, want: int) -> None:
    assert merge_options({}, {"seed": given}).seed == want


def test_unknown_options_are_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vllama.options"):
        assert merge_options({}, {"mirostat": 1, "NUM_CTX": 5}) == Options()
    assert [record.getMessage() for record in caplog.records] == [
        'invalid option provided: "mirostat"',
        'invalid option provided: "NUM_CTX"',
    ]


@pytest.mark.parametrize(("seed", "want"), [(-1, None), (0, 0), (7, 7)])
def test_seed_of_the_sampling(seed: int, want: int | None) -> None:
    assert merge_options({}, {"seed": seed}).to_sampling().seed == want


def test_sampling_is_brought_into_range() -> None:
    sampling = merge_options({}, {"temperature": -1, "top_k": -5, "repeat_last_n": -7, "min_p": 0.05}).to_sampling()
    assert sampling == Sampling(temperature=0.0, top_k=0, repeat_last_n=-1, min_p=0.05)
