"""Where Hugging Face has the models that people know by Ollama's names. Asked only on request (`--from hf`)."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import NotFoundError
from vllama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Name

FILE = Path(__file__).with_suffix(".toml")
_TAG = re.compile(r"(?P<size>.+?)(?:-(?:instruct|it|chat|text))?(?:-(?P<quant>i?q\d\w*|b?f16|fp16|f32|fp32))?", re.I)


@dataclass(frozen=True, slots=True)
class Place:
    """A repository and the tag that picks its files: "latest", a quantisation or "safetensors"."""

    repo: str
    tag: str


def place(name: Name, prefer: str) -> Place:
    """Where a model of Ollama's library is, for an engine that prefers "gguf" or "safetensors".

    Raises `NotFoundError` that names what the catalog has.
    """
    models: dict[str, dict[str, str]] = _read()["models"]
    key, quant = _key(name)
    row = models.get(key)
    if row is None:
        near = sorted(known for known in models if known.partition(":")[0] == name.model.lower())
        known = f"it has {', '.join(near)}" if near else "look for one at https://huggingface.co/models?library=gguf"
        raise NotFoundError(f"the catalog has no {name.shortest}: {known}, or pull a repository: hf.co/ORG/REPO")
    if prefer not in row:
        raise NotFoundError(
            f"the catalog has {name.shortest} as {', '.join(k for k in row if k != 'quant')} only, not as {prefer}"
        )
    if quant and prefer == "gguf":
        return Place(row[prefer], quant)
    return Place(row[prefer], row.get("quant", DEFAULT_TAG) if prefer == "gguf" else prefer)


def knows(name: Name) -> bool:
    """Whether the catalog has the name in any format."""
    in_library = name.host.lower() == DEFAULT_HOST and name.namespace.lower() == DEFAULT_NAMESPACE
    return in_library and _key(name)[0] in _read()["models"]


def names() -> list[str]:
    """All keys, for docs and completion."""
    return list(_read()["models"])


def _key(name: Name) -> tuple[str, str]:
    """The catalog's key, and the quantisation that the tag asks for, if any."""
    model, tag = name.model.lower(), name.tag.lower()
    exact = f"{model}:{tag}"
    if tag == DEFAULT_TAG:
        return f"{model}:{_read()['latest'].get(model, tag)}", ""
    if exact in _read()["models"]:
        return exact, ""
    match = _TAG.fullmatch(tag)
    return (f"{model}:{match['size']}", (match["quant"] or "").upper()) if match else (exact, "")


@functools.cache
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text("utf-8"))
