"""Hostile GGUF files: a share of the fuzzing, and the shapes that broke other servers, each by its name."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.gguf import MAX_BYTES, Report, fuzz, judge
from tests.fuzz.headers import made
from tests.tools.gguf import header, text
from vllama.errors import RequestError
from vllama.models import gguf
from vllama.models.create import CreateRequest, CreateTools, create
from vllama.models.gguf import GGUFError, read_metadata
from vllama.models.library import Library
from vllama.models.model import ModelConfig

MakeGGUF = Callable[..., Path]
KV: dict[str, Any] = {"general.architecture": "llama", "llama.block_count": 2, "general.file_type": 1}


def start(tensors: int, keys: int) -> bytes:
    """The first bytes of a file with such counts."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def array(key: str, kind: int, count: int) -> bytes:
    return pair(key, 9, struct.pack("<IQ", kind, count))


SHAPES: dict[str, tuple[bytes, str]] = {
    "four bytes, CVE-2024-39720": (b"GGUF", "beyond the end"),
    "more tensors than bytes, CVE-2024-12055": (start(2**64 - 1, 0) + bytes(64), "tensors do not fit"),
    "more keys than bytes, CVE-2025-0315": (start(0, 2**63) + bytes(64), "keys do not fit"),
    "a string longer than the file, CVE-2025-0315": (
        start(0, 1) + pair("a", 8, struct.pack("<Q", 2**40)) + bytes(64),
        "has 1099511627776 bytes",
    ),
    "a length that is negative as int64, CVE-2024-12055": (
        start(0, 1) + struct.pack("<Q", 2**64 - 8) + bytes(64),
        "has 18446744073709551608 bytes",
    ),
    "an array of 2^61 numbers, whose bytes are 0 modulo 2^64": (
        start(0, 1) + array("a", 10, 2**61) + bytes(64),
        "elements does not fit",
    ),
    "an array of arrays, CVE-2025-0312": (start(0, 1) + array("a", 9, 1) + bytes(64), "element type 9"),
    "alignment 0, CVE-2025-0317": (
        header(KV | {"general.alignment": 0}, [("w", (4,), 0, 16)]) + bytes(64),
        "power of two",
    ),
    "weights beyond the end, CVE-2026-7482": (header(KV, [("w", (2**20,), 0, 16)]) + bytes(64), "beyond the end"),
    "dimensions whose product is 0 modulo 2^64, CVE-2026-7482": (
        header(KV, [("w", (2**32, 2**32), 0, 16)]) + bytes(64),
        "beyond the end",
    ),
    "an unknown type of 2^63 elements": (header(KV, [("w", (2**63,), 77, 16)]) + bytes(64), "beyond the end"),
    "an offset that wraps round": (
        start(1, 0) + text("w") + struct.pack("<IQIQ", 1, 4, 0, 2**64 - 32) + bytes(64),
        "beyond the end",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_broke_others(tmp_path: Path, name: str) -> None:
    raw, message = SHAPES[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(GGUFError, match=message):
        read_metadata(path)


@pytest.mark.parametrize("name", SHAPES)
def test_creating_from_them_is_refused_and_leaves_no_model(tmp_path: Path, name: str) -> None:
    library = Library(tmp_path / "models", overlay=False)
    digest, _ = library.store.write_blob(SHAPES[name][0])
    with pytest.raises(RequestError):
        list(create(CreateRequest("bad", files={"bad.gguf": digest}), library, CreateTools()))
    assert library.models() == []


@pytest.mark.parametrize("key", ["block_count", "attention.head_count", "embedding_length", "context_length"])
@pytest.mark.parametrize("value", [0, -1, "x", 2**32 - 1, [0, 0]])
def test_counts_of_nothing_are_divided_by_nowhere(make_gguf: MakeGGUF, tracing: Report, key: str, value: Any) -> None:
    """CVE-2024-8063: a model with block_count 0."""
    value = value & 2**32 - 1 if isinstance(value, int) else value
    assert judge(make_gguf(**{f"llama__{key.replace('.', '__')}": value}), tracing) == ""
    assert tracing.outcomes == {"read": 1}


@pytest.fixture
def tracing() -> Iterator[Report]:
    """For `judge`."""
    tracemalloc.start()
    yield Report()
    tracemalloc.stop()


def test_texts_that_fit_into_a_huge_file_do_not_fit_into_memory(tmp_path: Path, tracing: Report) -> None:
    """Each string is allowed; all together are gigabytes, of which a sparse file has room for any number."""
    path = tmp_path / "texts.gguf"
    length = gguf.MAX_STRING
    with path.open("wb") as file:
        file.write(start(0, 1000))
        for number in range(1000):
            file.write(pair(f"key {number}", 8, struct.pack("<Q", length)))
            file.seek(length, os.SEEK_CUR)
        file.truncate()
    assert judge(path, tracing) == ""
    assert tracing.outcomes == {"refused": 1}
    assert tracing.peak < MAX_BYTES


def test_empty_strings_without_end_are_not_walked(tmp_path: Path, tracing: Report) -> None:
    path = tmp_path / "words.gguf"
    path.write_bytes(start(0, 50) + array("words", 8, gguf.MAX_WALKED + 1))
    os.truncate(path, 1 << 40)
    assert judge(path, tracing) == ""
    assert tracing.outcomes == {"refused": 1}


def test_arrays_that_are_too_large_are_not_decoded(tmp_path: Path, tracing: Report) -> None:
    path = tmp_path / "numbers.gguf"
    path.write_bytes(start(0, 1) + array("numbers", 0, gguf.MAX_ELEMENTS))
    os.truncate(path, 1 << 30)
    assert len(read_metadata(path).kv["numbers"]) == gguf.MAX_ELEMENTS
    assert judge(path, tracing) == ""
    assert tracing.outcomes == {"refused": 1}


def test_a_share_of_the_fuzzing(tmp_path: Path) -> None:
    seeds = [
        made(KV | {"words": ["a", "b"] * 20, "numbers": [1, 2, 3], "x": 0.5, "yes": True}),
        made({"general.architecture": "clip", "tokenizer.chat_template": "{{ x }}" * 40}),
    ]
    report = fuzz(tmp_path, seeds, 1500, number=7)
    assert report.broken == []
    assert set(report.outcomes) == {"read", "refused", "truncated", "no GGUF"}
    assert report.peak < MAX_BYTES


def test_the_fuzzing_notices_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With checks taken away, files break promises and stay for a look."""
    monkeypatch.setattr(ModelConfig, "to_json", lambda self: {"size": 1 // len(self.family.encode()[:6])})
    report = fuzz(tmp_path, [made({"general.architecture": "llama"})], 300, number=7)
    assert any("ZeroDivisionError" in line for line in report.broken)
    assert len(list(tmp_path.iterdir())) == len(report.broken)
