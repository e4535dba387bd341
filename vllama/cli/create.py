"""`vllama create` and `import`: a model from a Modelfile, or from a GGUF file alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama.cli import reach
from vllama.cli.client import Client
from vllama.cli.console import spinning
from vllama.cli.parameters import read_parameter
from vllama.errors import ConfigError, NotFoundError, VllamaError

_CHUNK = 1 << 20
_TEXTS = ("template", "system", "renderer", "parser", "requires")


def create_model(model: str, file: Path, quantize: str, host: str | None) -> None:
    """Make a model as a Modelfile says; paths in it are relative to its directory."""
    from vllama.models.modelfile import parse_modelfile

    try:
        commands = parse_modelfile(file.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {file}") from None
    body: dict[str, Any] = {"model": model, "quantize": quantize}
    paths: dict[str, list[Path]] = {"files": [], "adapters": []}
    words: dict[str, list[str]] = {}
    for command in commands:
        if command.name in ("model", "adapter"):
            path = (file.parent / os.path.expanduser(command.args)).resolve()
            if path.exists() or command.name == "adapter":
                paths["files" if command.name == "model" else "adapters"] += _files(path)
            else:
                body["from"] = command.args
        elif command.name in _TEXTS:
            body[command.name] = command.args
        elif command.name == "license":
            body.setdefault("license", []).append(command.args)
        elif command.name == "message":
            role, _, content = command.args.partition(": ")
            body.setdefault("messages", []).append({"role": role, "content": content})
        elif command.name == "draft":
            raise ConfigError("DRAFT is not supported")
        else:
            words.setdefault(command.name, []).append(command.args)
    if words:
        body["parameters"] = {name: _value(name, values) for name, values in words.items()}
    _create(body, paths, host)


def import_model(path: Path, model: str, quantize: str, host: str | None) -> None:
    """Make a model of a GGUF file, or of a directory of one, with the name that it has or is given."""
    paths = _files(path.expanduser().resolve())
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem)
    _create({"model": model or stem.lstrip("._-").lower(), "quantize": quantize}, {"files": paths}, host)


def _create(body: dict[str, Any], paths: dict[str, list[Path]], host: str | None) -> None:
    with reach.server(host) as client:
        for field, listed in paths.items():
            if listed:
                body[field] = {path.name: _upload(client, path) for path in listed}
        last = ""
        for item in client.stream("/api/create", {name: value for name, value in body.items() if value}):
            if item.get("status", "") != last:
                last = item.get("status", "")
                print(last, flush=True)
    print(f"created '{body['model']}'")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotFoundError(f"there is no file {path}")
    found = sorted(path.glob("*.gguf")) or sorted((*path.glob("*.safetensors"), *path.glob("*.json")))
    if not found:
        raise NotFoundError(f"there is no GGUF and no safetensors file in {path}")
    return found


def _value(name: str, values: list[str]) -> Any:
    return read_parameter(name, values if name == "stop" else values[-1:])


def _upload(client: Client, path: Path) -> str:
    """Sends a file unless the server has it; returns its digest."""
    with spinning(f"reading {path.name}"), path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    try:
        client.head(f"/api/blobs/{digest}")
    except VllamaError as error:
        if error.status != 404:
            raise
        with spinning(f"copying {path.name}"):
            client.send(f"/api/blobs/{digest}", _pieces(path))
    return digest


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece
