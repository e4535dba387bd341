"""Patterns that engines would follow in more ways than there is time for are refused; honest ones are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.engines.llama.allowance import AHEAD_S, CHOICE_S, SLICE, TOKEN_S, Allowance, asked
from vllama.engines.llama.prompt import RequestFault
from vllama.prompts.patterns import PatternError, pattern_grammar

HONEST = [
    "foo",
    ".*a.*b.*c",
    "^.{0,2000}$",
    r"^\d+\s*,?\s*\d+\s*$",
    r"^[\w.+-]+@[\w-]+\.[\w.-]+$",
    r"^https?://[^\s/$.?#].[^\s]*$",
    r"^[A-Z][a-z]+( [A-Z][a-z]+)*$",
    r"^P(\d+Y)?(\d+M)?(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?$",
    r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$",
    r"^[^[\]]{2}--$",
]
HOSTILE = [
    "^" + ".?" * 30 + "Z$",
    "^" + ".?" * 1000 + "$",
    "^" + ".{0,60}" * 8 + "Z$",
    "^(.|a|b|[a-c])+$",
    "^(x{2,30}){2,30}$",
    "^([a-z ]+)+$",
    "^(ab|.b|a.|..)+$",
    "^(((a|a)|(a|a))+(a|a)+)+b$",
]


@pytest.mark.parametrize("pattern", HONEST)
def test_honest_patterns_pass(pattern: str) -> None:
    assert pattern_grammar(pattern)[0]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_ambiguous_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="too many ways to read the same text"):
        pattern_grammar(pattern)


@given(st.integers(1, 60), st.sampled_from(["[a-f]", "\\d", "x", "[^z]", "\\s"]))
def test_a_row_without_a_choice_has_one_way(length: int, letter: str) -> None:
    pattern = "^" + letter * length + "$"
    assert re.compile(pattern)
    assert pattern_grammar(pattern)


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_asking_stops_between_two_slices() -> None:
    import numpy as np

    clock, sizes = Clock(), []

    def ask(ids: np.ndarray) -> np.ndarray:
        sizes.append(len(ids))
        clock.now += CHOICE_S / 3
        return ids % 2 == 0

    ids = np.arange(2 * SLICE + 5)
    assert asked(ask, ids, clock).tolist() == (ids % 2 == 0).tolist()
    assert sizes == [SLICE, SLICE, 5]
    sizes.clear()
    with pytest.raises(RequestFault, match="too long to follow"):
        asked(ask, np.arange(20 * SLICE), clock)
    assert len(sizes) in (3, 4)


def test_a_generation_has_an_allowance_that_tokens_refill() -> None:
    clock = Clock()
    allowance = Allowance(clock)
    for _ in range(1000):  # what each token brings
        allowance.begin()
        clock.now += TOKEN_S
        allowance.spent()
    affordable = int(AHEAD_S / (2 * TOKEN_S)) - 1

    def spend() -> None:
        allowance.begin()
        clock.now += 3 * TOKEN_S
        allowance.spent()

    for _ in range(affordable):
        spend()
    with pytest.raises(RequestFault) as raised:
        [spend() for _ in range(4)]
    assert raised.value.kind == "request"
