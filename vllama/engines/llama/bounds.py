"""How large a request may be before it is not even tried: what C code would do with it has no other bound."""

from __future__ import annotations

import re

from vllama.engines.llama.prompt import RequestFault

MAX_GRAMMAR = 1 << 20
"""Characters of GBNF."""

MAX_RULES = 10_000
"""Rules of a grammar: a chain of them is walked recursively in C."""

MAX_DEPTH = 500
"""Parentheses within parentheses: likewise."""

_QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|\[(?:\\.|[^\]\\\n])*\]|#[^\n]*')


def check_grammar(gbnf: str) -> None:
    """Raises `RequestFault` for a grammar that is too large or nested too deeply."""
    if len(gbnf) > MAX_GRAMMAR:
        raise RequestFault("request", f"the grammar has {len(gbnf)} characters, {MAX_GRAMMAR} are allowed")
    plain = _QUOTED.sub("", gbnf)
    rules = plain.count("::=")
    if rules > MAX_RULES:
        raise RequestFault("request", f"the grammar has {rules} rules, {MAX_RULES} are allowed")
    depth = deepest = 0
    for bracket in re.findall(r"[()]", plain):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise RequestFault("request", f"the grammar is nested {deepest} deep, {MAX_DEPTH} are allowed")


def clip(text: str, *, num_ctx: int, longest: int, truncate: bool, too_long: str) -> str:
    """The text without the middle that cannot be in the prompt, whatever its tokens are.

    `longest` is the most characters that one token stands for (0: not known, nothing is cut). `num_ctx` tokens of each
    end are left, and that is more than what is kept of a prompt that must be cut. Raises `RequestFault` when it must
    not be cut; the token count in it is then a lower bound.
    """
    reach = num_ctx * longest
    if not longest or len(text) <= reach:
        return text
    if not truncate:
        raise RequestFault("too_long", too_long, len(text) // longest + 1)
    return text[:reach] + text[-reach:] if len(text) > 2 * reach else text
