"""Templates, schemas and patterns that mean harm: each ends with a 400 that says why, after bounded work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_hostile import Recording, service
from vllama.core.apart import Apart
from vllama.core.constraint import constraint_of
from vllama.core.rendering import QUICK_OPERATIONS, QUICK_STEPS, executed
from vllama.core.requests import GenerateRequest
from vllama.errors import RequestError, TemplateError, TemplateLimit
from vllama.prompts.gotemplate import TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message
from vllama.prompts.structured import schema_grammar

CHAT = (Message("user", "hello"),)


def nested(depth: int) -> str:
    return "{{ range 300 }}" * depth + "x" + "{{ end }}" * depth


@pytest.mark.parametrize(
    "text",
    [
        nested(6),
        '{{ range 100000 }}{{ printf "%1000000d" 1 }}{{ end }}',
        '{{ define "a" }}{{ range 9 }}{{ template "a" . }}{{ end }}{{ end }}{{ template "a" . }}',
        '{{ $x := "aaaaaaaaaaaaaaaa" }}{{ range 100 }}{{ $x = printf "%s%s" $x $x }}{{ end }}',
        "{{ range 10000000 }}{{ end }}",
        "{{ $x := .Messages }}{{ range 1000000 }}{{ $x = slice $x }}{{ json $x }}{{ end }}",
    ],
    ids=["ranges", "widths", "recursion", "doubling", "one range", "json"],
)
def test_a_go_template_has_a_budget(text: str) -> None:
    template = parse_go(text + "{{ .Messages }}")
    values = TemplateValues(messages=CHAT)
    with pytest.raises(TemplateError, match=r"too many steps|maximum template depth|output is longer"):
        template.execute(values)
    with pytest.raises(TemplateError):
        template.execute(values, steps=QUICK_STEPS)


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
        "{{ 'ab' * 100000000 }}",
        "{% set ns = namespace(x='a' * 1000) %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ range(10**9) | list }}",
        "{{ 2 ** 1000000000 }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    ],
    ids=["loops", "repetition", "doubling", "recursion", "widths", "center", "range", "power", "replace"],
)
def test_a_jinja_template_has_a_budget(text: str) -> None:
    with pytest.raises(TemplateError) as raised:
        JinjaTemplate(text).render(CHAT)
    assert raised.value.status == 400
    assert raised.value.text
    with pytest.raises(TemplateError):
        JinjaTemplate(text).render(CHAT, operations=QUICK_OPERATIONS)


async def test_what_is_too_much_at_once_has_its_whole_budget_apart() -> None:
    long_loop = "{{ range 50000 }}{{ .Nothing }}{{ end }}{{ .Prompt }}"
    values = TemplateValues(messages=CHAT)
    template = parse_go("{{ range 50000 }}{{ end }}{{ .Messages | len }}")
    with pytest.raises(TemplateLimit):
        template.execute(values, steps=QUICK_STEPS)
    apart = Apart()
    try:
        assert await executed(apart, template, values) == "1"
        assert await executed(apart, template.text, values) == "1"
        with pytest.raises(TemplateLimit, match="takes too many steps"):
            await executed(apart, nested(6) + "{{ .Messages }}", values)
        with pytest.raises(TemplateError):
            await executed(apart, long_loop, values)
    finally:
        apart.close()


async def test_a_request_with_such_a_template_is_a_400_and_leaves_nothing(tmp_path: Path) -> None:
    core = service(tmp_path, Recording())
    try:
        with pytest.raises(TemplateError, match="too many steps") as raised:
            await core.generate(GenerateRequest("m", prompt="x", template=nested(6)))
        assert raised.value.status == 400
        assert core.residency.busy == 0
    finally:
        await core.stop()


def deep(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Each definition merges the next one twice."""
    definitions: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{levels}": {"type": "object"}}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (deep(150), "nested too deeply"),
        (deep(5000), "nested too deeply"),
        (doubling(40), "more than 10000 schemas"),
        ({"$ref": "#"}, "refers to itself"),
        ({"enum": [f"{i:064}" for i in range(10_000)]}, "more than 262144 characters"),
        ({"anyOf": [{"const": i} for i in range(20_000)]}, "more than 10000 schemas"),
        ({"type": "string", "maxLength": 10**9}, "2000"),
        ({"type": "string", "pattern": "(" * 5000 + ")" * 5000}, "nested too deeply"),
        ({"type": "string", "pattern": "^((((a{1,2000}){1,2000}){1,2000}){1,2000})$"}, "repeats too much"),
        ({"type": "string", "pattern": "^(?=(a+)+b)$"}, "look-around"),
    ],
    ids=["deep", "deeper", "doubling", "loop", "enum", "anyOf", "length", "groups", "repeats", "look-around"],
)
async def test_a_schema_has_bounds(schema: dict[str, Any], reason: str) -> None:
    apart = Apart()
    try:
        with pytest.raises(RequestError, match=reason) as raised:
            await constraint_of(apart, schema)
        assert raised.value.status == 400
        assert raised.value.text.startswith("format: ")
    finally:
        apart.close()


@pytest.mark.parametrize("pattern", ["^((a+)+|(a|a)+b)$", "^(a*)*$", r"^(\w+\s?)*$"])
def test_a_catastrophic_expression_is_read_in_one_way(pattern: str) -> None:
    # llama.cpp follows all ways to read a text side by side, and here they would double with each letter.
    assert len(schema_grammar({"type": "string", "pattern": pattern})) < 10_000
