"""The GGUF reader: right on good files, and nothing but `GGUFError` on any other."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama.errors import ModelLoadError
from vllama.models.gguf import GGUFArray, GGUFError, read_metadata, shortest_float32

MakeGGUF = Callable[..., Path]
Writer = Callable[..., bytes]
KV: dict[str, Any] = {
    "general.architecture": "llama",
    "n": 5,
    "f": 0.25,
    "yes": True,
    "words": ["x", "yy"],
    "t": "text",
}


def test_metadata_and_tensors(make_gguf: MakeGGUF) -> None:
    found = read_metadata(make_gguf())
    assert found.architecture == "llama"
    assert found.arch_int("context_length") == 512
    assert found.kv["llama.attention.layer_norm_rms_epsilon"] == 1e-05
    assert found.file_type == "F16"
    assert found.parameter_count == 32 * 2 + 4
    assert [(t.name, t.type_name, t.shape) for t in found.tensors] == [
        ("blk.0.w", "F32", (32, 2)),
        ("out", "F32", (4,)),
    ]


def test_arrays_are_decoded_on_demand(make_gguf: MakeGGUF) -> None:
    found = read_metadata(make_gguf())
    tokens, kinds = found.kv["tokenizer.ggml.tokens"], found.kv["tokenizer.ggml.token_type"]
    assert isinstance(tokens, GGUFArray)
    assert len(tokens) == 3
    assert tokens.values() == ["a", "bc", "ü"]
    assert kinds.values() == [1, 2, 3]


def test_long_arrays_cross_the_read_window(make_gguf: MakeGGUF) -> None:
    words = [f"token {n} {'x' * (n % 90)}" for n in range(40_000)]
    found = read_metadata(make_gguf(tokenizer__ggml__tokens=words))
    assert found.kv["tokenizer.ggml.tokens"].values() == words
    assert found.chat_template


def test_version_2_reads_the_same(tmp_path: Path, gguf_writer: Writer) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(gguf_writer(KV, version=2))
    assert read_metadata(path).version == 2


def test_a_changed_file_is_read_again(make_gguf: MakeGGUF) -> None:
    path = make_gguf()
    assert read_metadata(path) is read_metadata(path)
    make_gguf(general__file_type=7)
    os.utime(path, ns=(1, 1))
    assert read_metadata(path).file_type == "Q8_0"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "not a GGUF file"),
        (b"GGU", "not a GGUF file"),
        (b"ggml" + bytes(40), "not a GGUF file"),
        (b"GGUF", "version at byte 4 goes beyond the end"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not supported"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors do not fit"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "metadata keys do not fit"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + bytes(64), "metadata key"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60) + bytes(64), "elements does not fit"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1) + bytes(64), "unsupported element type"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99) + bytes(64), "unknown type 99"),
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, raw: bytes, text: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(GGUFError, match=text):
        read_metadata(path)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ([("w", (2**40,), 0, 16)], "goes beyond the end"),
        ([("w", (2**63, 2**63), 0, 16)], "goes beyond the end"),
        ([("w", (33,), 2, 32)], "does not divide into blocks"),
        ([("w", (4,), 0, 16), ("w", (4,), 0, 16)], "occurs twice"),
        ([("w", (1, 1, 1, 1, 1), 0, 16)], "5 dimensions"),
    ],
)
def test_tensors_must_lie_in_the_file(tmp_path: Path, gguf_writer: Writer, tensors: Any, text: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(gguf_writer(KV, tensors))
    with pytest.raises(GGUFError, match=text):
        read_metadata(path)


def test_alignment_must_be_a_power_of_two(make_gguf: MakeGGUF) -> None:
    for alignment in (0, 3, 2**31):
        with pytest.raises(GGUFError, match="power of two"):
            read_metadata(make_gguf(f"a{alignment}.gguf", general__alignment=alignment))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot open"):
        read_metadata(tmp_path / "missing.gguf")
    with pytest.raises(ModelLoadError, match="not a regular file"):
        read_metadata(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelLoadError, match="not a regular file"):
        read_metadata(tmp_path / "pipe.gguf")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_a_clean_error(tmp_path: Path, gguf_writer: Writer, data: st.DataObject) -> None:
    raw = bytearray(gguf_writer(KV))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(raw)))
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(raw[:cut])
    os.utime(path, ns=(data.draw(st.integers(1, 10**15)), data.draw(st.integers(1, 10**15))))
    try:
        found = read_metadata(path)
        arrays = [v.values() for v in found.kv.values() if isinstance(v, GGUFArray)]
    except GGUFError:
        return
    assert sum(map(len, arrays)) <= len(raw)
    assert all(found.data_offset + t.offset <= cut for t in found.tensors)


@given(st.floats(width=32, allow_nan=False))
def test_float32_values_keep_their_bits(value: float) -> None:
    assert struct.pack("<f", shortest_float32(value)) == struct.pack("<f", value)
