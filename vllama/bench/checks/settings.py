"""What command lines say of the settings that decide speed: read from what really ran, children included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

_FLAGS = {
    "-c": "total context",
    "--ctx-size": "total context",
    "--n_ctx": "context",
    "--max-model-len": "context",
    "-np": "parallel",
    "--parallel": "parallel",
    "--max-num-seqs": "parallel",
    "-t": "threads",
    "--threads": "threads",
    "--n_threads": "threads",
    "-ctk": "K cache",
    "--cache-type-k": "K cache",
    "-ctv": "V cache",
    "--cache-type-v": "V cache",
}
_OPTIONS = {
    "num_ctx": "context",
    "n_ctx": "context",
    "num_thread": "threads",
    "n_threads": "threads",
    "n_seq": "parallel",
}
_VARIABLES = {"OLLAMA_NUM_PARALLEL": "parallel", "OLLAMA_KV_CACHE_TYPE": "K cache", "OLLAMA_CONTEXT_LENGTH": "context"}


def settings(described: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> value. What a process was started with outranks what it was asked for; "context" is per request."""
    found: dict[str, str] = {}
    for variable, name in _VARIABLES.items():
        if value := described.get("env", {}).get(variable):
            found[name] = str(value)
    for option, name in _OPTIONS.items():
        if (value := described.get("options", {}).get(option)) is not None:
            found[name] = str(value)
    for argv in (described.get("argv", []), *described.get("children", [])):
        found |= _from_argv(argv)
    total = found.pop("total context", "")
    if total.isdigit() and found.get("parallel", "").isdigit() and int(found["parallel"]):
        found["context"] = str(int(total) // int(found["parallel"]))
    return {name: found[name] for name in ("context", "parallel", "threads", "K cache", "V cache") if name in found}


def _from_argv(argv: Sequence[str]) -> dict[str, str]:
    found = {}
    for flag, value in itertools.pairwise(argv):
        name, _, joined = flag.partition("=")
        if name in _FLAGS:
            found[_FLAGS[name]] = joined or value
    if argv and (last := argv[-1].partition("="))[0] in _FLAGS and last[2]:
        found[_FLAGS[last[0]]] = last[2]
    return found


def differences(mine: Mapping[str, str], control: Mapping[str, str]) -> list[str]:
    """The control's settings that are said to be others here, as "threads 2"; what one does not say is not compared."""
    return [f"{name} {value}" for name, value in control.items() if name in mine and mine[name] != value]
