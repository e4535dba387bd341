"""`structured_outputs`, vLLM's field for outputs that follow a rule; every route that generates reads it."""

from __future__ import annotations

from typing import Any

from vllama.core.requests import OutputRule
from vllama.errors import RequestError

KINDS = ("json", "json_object", "regex", "choice", "grammar")


def with_structured_outputs(format: Any, wanted: Any) -> Any:
    """The `format` of a request that may also have `structured_outputs`: decoded JSON, None where it is absent.

    Raises `RequestError` for what is no such object, names no or several rules, or stands beside a format.
    """
    if wanted is None:
        return format
    if not isinstance(wanted, dict):
        raise RequestError("structured_outputs must be an object")
    # A client library writes null for what was not asked for, and false for switches that are off.
    given = {key: value for key, value in wanted.items() if value is not None and value is not False}
    unknown = [key for key in given if key not in KINDS]
    if unknown:
        raise RequestError(f"structured_outputs: {unknown[0]} is not supported; there are {', '.join(KINDS)}")
    if len(given) != 1:
        raise RequestError(f"structured_outputs must name one of {', '.join(KINDS)}")
    if format is not None:
        raise RequestError("structured_outputs and another format exclude each other")
    [(kind, value)] = given.items()
    if kind == "json_object":
        if value is not True:
            raise RequestError("structured_outputs.json_object must be true or false")
        return "json"
    if kind == "json":
        return _schema(value)
    if kind == "choice":
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise RequestError("structured_outputs.choice must be a list of strings")
        return OutputRule("choice", tuple(value))
    if not isinstance(value, str) or not value:
        raise RequestError(f"structured_outputs.{kind} must be a string that is not empty")
    return OutputRule("regex" if kind == "regex" else "grammar", value)


def _schema(value: Any) -> Any:
    """vLLM takes a schema as an object or as its JSON text."""
    if isinstance(value, str):
        import json

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RequestError("structured_outputs.json is no JSON") from None
    if not isinstance(value, dict):
        raise RequestError("structured_outputs.json must be a JSON schema: an object")
    return value
