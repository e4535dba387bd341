"""What `format` asks of the engine: small schemas become grammars at once, others in a process apart."""

from __future__ import annotations

import json
from typing import Any

from vllama.core.apart import Apart
from vllama.core.requests import OutputRule
from vllama.engines.base import Constraint
from vllama.errors import RequestError
from vllama.goquote import quote

SHORT = 8 << 10
"""Characters of a schema that is compiled at once, if it has no more than `FEW` parts."""

FEW = 200
"""Schemas within a schema, each as often as it is referred to."""


async def constraint_of(apart: Apart, wanted: Any) -> Constraint | None:
    """The constraint for a request's `format`; None for none. Raises `RequestError` naming the place."""
    if wanted is None:
        return None
    # Slow to import, and most requests do without.
    from vllama.prompts.structured import SchemaTooLarge, json_grammar, schema_grammar

    if isinstance(wanted, OutputRule):
        return Constraint(_rule(wanted))
    if wanted == "json":
        return Constraint(json_grammar(), schema="")
    if not isinstance(wanted, dict):
        raise RequestError(f'invalid format: {quote(str(wanted))}; expected "json" or a valid JSON Schema object')
    try:
        text = json.dumps(wanted)
    except RecursionError:
        raise RequestError("format: the schema is nested too deeply (at #)") from None
    if len(text) <= SHORT:
        try:
            return Constraint(schema_grammar(wanted, most=FEW), schema=text)
        except SchemaTooLarge:
            pass
    return Constraint(await apart.call(schema_grammar, wanted), schema=text)


def _rule(rule: OutputRule) -> str:
    from vllama.prompts.rules import choice_rule, regex_rule

    if isinstance(rule.value, tuple):
        return choice_rule(rule.value)
    return regex_rule(rule.value) if rule.kind == "regex" else rule.value
