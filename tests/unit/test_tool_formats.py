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
    path.stem: [json.loads(line) for line in path.read_text("utf-8").strip().split("\n")]
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


# -- generated output --------------------------------------------------------------------------------------------

MARKERS = sorted(
    {
        marker
        for known in FORMATS
        for marker in (
            *known.control,
            *known.dropped,
            *(text for rule in known.rules for text in (rule.opening, rule.closing, *rule.trailing)),
        )
        if marker
    }
)
PIECES = [*MARKERS, *(" ", "\n", "{", "}", "[", "]", '"', "\\", ",", ";", ":", "<", "<|", "to=", "a b", "ü")]
PIECES += ['{"name": "get', '{"a": "}']
CALLS = [case["text"] for _, case in CASES if case["calls"]]


def word(number: int) -> str:
    """A word that is in the output once."""
    return f"zq{number}x"


@st.composite
def outputs(draw: st.DrawFn, *, calls: list[str]) -> tuple[str, int]:
    """An output, and how many numbered words are in it."""
    parts: list[str] = []
    words = 0
    for kind in draw(st.lists(st.sampled_from("wwpppc"), max_size=12)):
        if kind == "w":
            parts.append(word(words))
            words += 1
        elif kind == "p":
            parts.append(draw(st.sampled_from(PIECES)))
        else:
            call = draw(st.sampled_from(calls))
            if "Oslo" in call:
                # A word within a call's arguments.
                call = call.replace("Oslo", word(words), 1).replace("Oslo", "Rome")
                words += 1
            parts.append(call)
    return "".join(parts), words


def cut(text: str, sizes: list[int]) -> list[str]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(text[at : at + size])
        at += size
    return [*chunks, text[at:]]


def said(parts: Parts) -> str:
    calls, content, thinking = parts
    return "\n".join([content, thinking, *(f"{name} {arguments} {identity}" for name, arguments, identity, _ in calls)])


@pytest.mark.parametrize("name", BY_NAME)
@given(data=st.data())
def test_any_output_is_taken_apart_alike_and_no_word_is_lost(name: str, data: st.DataObject) -> None:
    known = BY_NAME[name]
    own = [case["text"] for case in VECTORS[name] if case["calls"]]
    text, words = data.draw(outputs(calls=own + CALLS[:20]))
    whole = run(parser_of(known), [text])
    assert run(parser_of(known), text) == whole
    assert run(parser_of(known), cut(text, data.draw(st.lists(st.integers(0, 9), max_size=20)))) == whole
    spoken = said(whole)
    assert [number for number in range(words) if spoken.count(word(number)) != 1] == []
    if not whole[0] and known is not HARMONY:
        # Inside a block that turned out to be no call, a marker stays with the rest of it.
        found, expected = whole[1], text
        for marker in known.dropped:
            found, expected = found.replace(marker, ""), expected.replace(marker, "")
        assert found == expected


@given(
    outputs(calls=CALLS),
    st.sampled_from(["{", "[", "<tool_call>", "[TOOL_CALLS]"]),
    st.lists(st.integers(0, 9), max_size=20),
)
def test_the_generic_parser_takes_anything(output: tuple[str, int], tag: str, sizes: list[int]) -> None:
    text, _ = output
    parts = run(Stages(None, ToolParser(TOOLS, tag)), cut(text, sizes))
    if not parts[0]:
        assert parts[1] == text


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("fill", [" ", "{", "[", '{"', "\\", "<", "<|", "a", "}", '{"a":"', "\n```"])
def test_no_character_is_looked_at_often(name: str, fill: str) -> None:
    """What one piece costs depends on the piece: at most a marker is kept to be looked at again."""
    known = BY_NAME[name]
    longest = max(len(marker) for marker in MARKERS)
    openings = [rule.opening for rule in known.rules] or ["<|channel|>commentary to=functions.f<|message|>", ""]
    for opening in (*openings, "", "text "):
        parser: Any = HarmonyParser(TOOLS) if known is HARMONY else known.parser(TOOLS)
        looked = 0
        text = opening + fill * 300
        for char in text:
            looked += parser.held + 1
            parser.add(char)
        parser.finish()
        assert looked <= len(text) * longest


# -- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_a_template_is_recognised_by_its_marks(known: Format) -> None:
    for mark in known.marks:
        template = "{% for tool in tools %}{{ tool }}{% endfor %}" + mark
        assert choose(jinja=template) is known
        assert choose(go="{{ range .Tools }}{{ . }}{{ end }}" + mark) is (known if known.go else None)
    for parser in known.parsers:
        assert choose(parser=parser) is known
    for family in known.families:
        assert choose(family=family) is known


def test_glm_and_qwen3_coder_go_before_hermes() -> None:
    assert choose(jinja="<tool_call>").name == "hermes"  # type: ignore[union-attr]
    assert choose(jinja="<tool_call><arg_key>").name == "glm"  # type: ignore[union-attr]
    assert choose(jinja="<tool_call><function=").name == "qwen3-coder"  # type: ignore[union-attr]


def test_other_templates_keep_the_generic_parser() -> None:
    assert choose() is None
    assert choose(jinja="{{ messages }} {{ tools }}") is None
    assert choose(go="<tool_call>{{ .ToolCalls }}") is None
    assert choose(go="x", parser="nobody-knows", family="llama") is None


def test_names_are_unique() -> None:
    for names in (
        [key for known in FORMATS for key in known.parsers],
        [key for known in FORMATS for key in known.families],
    ):
        assert len(set(names)) == len(names)
    assert len(BY_NAME) == len(FORMATS)
    assert all(known.source.count("/") == 1 for known in FORMATS)


def test_without_tools_only_the_answers_marks_go() -> None:
    known = BY_NAME["command-r"]
    text = "<|START_RESPONSE|>Hi <|START_ACTION|>[]<|END_RESPONSE|>"
    assert run(Stages(None, known.parser(())), text) == ([], "Hi <|START_ACTION|>[]", "")
