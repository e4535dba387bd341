"""Settings of single models: the tables `[models."NAME"]` of vllama.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vllama.errors import ConfigError

CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What one table says; "" and () where it says nothing.

    `engine` runs this model whatever the setting `engine` says. `upstream` is the address of an OpenAI-compatible
    deployment that serves it, under the name `upstream_model`; `upstream_key_env` names the variable that holds the
    key. `vllm_args` are added to vLLM's command line. `capabilities` are those of a model that others serve.
    """

    engine: str = ""
    upstream: str = ""
    upstream_model: str = ""
    upstream_key_env: str = ""
    vllm_args: str = ""
    capabilities: tuple[str, ...] = ()


def read_models(table: object, place: str) -> Mapping[str, ModelSettings]:
    """The decoded `models` table. Raises `ConfigError` for what is no table of tables or has an unknown key."""
    if not isinstance(table, dict):
        raise ConfigError(f'{place}: models must be tables: [models."NAME"]')
    return {name: _read(row, f"{place}: models.{name}") for name, row in table.items()}


def _read(row: object, place: str) -> ModelSettings:
    if not isinstance(row, dict):
        raise ConfigError(f"{place} must be a table")
    known = {one.name for one in fields(ModelSettings)}
    for key, value in row.items():
        if key not in known:
            raise ConfigError(f"{place}: there is no setting {key!r}; there are {', '.join(sorted(known))}")
        if key == "capabilities":
            if not isinstance(value, list) or not all(one in CAPABILITIES for one in value):
                raise ConfigError(f"{place}.capabilities must be a list of {', '.join(CAPABILITIES)}")
        elif not isinstance(value, str):
            raise ConfigError(f"{place}.{key} must be a string")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return ModelSettings(**values)
