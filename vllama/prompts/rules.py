"""Outputs that are no JSON, as GBNF: a regular expression, a choice of texts, a grammar of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from vllama.errors import RequestError
from vllama.prompts.gbnf import literal
from vllama.prompts.patterns import PatternError, text_grammar

MAX_PATTERN = 8 << 10
"""Characters of a regular expression; longer ones would hold the event loop up."""

MAX_CHOICES = 2000
MAX_CHOICE_TEXT = 64 << 10
"""Characters of all choices together."""


def regex_rule(pattern: str) -> str:
    """GBNF for texts that `pattern` matches as a whole. Raises `RequestError`."""
    if len(pattern) > MAX_PATTERN:
        raise RequestError(f"structured_outputs: the regex has more than {MAX_PATTERN} characters")
    try:
        return text_grammar(pattern)
    except PatternError as error:
        raise RequestError(f"structured_outputs: the regex cannot be used: {error}") from None


def choice_rule(choices: Sequence[str]) -> str:
    """GBNF for exactly one of `choices`. Raises `RequestError`."""
    if not choices:
        raise RequestError("structured_outputs: there is nothing to choose from")
    if len(choices) > MAX_CHOICES or sum(map(len, choices)) > MAX_CHOICE_TEXT:
        raise RequestError(
            f"structured_outputs: more than {MAX_CHOICES} choices, or more than {MAX_CHOICE_TEXT} characters in them"
        )
    return "root ::= " + " | ".join(map(literal, dict.fromkeys(choices)))
