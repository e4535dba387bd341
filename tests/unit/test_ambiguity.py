"""Patterns that engines would follow in more ways than there is time for are refused; honest ones are not."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_structured import Grammar
from vllama.engines.llama.allowance import AHEAD_S, CHOICE_S, SLICE, TOKEN_S, Allowance, asked
from vllama.engines.llama.prompt import RequestFault
from vllama.prompts.patterns import PatternError, pattern_grammar, text_grammar
from vllama.prompts.structured import schema_grammar

ALPHABET = st.characters(codec="ascii", exclude_categories=["Cc"])
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
REWRITTEN = [
    r"^(\w+\s?)*$",
    r"^(\d+,?)+$",
    "^(a*)*$",
    "^(|a)+b?$",
    "^(a?b?){2}$",
    "^(.|a|b|[a-c])+$",
    "^([a-z ]+)+$",
    "^(ab|.b|a.|..)+$",
    "^(((a|a)|(a|a))+(a|a)+)+b$",
    '^(["a]+\\\\?)*$',
    r'^([^a"\\\n]+,?)*$',
    "^(.*,)*.*$",
    "^" + ".?" * 30 + "Z$",
]
HOSTILE = [
    "^" + ".?" * 1000 + "$",
    "^" + ".{0,60}" * 8 + "Z$",
    "^(a|b)*a(a|b){20}(a|b)*(a|a)*$",
]


@pytest.mark.parametrize("pattern", HONEST)
def test_honest_patterns_pass(pattern: str) -> None:
    assert not pattern_grammar(pattern).rules  # as it stands


@pytest.mark.parametrize("pattern", HOSTILE)
def test_ambiguous_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="too many ways to read the same text"):
        pattern_grammar(pattern)


@pytest.mark.parametrize("pattern", REWRITTEN)
def test_ambiguous_patterns_get_one_way(pattern: str) -> None:
    grammar = Grammar(schema_grammar({"type": "string", "pattern": pattern}))

    @given(st.from_regex(pattern.removesuffix("$") + "\\Z", alphabet=ALPHABET) | st.text('ab1 ,"\\nZ', max_size=8))
    @settings(max_examples=40)
    def same_texts(text: str) -> None:
        found = re.search(pattern.replace("$", "\\Z"), text, re.ASCII) is not None
        assert grammar.accepts(json.dumps(text, ensure_ascii=False)) == found

    assert pattern_grammar(pattern).rules
    same_texts()


@pytest.mark.parametrize("pattern", REWRITTEN)
def test_no_letter_leads_from_a_state_to_two(pattern: str) -> None:
    for rule in text_grammar(pattern.strip("^$")).split("\n")[1:]:
        options = [option.rpartition(" ")[0] for option in rule.partition(" ::= ")[2].split(" | ")]
        for char in "aAbcxZ0 ,_-é":
            assert sum(re.fullmatch(option, char) is not None for option in options if option.startswith("[")) < 2


@given(st.integers(1, 60), st.sampled_from(["[a-f]", "\\d", "x", "[^z]", "\\s"]))
def test_a_row_without_a_choice_has_one_way(length: int, letter: str) -> None:
    pattern = "^" + letter * length + "$"
    assert re.fullmatch(pattern, "") is None
    assert not pattern_grammar(pattern).rules


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
