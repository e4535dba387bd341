"""The thinking parser against recorded outputs of Ollama's, and its invariants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.prompts.gotemplate import parse
from vllama.prompts.thinking import ThinkingParser, infer_tags, overlap

GOLDEN = Path(__file__).parents[1] / "golden" / "thinking.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text("utf-8").strip().split("\n")]
DIFFERENT: dict[str, dict[str, str]] = json.loads(GOLDEN.with_name("thinking_different.json").read_text("utf-8"))
"""Every recorded case where Ollama loses text at the end of the output: ours, and why (docs/compatibility.md)."""
INFER = [case for case in CASES if case["kind"] == "infer"]
STREAMS = [case for case in CASES if case["kind"] == "stream"]


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["id"])
def test_each_chunk_splits_as_ollama_splits_it(case: dict[str, Any]) -> None:
    parser = ThinkingParser(case["open_tag"], case["close_tag"])
    if case["prompt_ends_with_open"]:
        parser.add(case["open_tag"])
    got = [parser.add(chunk) for chunk in case["chunks"]]
    assert got == [(step["thinking"], step["content"]) for step in case["expected"]]
    ours = DIFFERENT.get(case["id"], {"thinking": "", "content": ""})
    assert parser.finish() == (ours["thinking"], ours["content"])


pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "/", "think", ">", " ", "\n", "a", "é", "</thi"]), max_size=12
)


@given(pieces, st.booleans())
def test_chunking_never_changes_the_joined_text(parts: list[str], opened: bool) -> None:
    def run(chunks: list[str]) -> tuple[str, str]:
        parser = ThinkingParser("<think>", "</think>")
        if opened:
            parser.add("<think>")
        out = [*(parser.add(chunk) for chunk in chunks), parser.finish()]
        return "".join(t for t, _ in out), "".join(c for _, c in out)

    whole = "".join(parts)
    assert run(parts) == run([whole]) == run(list(whole))


@pytest.mark.parametrize(
    ("chunks", "rest"),
    [
        (["<think"], ("", "<think")),
        (["<think>abc</th"], ("</th", "")),
        (["<think>a</think> b<th"], ("", "")),
        ([" "], ("", " ")),
    ],
)
def test_finish_gives_what_was_held_back(chunks: list[str], rest: tuple[str, str]) -> None:
    parser = ThinkingParser("<think>", "</think>")
    for chunk in chunks:
        parser.add(chunk)
    assert parser.finish() == rest
    assert parser.finish() == ("", "")


def test_thinking_is_true_only_between_the_tags() -> None:
    parser = ThinkingParser("<think>", "</think>")
    seen = []
    for chunk in ["<thi", "nk>", "a", "</think>", "b"]:
        parser.add(chunk)
        seen.append(parser.thinking)
    assert seen == [False, True, True, False, False]


def test_overlap_is_the_longest() -> None:
    assert overlap("xabab", "ababc") == 4
    assert overlap("xyz", "abc") == 0
    assert overlap("", "abc") == 0


@pytest.mark.parametrize("case", INFER, ids=lambda case: case["id"])
def test_tags_are_read_from_the_template(case: dict[str, Any]) -> None:
    assert infer_tags(parse(case["template"]).root) == (case["expected"]["open_tag"], case["expected"]["close_tag"])
