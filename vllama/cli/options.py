"""What several commands read from their arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllama.config import Settings, load_settings
from vllama.errors import ConfigError, NotFoundError

THINK_LEVELS = ("low", "medium", "high", "max")


def settings(flags: Mapping[str, object], pairs: Sequence[str] | None, config: Path | None = None) -> Settings:
    """The settings with a command's flags; `pairs` are the NAME=VALUE of --set, weaker than a flag of its own."""
    given: dict[str, object] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set: {pair!r} must be NAME=VALUE")
        given[name.strip().replace("-", "_")] = value
    given |= {name: value for name, value in flags.items() if value is not None}
    return load_settings(given, toml_path=config)


def model_name(text: str) -> str:
    """A model's name for a request: a GGUF file's is its absolute path. Raises NotFoundError without that file."""
    if not text.lower().endswith(".gguf"):
        return text
    path = Path(os.path.expanduser(text))
    if path.is_file():
        return str(path.resolve())
    if os.sep in text:
        raise NotFoundError(f"there is no file {text}")
    return text


def is_path(model: str) -> bool:
    """Whether `model_name` made an absolute path of it."""
    return os.path.isabs(model)


def output_format(text: str) -> Any:
    """The `format` field: "json", a decoded schema, or None."""
    if not text:
        return None
    if text == "json":
        return "json"
    try:
        schema = json.loads(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise ConfigError(f'--format: {text!r} must be json or a JSON schema like {{"type": "object"}}')
    return schema


def keep_alive(text: str) -> str | int | None:
    """The `keep_alive` field: a Go duration or whole seconds."""
    from vllama.goduration import parse_duration

    if not text:
        return None
    try:
        parse_duration(text)
    except ValueError as error:
        if text.lstrip("-").isascii() and text.lstrip("-").isdigit():
            return int(text)
        raise ConfigError(f"--keepalive: {error}") from None
    return text


def think(text: str) -> bool | str | None:
    """The `think` field."""
    word = text.strip().lower()
    if not word:
        return None
    if word in ("true", "false"):
        return word == "true"
    if word in THINK_LEVELS:
        return word
    raise ConfigError(f"--think: {text!r} must be true, false, low, medium, high or max")
