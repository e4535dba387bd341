"""Two files with the same weights in another order, and what differs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vllama.bench.systems.ollama import stored_blob
from vllama.bench.systems.vllama import write_store
from vllama.bench.weights import read_weights
from vllama.errors import ConfigError

Tensors = list[tuple[str, bytes]]
TENSORS: Tensors = [("a", b"\x01" * 40), ("b", b"\x02" * 32 + b"\0" * 8), ("c", b"\x03" * 8)]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(path: Path, tensors: Tensors, *, keys: int = 0, kind: int = 0, alignment: int = 32) -> Path:
    """A file with these tensors in this order, and some metadata of several types before them."""
    rows = [
        text("general.alignment") + struct.pack("<II", 4, alignment),
        text("words") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
        text("floats") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        *(text(f"key{i}") + struct.pack("<I", 8) + text("x" * i) for i in range(keys)),
    ]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(rows)) + b"".join(rows)
    body = b""
    for name, content in tensors:
        head += text(name) + struct.pack("<IQIQ", 1, len(content), kind, len(body))
        body += content + b"\0" * (-len(content) % alignment)
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + body)
    return path


def test_order_metadata_and_padding_do_not_matter(tmp_path: Path) -> None:
    first = read_weights(gguf(tmp_path / "1", TENSORS))
    assert first.count == 3
    assert read_weights(gguf(tmp_path / "2", TENSORS[::-1], keys=5)) == first
    assert read_weights(gguf(tmp_path / "3", TENSORS, alignment=64)) == first


@pytest.mark.parametrize(
    "tensors",
    [
        [("a", b"\x01" * 39 + b"\x02"), *TENSORS[1:]],
        [("z", TENSORS[0][1]), *TENSORS[1:]],
        TENSORS[:2],
        [TENSORS[0], ("b", b"\x02" * 32), TENSORS[2]],
    ],
    ids=["byte", "name", "missing", "shape"],
)
def test_whatever_differs_in_a_tensor_matters(tensors: Tensors, tmp_path: Path) -> None:
    assert read_weights(gguf(tmp_path / "1", tensors)) != read_weights(gguf(tmp_path / "2", TENSORS))


def test_the_type_matters(tmp_path: Path) -> None:
    assert read_weights(gguf(tmp_path / "1", TENSORS, kind=1)) != read_weights(gguf(tmp_path / "2", TENSORS))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = gguf(tmp_path / "whole", TENSORS).read_bytes()
    for length in (0, 3, 20, 60, 150, len(whole) - 100):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="cut: not a whole GGUF file"):
            read_weights(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(b"GGML" + whole[4:])
    with pytest.raises(ConfigError, match="no GGUF mark"):
        read_weights(tmp_path / "cut")


def test_the_blob_of_a_stored_model(tmp_path: Path) -> None:
    file = gguf(tmp_path / "m.gguf", TENSORS)
    write_store(tmp_path / "store", "bench:latest", file, "ab" * 32)
    blob = stored_blob(tmp_path / "store", "bench:latest")
    assert blob is not None
    assert read_weights(blob) == read_weights(file)
    assert stored_blob(tmp_path / "store", "other:latest") is None
