"""What a Hugging Face directory says of its model before anything is started: damage is found here, without a wait."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import ModelLoadError

MAX_HEADER = 100 << 20


@dataclass(frozen=True, slots=True)
class Directory:
    """Sizes in bytes, contexts in tokens; 0 and "" where the files do not say. `pooling`: it makes vectors."""

    path: Path
    size: int
    context: int
    vocab_size: int
    bos: str
    eos: str
    pooling: bool


def inspect(path: Path) -> Directory:
    """Reads the small files and the headers of the weights. Raises `ModelLoadError` that names the damage."""
    config = _json(path, "config.json", needed=True)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ModelLoadError(f"unable to load model: {path} has no *.safetensors")
    size = sum(_checked(file) for file in weights)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")):
        raise ModelLoadError(f"unable to load model: {path} has no tokenizer")
    tokenizer = _json(path, "tokenizer_config.json")
    inner = config.get("text_config")
    text: dict[str, Any] = inner if isinstance(inner, dict) else config
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    return Directory(
        path=path,
        size=size,
        context=_whole(text.get("max_position_embeddings")),
        vocab_size=_whole(text.get("vocab_size")),
        bos=_token(tokenizer.get("bos_token")),
        eos=_token(tokenizer.get("eos_token")),
        pooling=(path / "modules.json").is_file() or not any("For" in name or "LMHead" in name for name in names),
    )


def _checked(file: Path) -> int:
    """The file's size, its header compared with it: a download that was cut short is longer in its header."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise ModelLoadError(f"unable to load model: {file} is damaged: no safetensors header")
            header = json.loads(opened.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except OSError as error:
        raise ModelLoadError(f"unable to load model: {file}: {error.strerror or error}") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ModelLoadError(f"unable to load model: {file} is damaged: its header is not readable") from None
    if not isinstance(end, int) or 8 + length + end > size:
        raise ModelLoadError(f"unable to load model: {file} is damaged: it ends too early")
    return size


def _json(path: Path, name: str, *, needed: bool = False) -> dict[str, Any]:
    try:
        found = json.loads((path / name).read_text(encoding="utf-8"))
    except OSError as error:
        if not needed:
            return {}
        raise ModelLoadError(f"unable to load model: {path / name}: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelLoadError(f"unable to load model: {path / name} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"unable to load model: {path / name} is no JSON object")
    return found


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _token(value: Any) -> str:
    """A special token, which is written as a text or as an object around one."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
