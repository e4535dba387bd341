"""Modelfiles against what Ollama's own parser returns (tests/golden/modelfile.jsonl)."""

from __future__ import annotations

import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.models.modelfile import Command, ModelfileError, parse_modelfile, print_modelfile

GOLDEN = Path(__file__).parents[2] / "golden" / "modelfile.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text("utf-8").split("\n") if line]


def source(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["text_b64"]) if "text_b64" in case else case["text"].encode()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_parsing_and_printing_match_go(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(ModelfileError) as caught:
            parse_modelfile(source(case))
        assert caught.value.text == case["error"]
        return
    commands = parse_modelfile(source(case))
    assert [{"name": c.name, "args": c.args} for c in commands] == case["commands"]
    assert print_modelfile(commands) == case["string"]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_cleanly(text: str) -> None:
    with contextlib.suppress(ModelfileError):
        assert any(command.name == "model" for command in parse_modelfile(text))


@given(st.text(st.characters(categories=("L", "N", "P")), min_size=1).filter(lambda s: '"' not in s))
def test_a_printed_system_text_reads_back(text: str) -> None:
    commands = (Command("model", "a"), Command("system", text + "\n" + text))
    assert parse_modelfile(print_modelfile(commands)) == commands
