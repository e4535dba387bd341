"""Puts the settings together from flags, the environment, the file and the defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vllama.config.host import Host
from vllama.config.models import ModelSettings, read_models
from vllama.config.settings import Settings, Spec, specs
from vllama.config.values import SecretError, trim
from vllama.errors import ConfigError

IGNORED_OLLAMA = MappingProxyType(
    {
        "OLLAMA_GPU_OVERHEAD": "the engine measures free memory itself",
        "OLLAMA_SCHED_SPREAD": "the engine places layers itself",
        "OLLAMA_LLM_LIBRARY": "use the engine setting",
        "OLLAMA_REMOTES": "there are no remote models",
        "OLLAMA_AUTH": "requests are not signed",
        "OLLAMA_DEBUG_LOG_REQUESTS": "request bodies are never written to disk",
    }
)
"""Variables of Ollama that mean something there and nothing here, with the reason."""


def load_settings(
    flags: Mapping[str, object] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
    toml_path: Path | None = None,
) -> Settings:
    """The settings in force: flag > VLLAMA_* > OLLAMA_* > vllama.toml > default.

    `flags` maps setting names to texts or typed values; None means not given. "port" beside the settings' names
    replaces the host's port. A given `environ` is taken for the whole environment, so the user's own
    file is not looked for: only the one that `toml_path` or its VLLAMA_CONFIG name. An empty variable counts as unset.

    Raises ConfigError for a value or file that cannot be used. A bad OLLAMA_* value is passed over, as
    Ollama does, and leaves a line in `Settings.warnings`.
    """
    env = os.environ if environ is None else environ
    table = specs()
    given = {name: value for name, value in flags.items() if value is not None}
    for name in given:
        if name not in table and name != "port":
            raise ConfigError(f"there is no setting {name!r}{_hint(name)}")
    path = toml_path or _toml_path(env, default=environ is None)
    from_file, models = _read_toml(path) if path is not None else ({}, {})

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    warnings = [f"{name} has no effect: {why}" for name, why in IGNORED_OLLAMA.items() if trim(env.get(name, ""))]
    if env.get("HOME"):
        values["models_dir"] = Path(env["HOME"]) / ".ollama" / "models"
    for name, spec in table.items():
        found = _find(name, spec, given, env, from_file, warnings)
        if found is not None:
            values[name], sources[name] = found
    if "port" in given:
        values["host"] = _with_port(values.get("host", Host()), given["port"])
        sources["host"] = "--port" if "host" not in given else "--host, --port"
    return Settings(
        **values, models=MappingProxyType(models), sources=MappingProxyType(sources), warnings=tuple(warnings)
    )


def _find(
    name: str,
    spec: Spec,
    given: Mapping[str, object],
    env: Mapping[str, str],
    from_file: Mapping[str, tuple[str, str]],
    warnings: list[str],
) -> tuple[object, str] | None:
    """Value and source from the first place that has one; None for the default."""
    if name in given:
        flag = "--" + name.replace("_", "-")
        value = given[name]
        return (_parse(spec, value, flag) if isinstance(value, str) else value), flag
    if text := trim(env.get(variable := f"VLLAMA_{spec.env}", "")):
        return _parse(spec, text, variable), variable
    if spec.ollama and (text := trim(env.get(variable := f"OLLAMA_{spec.env}", ""))):
        try:
            return spec.parse_ollama(text), variable
        except ValueError as error:
            warnings.append(f"{variable}={text!r} is not used: {error}")
    if name in from_file:
        text, place = from_file[name]
        return _parse(spec, text, place), place
    return None


def _parse(spec: Spec, text: str, source: str) -> object:
    try:
        return spec.parse(text)
    except SecretError as error:
        raise ConfigError(f"{source} {error}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {text!r} {error}") from None


def _with_port(host: Host, port: object) -> Host:
    if isinstance(port, str) and re.fullmatch("[0-9]{1,5}", port):
        port = int(port)
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"--port: {port!r} must be a number from 0 to 65535")
    return replace(host, port=port)


def _toml_path(env: Mapping[str, str], *, default: bool) -> Path | None:
    """The file to read: the one VLLAMA_CONFIG names, or the user's own if it is there."""
    if named := trim(env.get("VLLAMA_CONFIG", "")):
        return Path(os.path.expanduser(named))
    if not default:
        return None
    path = user_toml()
    return path if path.is_file() else None


def user_toml() -> Path:
    """Where the user's own vllama.toml is looked for."""
    from platformdirs import user_config_path

    return user_config_path("vllama", appauthor=False) / "vllama.toml"


def _read_toml(path: Path) -> tuple[dict[str, tuple[str, str]], Mapping[str, ModelSettings]]:
    """Setting name to (text, place) of a file, and its tables of models; every other key must be a setting."""
    import tomllib

    try:
        content = path.read_text(encoding="utf-8")
        parsed = tomllib.loads(content)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    models = read_models(parsed.pop("models", {}), str(path))
    read: dict[str, tuple[str, str]] = {}
    for key, value in parsed.items():
        place = f"{path}:{_line_of(key, content)}"
        if key not in specs():
            raise ConfigError(f"{place}: there is no setting {key!r}{_hint(key)}")
        read[key] = (_toml_text(value, f"{place}: {key}"), place)
    return read, models


def _toml_text(value: object, place: str) -> str:
    """A TOML value as the text that the setting's reader takes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    raise ConfigError(f"{place} must be a string, a whole number, true, false or a list of strings")


def _line_of(key: str, content: str) -> int:
    """The first line that sets the key or opens a table of that name (tomllib keeps no places)."""
    quoted = re.escape(key)
    pattern = re.compile(rf"""\s*(\[\[?\s*)?(["']?){quoted}\2\s*[=.\]]""")
    for number, line in enumerate(content.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1


def _hint(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, specs(), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
