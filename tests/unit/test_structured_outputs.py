"""The field `structured_outputs` on every route that generates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama.api.read import read_chat, read_generate
from vllama.api.read_openai import read_openai_chat, read_openai_completion
from vllama.core.apart import Apart
from vllama.core.constraint import constraint_of
from vllama.core.requests import OutputRule
from vllama.errors import RequestError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def formats(**fields: Any) -> list[Any]:
    """What each route makes of these fields."""
    talk = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
    text = json.dumps({"model": "m", "prompt": "x", **fields}).encode()
    return [
        read_chat(talk).format,
        read_generate(text).format,
        read_openai_chat(talk)[0].format,
        read_openai_completion(text)[0].format,
    ]


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (None, None),
        ({"json_object": True}, "json"),
        ({"json": SCHEMA}, SCHEMA),
        ({"json": json.dumps(SCHEMA)}, SCHEMA),
        ({"regex": "[ab]+"}, OutputRule("regex", "[ab]+")),
        ({"choice": ["yes", "no"]}, OutputRule("choice", ("yes", "no"))),
        ({"grammar": 'root ::= "x"'}, OutputRule("grammar", 'root ::= "x"')),
        ({"regex": "a", "json": None, "choice": None, "json_object": False}, OutputRule("regex", "a")),
    ],
)
def test_every_route_reads_it(given: Any, want: Any) -> None:
    assert formats(structured_outputs=given) == [want] * 4


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "must be an object"),
        ({}, "must name one of"),
        ({"regex": "a", "choice": ["b"]}, "must name one of"),
        ({"regex": ""}, "must be a string that is not empty"),
        ({"grammar": 5}, "must be a string that is not empty"),
        ({"choice": "yes"}, "must be a list of strings"),
        ({"choice": ["yes", 1]}, "must be a list of strings"),
        ({"json": "{"}, "is no JSON"),
        ({"json": [1]}, "must be a JSON schema"),
        ({"json_object": 1}, "must be true or false"),
        ({"structural_tag": "x"}, "structural_tag is not supported"),
    ],
)
def test_what_cannot_be_used_is_told(given: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        formats(structured_outputs=given)


def test_it_excludes_the_routes_own_format() -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        formats(structured_outputs={"regex": "a"}, format="json")
    with pytest.raises(RequestError, match="exclude each other"):
        formats(structured_outputs={"regex": "a"}, response_format={"type": "json_object"})


async def test_rules_become_grammars() -> None:
    apart = Apart()
    for rule, gbnf in (
        (OutputRule("regex", "[ab]+"), "root ::= [ab]+"),
        (OutputRule("choice", ("yes", "no")), 'root ::= "yes" | "no"'),
        (OutputRule("grammar", 'root ::= "x"'), 'root ::= "x"'),
    ):
        constraint = await constraint_of(apart, rule)
        assert constraint is not None
        assert (constraint.gbnf, constraint.schema) == (gbnf, None)
