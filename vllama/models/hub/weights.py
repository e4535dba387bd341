"""What downloaded weights say of themselves, as the config blob of a model of Ollama's store would."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllama.models.gotext import human_number
from vllama.models.hub.failures import HubError
from vllama.models.model import ModelConfig
from vllama.models.shards import read_model

MAX_HEADER = 64 << 20
"""Bytes of a safetensors header; those of models with 10^12 parameters have a tenth."""
MAX_CONFIG = 4 << 20


def config_of(folder: Path, kind: str, weights: Sequence[str]) -> ModelConfig:
    """Family, size and quantisation. Raises `ModelLoadError` for a damaged GGUF, `HubError` for damaged safetensors."""
    if kind == "gguf":
        return ModelConfig.from_metadata(read_model(folder / weights[0]))
    numbers: Counter[str] = Counter()
    for path in weights:
        numbers.update(_numbers(folder / path))
    config = _json(folder / "config.json")
    inner = config.get("text_config")
    text: dict[str, Any] = inner if isinstance(inner, dict) else {}
    family = str(config.get("model_type") or "")
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    kinds = numbers.most_common(1)
    return ModelConfig(
        format="safetensors",
        family=family,
        families=(family,) if family else (),
        parameter_size=human_number(numbers.total()),
        quantization_level=str(method).upper() if method else kinds[0][0] if kinds else "unknown",
        context_length=_length(config, text, "max_position_embeddings"),
        embedding_length=_length(config, text, "hidden_size"),
    )


def _length(config: dict[str, Any], text: dict[str, Any], key: str) -> int:
    value = config.get(key, text.get(key))
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _numbers(path: Path) -> Counter[str]:
    """Type to how many numbers of it the file holds, from its header."""
    counted: Counter[str] = Counter()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                counted[str(tensor["dtype"])] += math.prod(int(n) for n in tensor["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise HubError(f"{path.name} is not a readable safetensors file: {error}") from error
    return counted


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
