"""Reading the tables that people write for the harness: TOML, with every mistake named."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllama.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises `ConfigError` naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: {error}") from error


def keyed(kind: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table itself, if it has the dataclass's required keys, no others, and values of their kinds."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(raw) - set(fields)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    kinds: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}
    for name, field in fields.items():
        if name not in raw:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{where}: {name} is missing")
            continue
        wanted = kinds.get(str(field.type))
        # For Python a bool is an int; for a person who writes "pairs = true" it is a mistake.
        if wanted and (not isinstance(raw[name], wanted) or (isinstance(raw[name], bool) and bool not in wanted)):
            raise ConfigError(f"{where}: {name} must be {field.type}, not {raw[name]!r}")
    return dict(raw)
