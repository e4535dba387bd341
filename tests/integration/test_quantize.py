"""`quantize` of /api/create: llama.cpp in a child process writes the file, and what it cannot write is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tools.gguf import write_gguf
from vllama.config import load_settings
from vllama.core.creating import create_model
from vllama.engines.quantizing import quantize
from vllama.errors import RequestError, ServerError
from vllama.models.blobs import import_file
from vllama.models.create import CreateRequest
from vllama.models.gguf import read_metadata
from vllama.models.library import Library

pytestmark = pytest.mark.model

WIDTH, WORDS = 256, 32


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A llama of one block with random weights, F16."""
    rng = np.random.default_rng(1)
    shapes = {
        "token_embd": (WORDS, WIDTH),
        "output": (WORDS, WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}": (WIDTH, WIDTH) for part in ("gate", "up", "down")},
    }
    tensors = {f"{name}.weight": rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.block_count": 1,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"word{n}" for n in range(WORDS)],
        "tokenizer.ggml.scores": [0.0] * WORDS,
        "tokenizer.ggml.token_type": [1] * WORDS,
    }
    path = tmp_path / "weights.gguf"
    write_gguf(path, metadata, tensors)
    return path


@pytest.mark.parametrize(("wanted", "tensor_type"), [("q8_0", "Q8_0"), ("Q4_K_M", "Q4_K"), ("bf16", "BF16")])
def test_created_quantized(tmp_path: Path, weights: Path, wanted: str, tensor_type: str) -> None:
    library = Library(tmp_path / "models", overlay=False)
    digest, size, _ = import_file(library.store, weights)
    request = CreateRequest("small", files={"weights.gguf": digest}, quantize=wanted)
    statuses = [line["status"] for line in create_model(request, library, load_settings({}, environ={"HOME": "/"}))]
    assert "verifying conversion" in statuses
    assert statuses[-1] == "success"
    model = library.resolve("small")
    assert model.config.quantization_level == model.metadata.file_type == wanted.upper()
    assert tensor_type in {tensor.type_name for tensor in model.metadata.tensors}
    assert model.metadata.parameter_count == read_metadata(weights).parameter_count
    assert wanted == "bf16" or model.size < size
    assert [path.name for path in library.store.blobs.iterdir() if path.name.startswith(".")] == []


def test_what_llama_cpp_refuses_is_an_error_and_no_model(tmp_path: Path, weights: Path) -> None:
    """A header that our reader takes and an architecture that llama.cpp does not know."""
    raw = weights.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0nonea", 1)
    weights.write_bytes(raw)
    library = Library(tmp_path / "models", overlay=False)
    digest, *_ = import_file(library.store, weights)
    request = CreateRequest("small", files={"weights.gguf": digest}, quantize="q8_0")
    with pytest.raises(ServerError, match=r"quantizing failed: .*nonea"):
        list(create_model(request, library, load_settings({}, environ={"HOME": "/"})))
    assert library.models() == []


def test_only_floats_are_quantized(tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "quantized.gguf"
    quantize(weights, target, "Q8_0", 1)
    library = Library(tmp_path / "models", overlay=False)
    digest, *_ = import_file(library.store, target)
    request = CreateRequest("small", files={"w.gguf": digest}, quantize="q4_k_m")
    with pytest.raises(RequestError, match="only supported for F16, BF16 and F32 models"):
        list(create_model(request, library, load_settings({}, environ={"HOME": "/"})))


def test_a_child_that_is_killed_is_an_error(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _command, **options: real(killed, **options))
    with pytest.raises(ServerError, match="ended by SIGKILL"):
        quantize(weights, tmp_path / "q.gguf", "Q8_0", 1)


def test_the_quantized_file_is_what_the_type_says(tmp_path: Path, weights: Path) -> None:
    target = tmp_path / "q.gguf"
    quantize(weights, target, "Q8_0", 1)
    found = {tensor.name: tensor.type_name for tensor in read_metadata(target).tensors}
    assert found["blk.0.ffn_up.weight"] == "Q8_0"
    assert found["output_norm.weight"] == "F32"
    assert found.keys() == {tensor.name for tensor in read_metadata(weights).tensors}
