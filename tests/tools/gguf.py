"""Writes GGUF files: key-value metadata, and tensors of floats or of nothing but zeros."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32
TENSOR_TYPES = {"float32": 0, "float16": 1}
TENSORS: tuple[tuple[str, tuple[int, ...], int, int], ...] = (("blk.0.w", (32, 2), 0, 256), ("out", (4,), 0, 16))


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """`tensors` are float32 or float16, their shapes as numpy prints them (GGUF counts dimensions from the inside)."""
    infos = [(name, t.shape[::-1], TENSOR_TYPES[t.dtype.name], t.nbytes) for name, t in tensors.items()]
    with path.open("wb") as file:
        file.write(header(metadata, infos))
        for tensor in tensors.values():
            raw = np.ascontiguousarray(tensor).tobytes()
            file.write(raw + bytes(_padded(len(raw)) - len(raw)))


def gguf_bytes(
    metadata: Mapping[str, Any], tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = TENSORS, version: int = 3
) -> bytes:
    """A GGUF with zeros as weights; a tensor is (name, shape from the inside, type, bytes)."""
    return header(metadata, tensors, version) + bytes(sum(_padded(size) for *_, size in tensors))


def header(
    metadata: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...], int, int]], version: int = 3
) -> bytes:
    """All before the weights, padded; sizes are not checked, for files that lie."""
    listed = list(tensors)
    out = [b"GGUF", struct.pack("<IQQ", version, len(listed), len(metadata))]
    out += [text(key) + value_bytes(value) for key, value in metadata.items()]
    offset = 0
    for name, shape, kind, size in listed:
        out.append(text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += _padded(size)
    start = b"".join(out)
    return start + bytes(_padded(len(start)) - len(start))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def text(value: str) -> bytes:
    """A string with its length in front."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> bytes:
    """A value with its type in front: bool, uint32, float32, string, and lists of strings, floats or int32."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    code, kind = ("f", 6) if value and isinstance(value[0], float) else ("i", 5)
    return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)
