"""Every format of tool calls: vectors cut at every place, generated text, and the table that chooses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.prompts.messages import Tool, ToolCall, ToolFunction
from vllama.prompts.tools import FORMATS, HARMONY, HarmonyParser, OutputParser, Stages, ToolParser, choose
from vllama.prompts.tools.registry import Format

GOLDEN = Path(__file__).parents[1] / "golden" / "tools"
BY_NAME = {known.name: known for known in FORMATS}
VECTORS: dict[str, list[dict[str, Any]]] = {
    path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for path in sorted(GOLDEN.glob("*.jsonl"))
}
CASES = [(name, case) for name, cases in VECTORS.items() for case in cases]

TOOLS = (
    Tool(
        ToolFunction(
            "get_weather",
            parameters={"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        )
    ),
    Tool(ToolFunction("list_files")),
    Tool(
        ToolFunction(
            "note",
            parameters={
                "type": "object",
                "properties": {
                    "text": {"type": ["string", "null"]},
                    "tags": {"type": "array"},
                    "meta": {"anyOf": [{"type": "object"}, {"type": "null"}]},
                    "done": {"type": "boolean"},
                },
            },
        )
    ),
)


def parser_of(known: Format) -> OutputParser:
    return HarmonyParser(TOOLS) if known is HARMONY else Stages(None, known.parser(TOOLS))


Parts = tuple[list[tuple[str, str, str, int]], str, str]


def plain(call: ToolCall) -> tuple[str, str, str, int]:
    """Comparable: the text of the arguments tells True from 1 and knows the order."""
    return call.name, json.dumps(call.arguments), call.id, call.index


def run(parser: OutputParser, chunks: Iterable[str]) -> Parts:
    """(calls, content, thinking) of the whole output."""
    pieces = [*map(parser.add, chunks), parser.finish()]
    calls = [plain(call) for piece in pieces for call in piece.calls]
    return calls, "".join(piece.content for piece in pieces), "".join(piece.thinking for piece in pieces)


def expected(case: dict[str, Any]) -> Parts:
    calls = [
        (call["name"], json.dumps(call["arguments"]), call.get("id", ""), index)
        for index, call in enumerate(case["calls"])
    ]
    return calls, case["content"], case.get("thinking", "")


def test_every_format_has_vectors() -> None:
    assert set(VECTORS) == set(BY_NAME)
    assert min(map(len, VECTORS.values())) >= 20


@pytest.mark.parametrize(("name", "case"), CASES, ids=[case["id"] for _, case in CASES])
def test_vectors_at_every_split(name: str, case: dict[str, Any]) -> None:
    known, text, wanted = BY_NAME[name], case["text"], expected(case)
    assert run(parser_of(known), [text]) == wanted
    assert run(parser_of(known), text) == wanted
    for at in range(1, len(text)):
        assert run(parser_of(known), [text[:at], text[at:]]) == wanted
