"""Small GGUF files made here, so that no test of the store needs a real model; stores and hasty transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.gguf import gguf_bytes
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "models")


@pytest.fixture
def limits() -> Limits:
    """Small parts, and waits of milliseconds."""
    return Limits(
        part_min=100_000, backoff_s=0.001, tick_s=0.005, stall_s=5.0, connect_s=5.0, save_every=65536, piece=4096
    )


@pytest.fixture
def transfers(store: Store, limits: Limits, tmp_path: Path) -> Iterator[Transfers]:
    """Pulls and pushes of the store, with a key of their own."""
    made = Transfers(store, limits=limits, key_path=tmp_path / "keys" / "id_ed25519")
    yield made
    made.close()
