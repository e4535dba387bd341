"""BERT models for tests: the real all-MiniLM-L6-v2 from its Python package, and a tiny one with random weights.

`reference` computes their embeddings in plain numpy, so that no test needs PyTorch.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.tools.gguf import write_gguf

Array = np.ndarray[Any, Any]

POOLING = {"none": 0, "mean": 1, "cls": 2, "last": 3}
PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNK, CLS, SEP, MASK)

_TENSORS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


@dataclass(frozen=True)
class Bert:
    """Weights under GGUF names, and what it takes to use them. `tokens` are WordPiece's, `##` and all."""

    tensors: dict[str, Array]
    tokens: list[str]
    layers: int
    heads: int
    width: int
    inner: int
    context: int
    epsilon: float
    pooling: str = "mean"


def minilm(folder: Path) -> Bert:
    """all-MiniLM-L6-v2 from a folder with config.json, vocab.txt and model.safetensors."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {}
    for name, tensor in _safetensors(folder / "model.safetensors").items():
        known = _gguf_name(name)
        if known is not None:
            tensors[known] = tensor
    return Bert(
        tensors=tensors,
        tokens=(folder / "vocab.txt").read_text().splitlines(),
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        width=config["hidden_size"],
        inner=config["intermediate_size"],
        context=config["max_position_embeddings"],
        epsilon=config["layer_norm_eps"],
    )


def tiny(pooling: str = "mean", *, context: int = 64, seed: int = 1) -> Bert:
    """Two layers, 32 numbers wide, words of letters and digits; random but always the same."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["the", "cat", "sat", "on", "mat", "why", "is", "sky", "blue", "grass", "green", "?", "."]
    tokens = [*SPECIAL, *words, *letters, *("##" + letter for letter in letters)]
    draw = np.random.default_rng(seed)
    width, inner, layers = 32, 64, 2

    def matrix(*shape: int) -> Array:
        return draw.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "token_embd.weight": matrix(len(tokens), width),
        "position_embd.weight": matrix(context, width),
        "token_types.weight": matrix(2, width),
        "token_embd_norm.weight": 1 + matrix(width),
        "token_embd_norm.bias": matrix(width),
    }
    for layer in range(layers):
        for name in _LAYER_TENSORS.values():
            norm = name.endswith("norm")
            rows, columns = {"ffn_up": (inner, width), "ffn_down": (width, inner)}.get(name, (width, width))
            tensors[f"blk.{layer}.{name}.weight"] = 1 + matrix(width) if norm else matrix(rows, columns)
            tensors[f"blk.{layer}.{name}.bias"] = matrix(rows)
    return Bert(tensors, tokens, layers, 4, width, inner, context, 1e-12, pooling)


def write(bert: Bert, path: Path, *, half: bool = True) -> None:
    """The GGUF that llama.cpp's convert_hf_to_gguf.py makes of it (`half`: matrices in 16 bits)."""
    ids = {token: number for number, token in enumerate(bert.tokens)}
    metadata: dict[str, Any] = {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "Test BERT",
        "general.file_type": 1 if half else 0,
        "general.quantization_version": 2,
        "bert.block_count": bert.layers,
        "bert.context_length": bert.context,
        "bert.embedding_length": bert.width,
        "bert.feed_forward_length": bert.inner,
        "bert.attention.head_count": bert.heads,
        "bert.attention.layer_norm_epsilon": bert.epsilon,
        "bert.attention.causal": False,
        "bert.pooling_type": POOLING[bert.pooling],
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.tokens": [_phantom(token) for token in bert.tokens],
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in bert.tokens],
        "tokenizer.ggml.unknown_token_id": ids[UNK],
        "tokenizer.ggml.seperator_token_id": ids[SEP],
        "tokenizer.ggml.padding_token_id": ids[PAD],
        "tokenizer.ggml.cls_token_id": ids[CLS],
        "tokenizer.ggml.mask_token_id": ids[MASK],
        "tokenizer.ggml.bos_token_id": ids[CLS],
        "tokenizer.ggml.eos_token_id": ids[SEP],
    }
    tensors = {name: _stored(name, tensor, half) for name, tensor in bert.tensors.items()}
    write_gguf(path, metadata, tensors)


def reference(bert: Bert, ids: list[int]) -> Array:
    """The embedding of one input (token ids with [CLS] and [SEP]), as sentence-transformers computes it."""
    get = bert.tensors.__getitem__
    count = len(ids)
    state = get("token_embd.weight")[ids] + get("position_embd.weight")[:count] + get("token_types.weight")[0]
    state = _norm(state, get("token_embd_norm.weight"), get("token_embd_norm.bias"), bert.epsilon)
    size = bert.width // bert.heads
    for layer in range(bert.layers):

        def linear(name: str, value: Array, layer: int = layer) -> Array:
            product: Array = value @ get(f"blk.{layer}.{name}.weight").T + get(f"blk.{layer}.{name}.bias")
            return product

        def norm(name: str, value: Array, layer: int = layer) -> Array:
            return _norm(value, get(f"blk.{layer}.{name}.weight"), get(f"blk.{layer}.{name}.bias"), bert.epsilon)

        query, key, value = (
            linear(name, state).reshape(count, bert.heads, size).transpose(1, 0, 2)
            for name in ("attn_q", "attn_k", "attn_v")
        )
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(size)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ value).transpose(1, 0, 2).reshape(count, bert.width)
        state = norm("attn_output_norm", state + linear("attn_output", mixed))
        state = norm("layer_output_norm", state + linear("ffn_down", _gelu(linear("ffn_up", state))))
    pooled: Array = {"mean": state.mean(0), "cls": state[0], "last": state[-1]}[bert.pooling]
    return pooled / np.linalg.norm(pooled)


def _norm(value: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    centred = value - value.mean(-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * weight + bias


def _gelu(value: Array) -> Array:
    from math import erf, sqrt

    return value * 0.5 * (1 + np.vectorize(erf)(value / sqrt(2)))


def _gguf_name(name: str) -> str | None:
    """None for what embeddings do not need."""
    if name in _TENSORS:
        return _TENSORS[name]
    if not name.startswith("encoder.layer."):
        return None
    layer, rest = name.removeprefix("encoder.layer.").split(".", 1)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER_TENSORS[stem]}.{kind}"


def _phantom(token: str) -> str:
    """llama.cpp marks the beginnings of words where WordPiece marks the continuations."""
    if token in SPECIAL:
        return token
    return token[2:] if token.startswith("##") else "▁" + token


def _stored(name: str, tensor: Array, half: bool) -> Array:
    exact = tensor.ndim == 1 or name in ("position_embd.weight", "token_types.weight")
    return tensor.astype(np.float16 if half and not exact else np.float32)


def _safetensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file."""
    raw = path.read_bytes()
    [size] = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            flat = np.frombuffer(raw[8 + size + start : 8 + size + end], dtype="<f4")
            found[name] = flat.reshape(entry["shape"])
    return found
