"""Model options as words: PARAMETER lines and `/set parameter`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vllama.errors import VllamaError


def read_parameter(name: str, values: list[str]) -> Any:
    """A model option's value from words. Raises VllamaError for a name or value that no model takes."""
    from vllama.core.options import Options

    kinds = {field.name: str(field.type) for field in fields(Options)}
    kind = kinds.get(name)
    if kind is None:
        raise VllamaError(f"unknown parameter '{name}'")
    if "tuple" in kind:
        return values
    if len(values) > 1:
        raise VllamaError(f"parameter '{name}' takes one value")
    text = values[0].lower()
    try:
        if "bool" in kind:
            return {"true": True, "1": True, "false": False, "0": False}[text]
        return float(text) if "float" in kind else int(text)
    except (KeyError, ValueError):
        what = "true or false" if "bool" in kind else "a number" if "float" in kind else "a whole number"
        raise VllamaError(f"parameter '{name}' must be {what}, not '{values[0]}'") from None
