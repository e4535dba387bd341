"""A directory of safetensors as Hugging Face lays it out, as far as a list and a prompt need it."""

from __future__ import annotations

import functools
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama.errors import ModelLoadError
from vllama.models.hub.failures import HubError
from vllama.models.hub.weights import config_of
from vllama.models.model import Inspect, Model
from vllama.models.names import Name
from vllama.models.overlay import synthetic_digest

MAX_TEMPLATE = 4 << 20
"""Bytes of a file with a chat template."""


def is_model_directory(text: str) -> bool:
    """Whether a user means a directory with a model in it."""
    try:
        return Path(text).expanduser().joinpath("config.json").is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def model_from_directory(text: str, name: Name, inspect: Inspect | None = None) -> Model:
    """The model in a directory under a name. Raises `ModelLoadError` for one without readable safetensors."""
    folder = Path(os.path.abspath(Path(text).expanduser()))
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if not weights:
        raise ModelLoadError(f"unable to load model: {folder} has no *.safetensors")
    try:
        config = config_of(folder, "safetensors", weights)
        stats = [(folder / path).stat() for path in weights]
    except HubError as error:
        raise ModelLoadError(f"unable to load model: {folder}: {error.text}") from None
    except OSError as error:
        raise ModelLoadError(f"unable to load model: {error.filename}: {error.strerror}") from None
    size = sum(stat.st_size for stat in stats)
    newest = max(stat.st_mtime_ns for stat in stats)
    return Model(
        name=name,
        digest=synthetic_digest(f"directory:{folder}:{newest}", size, {}),
        size=size,
        modified_at=datetime.fromtimestamp(newest / 1e9, UTC),
        config=config,
        directory=folder,
        origin="file",
        inspect=inspect,
    )


def chat_template(folder: Path) -> str | None:
    """The Jinja chat template: a file of its own, or a text in tokenizer_config.json; None where there is none."""
    return _template(folder, _stamp(folder / "chat_template.jinja"), _stamp(folder / "tokenizer_config.json"))


def pooling(folder: Path) -> bool:
    """Whether the model makes vectors: sentence-transformers says so, or no head for words is named."""
    config = _json(folder / "config.json")
    names = [name for name in config.get("architectures") or () if isinstance(name, str)]
    headless = bool(names) and not any("For" in name or "LMHead" in name for name in names)
    return headless or (folder / "modules.json").is_file()


@functools.lru_cache(maxsize=64)
def _template(folder: Path, jinja: int, config: int) -> str | None:
    if jinja:
        try:
            return (folder / "chat_template.jinja").read_text("utf-8", "replace")[:MAX_TEMPLATE]
        except OSError:
            return None
    found = _json(folder / "tokenizer_config.json").get("chat_template") if config else None
    if isinstance(found, list):  # several: the one for conversations is "default"
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _stamp(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_TEMPLATE:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
