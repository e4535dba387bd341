"""Names against what Ollama's own Go packages return (tests/golden/names.jsonl)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.errors import RequestError
from vllama.models.names import Name, parse_reference

GOLDEN = Path(__file__).parents[2] / "golden" / "names.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_parsing_matches_go(case: dict[str, Any]) -> None:
    bare, full, want = Name.parse_bare(case["name"]), Name.parse(case["name"]), case["expected"]
    assert {k: getattr(bare, k) for k in case["bare"]} == case["bare"]
    got = {
        k: getattr(full, k) for k in ("scheme", "host", "namespace", "model", "tag", "valid", "filepath", "base_url")
    }
    got |= {"string": full.full, "display_shortest": full.shortest, "display_namespace_model": full.namespace_model}
    assert got == want


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_references_match_go(case: dict[str, Any]) -> None:
    want = case["ref"]
    if "error" in want:
        with pytest.raises(RequestError) as caught:
            parse_reference(case["name"])
        assert caught.value.text == want["error"]
    else:
        ref = parse_reference(case["name"])
        assert (ref.base, ref.source, ref.pull_name) == (want["base"], want["source"], want["pull_name"])


@given(st.text(max_size=60))
def test_a_valid_name_never_leaves_its_directory(text: str) -> None:
    name = Name.parse(text)
    parts = name.filepath.split("/")
    assert not name.valid or (len(parts) == 4 and not any(p.startswith(".") or "\\" in p or "\0" in p for p in parts))
    assert name.valid == bool(name.filepath)
