"""The language, against what Go's own packages and Ollama returned for the same templates."""

from __future__ import annotations

import base64
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from vllama.errors import TemplateError
from vllama.prompts.gotemplate import TemplateValues, parse
from vllama.prompts.messages import Message, Tool, ToolCall, ToolFunction

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "gotemplate.jsonl").read_text("utf-8").splitlines()
]


def _message(body: dict[str, Any]) -> Message:
    calls = [
        ToolCall(
            name=call["function"]["name"],
            arguments=call["function"].get("arguments") or {},
            id=call.get("id", ""),
            index=call["function"].get("index", 0),
        )
        for call in body.get("tool_calls") or ()
    ]
    return Message(
        role=body["role"].lower(),
        content=body.get("content", ""),
        thinking=body.get("thinking", ""),
        images=tuple(base64.b64decode(image) for image in body.get("images") or ()),
        tool_calls=tuple(calls),
        tool_name=body.get("tool_name", ""),
        tool_call_id=body.get("tool_call_id", ""),
    )


def _tool(body: dict[str, Any]) -> Tool:
    function = body.get("function", {})
    return Tool(
        ToolFunction(function.get("name", ""), function.get("description", ""), function.get("parameters") or {}),
        body.get("type", ""),
        body.get("items"),
    )


def _values(body: dict[str, Any]) -> TemplateValues:
    return TemplateValues(
        messages=tuple(map(_message, body.get("messages") or ())),
        tools=tuple(map(_tool, body.get("tools") or ())),
        prompt=body.get("prompt", ""),
        suffix=body.get("suffix", ""),
        think=body.get("think", False),
        think_level=body.get("think_level", ""),
        is_think_set=body.get("is_think_set", False),
        tools_given=body.get("tools") is not None,
    )


def _expected(vector: dict[str, Any], today: date) -> bytes:
    if "expected_b64" in vector:
        return base64.b64decode(vector["expected_b64"])
    text: str = vector["expected"]
    if vector.get("dates"):
        yesterday = today - timedelta(days=1)
        text = text.replace("@TODAY@", today.isoformat()).replace("@YESTERDAY@", yesterday.isoformat())
    return text.encode()


def test_there_are_vectors() -> None:
    """The file is whole."""
    assert len(VECTORS) == 937


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
def test_vector(vector: dict[str, Any]) -> None:
    """Output, mentioned names and error texts are Go's."""
    if vector.get("error_stage") == "parse":
        with pytest.raises(TemplateError) as caught:
            parse(vector["template"])
        assert caught.value.text == vector["error"]
        return
    template = parse(vector["template"])
    assert sorted(template.vars) == vector["vars"]

    def render() -> str:
        if vector["mode"] == "raw":
            return template.execute_raw(vector["values"])
        return template.execute(_values(vector["values"]))

    if "error" in vector:
        with pytest.raises(TemplateError) as caught:
            render()
        assert caught.value.text == vector["error"]
        return
    # Midnight may pass between the two looks at the calendar.
    before = date.today()
    output = render().encode("utf-8", "surrogateescape")
    assert output in {_expected(vector, before), _expected(vector, date.today())}
