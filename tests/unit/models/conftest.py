"""Small GGUF files made here, so that no test of the store needs a real model."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(v) for v in value)
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf_bytes(
    kv: dict[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = (("blk.0.w", (32, 2), 0, 256), ("out", (4,), 0, 16)),
    version: int = 3,
) -> bytes:
    """A GGUF with zeros as weights; a tensor is (name, shape, type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(kv))
    out += b"".join(text(key) + value_bytes(value) for key, value in kv.items())
    offset, data = 0, b""
    for name, shape, kind, size in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
        padded = -(-size // 32) * 32
        offset += padded
        data += bytes(padded)
    return out + bytes(-len(out) % 32) + data


DEFAULT_KV: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 1,
    "llama.context_length": 512,
    "llama.embedding_length": 32,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-05,
    "tokenizer.ggml.tokens": ["a", "bc", "ü"],
    "tokenizer.ggml.token_type": [1, 2, 3],
    "tokenizer.chat_template": CHATML,
}

MakeGGUF = Callable[..., Path]


@pytest.fixture
def make_gguf(tmp_path: Path) -> MakeGGUF:
    """make_gguf(name="tiny.gguf", **metadata) -> path of a small valid file; "__" in a key means "."."""

    def make(name: str = "tiny.gguf", **changes: Any) -> Path:
        kv = DEFAULT_KV | {key.replace("__", "."): value for key, value in changes.items()}
        path = tmp_path / name
        path.write_bytes(gguf_bytes({key: value for key, value in kv.items() if value is not None}))
        return path

    return make


@pytest.fixture
def gguf_writer() -> Callable[..., bytes]:
    """The bytes of a GGUF from metadata, tensors and a version."""
    return gguf_bytes
