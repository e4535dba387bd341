"""The tool parser against recorded outputs of Ollama's, and where it keeps text that Ollama loses or repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.prompts.gotemplate import parse
from vllama.prompts.messages import Tool, ToolFunction
from vllama.prompts.tools import ToolParser, infer_tag
from vllama.prompts.tools.arguments import ObjectScanner, decode, find_arguments

GOLDEN = Path(__file__).parents[1] / "golden" / "tools.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text("utf-8").strip().split("\n")]
STREAMS = [case for case in CASES if case["kind"] == "stream"]

DIFFERENT: dict[str, dict[str, str]] = json.loads(GOLDEN.with_name("tools_different.json").read_text("utf-8"))
"""Every recorded case whose text after the last chunk differs from Ollama's: ours, and why (docs/compatibility.md)."""


def make(names: list[str], tag: str) -> ToolParser:
    return ToolParser([Tool(ToolFunction(name)) for name in names], tag)


def parser_of(case: dict[str, Any]) -> ToolParser:
    return make([tool["function"]["name"] for tool in case["tools"]], case["tag"])


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["id"])
def test_each_chunk_gives_ollamas_calls_and_content(case: dict[str, Any]) -> None:
    parser = parser_of(case)
    for chunk, expected in zip(case["chunks"], case["expected"], strict=True):
        calls, content = parser.add(chunk)
        got = [{"name": call.name, "arguments": call.arguments, "index": call.index} for call in calls]
        assert got == expected["calls"]
        assert content == expected["content"]
    assert parser.content() == DIFFERENT.get(case["id"], {"content": case["final_content"]})["content"]
    assert parser.content() == ""


def test_the_table_lists_real_differences_only() -> None:
    recorded = {case["id"]: case["final_content"] for case in STREAMS}
    assert all(recorded[name] != ours["content"] for name, ours in DIFFERENT.items())


def join(parser: ToolParser, chunks: list[str]) -> str:
    return "".join([*(parser.add(chunk)[1] for chunk in chunks), parser.content()])


@given(
    st.lists(
        st.sampled_from(["<tool_call>", "<tool", "{", "}", "[", "]", '"', "\\", " ", "x", '"name"', "é"]), max_size=15
    ),
    st.sampled_from(["<tool_call>", "{", "[", "[TOOL_CALLS]"]),
)
def test_without_a_call_every_character_comes_out_once_and_in_order(parts: list[str], tag: str) -> None:
    assert join(make(["get"], tag), parts) == "".join(parts)


CALL = '{"name": "get", "arguments": {"a": "x{"}}'


@given(st.text(alphabet="abc <>é.\n", max_size=20), st.text(alphabet="xyz .é\n", max_size=20), st.integers(1, 9))
def test_text_around_a_tagged_call_is_kept_in_order(before: str, after: str, size: int) -> None:
    text = f"{before}<tool_call>\n{CALL}\n</tool_call>{after}"
    parser = make(["get"], "<tool_call>")
    calls, content = [], ""
    for at in range(0, len(text), size):
        found, piece = parser.add(text[at : at + size])
        calls += found
        content += piece
    content += parser.content()
    assert [call.arguments for call in calls] == [{"a": "x{"}]
    assert content == before + (after if any(map(str.isalnum, after)) else "")


def test_closing_markup_and_separators_are_no_content() -> None:
    for tail in ("</tool_call>", "\n</tool_call><|im_end|>", "]</s>", "\n", "</tool", "```"):
        assert join(make(["get"], "<tool_call>"), ["<tool_call>" + CALL, tail]) == ""


def test_a_second_call_that_was_cut_off_stays_as_text() -> None:
    parser = make(["get"], "<tool_call>")
    assert join(parser, ["<tool_call>" + CALL, '</tool_call>\n<tool_call>{"name": "ge']) == '\n<tool_call>{"name": "ge'


def test_arguments_keep_their_order_and_numbers() -> None:
    calls, _ = make(["get"], "{").add('{"name": "get", "arguments": {"z": 1, "a": 1.5, "m": 12345678901}}')
    assert list(calls[0].arguments.items()) == [("z", 1), ("a", 1.5), ("m", 12345678901)]
    assert isinstance(calls[0].arguments["z"], int)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "\\ud800"}', {"a": "\ufffd"}),
        ("[1]", None),
        ('{"a": NaN}', None),
        ('{"\\u0061": NaN}', None),
        ('{"\\u0061": 1e999}', None),
        ("{" * 5000, None),
        ('{"a":' * 3000 + '"\\ud800"' + "}" * 3000, None),
        ("", None),
    ],
)
def test_decode_takes_objects_only(text: str, value: dict[str, Any] | None) -> None:
    assert decode(text) == value


def test_arguments_as_a_null_string_are_no_call() -> None:
    assert find_arguments("get", {"name": "get", "arguments": "null"}) is None
    assert find_arguments("get", {"name": "get", "arguments": " null "}) is None
    assert find_arguments("get", {"outer": [{"get": '{"a": 1}'}]}) == {"a": 1}
    assert find_arguments("get", {"b": 2}) == {"b": 2}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4), st.integers(1, 7), st.booleans())
def test_the_scanner_finds_any_object_however_it_is_cut(value: dict[str, Any], size: int, ascii_only: bool) -> None:
    encoded = json.dumps(value, ensure_ascii=ascii_only)
    text = "} name " + encoded + " tail"
    scanner, seen = ObjectScanner(), ""
    for at in range(0, len(text), size):
        seen += text[at : at + size]
        scanner.scan(seen)
    assert scanner.value == value
    assert seen[scanner.start : scanner.end + 1] == encoded


@pytest.mark.parametrize("case", [case for case in CASES if "template" in case], ids=lambda case: case["id"])
def test_the_tag_is_read_from_the_template(case: dict[str, Any]) -> None:
    assert infer_tag(parse(case["template"])) == case["tag"]


def test_without_a_template_calls_are_bare_objects() -> None:
    assert infer_tag(None) == "{"
