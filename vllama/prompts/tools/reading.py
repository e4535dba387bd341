"""Reading what stands inside of a call: JSON in the shapes that models write, and values that have no quotes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.arguments import decode, decode_any


def json_calls(
    text: str, *, name: str = "name", arguments: tuple[str, ...] = ("arguments", "parameters"), call_id: str = ""
) -> list[ToolCall] | None:
    """The calls in a JSON object or a list of them; None if any of it is no call.

    `name`, `arguments` and `call_id` are the keys. Arguments may be JSON in a string; without any there are none.
    """
    value = decode_any(text)
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        call = _call(item, name, arguments, call_id)
        if call is None:
            return None
        calls.append(call)
    return calls


def _call(item: Any, name: str, keys: tuple[str, ...], call_id: str) -> ToolCall | None:
    if not isinstance(item, dict):
        return None
    inner = item.get("function")
    if isinstance(inner, dict) and name not in item:
        item = inner
    called = item.get(name)
    if not isinstance(called, str) or not called:
        return None
    value = next((item[key] for key in keys if key in item), None)
    arguments = call_arguments(value)
    if arguments is None:
        return None
    identity = item.get(call_id) if call_id else ""
    return ToolCall(called, arguments, id=identity if isinstance(identity, str) else "")


def call_arguments(value: Any) -> dict[str, Any] | None:
    """Arguments as an object; None where the value cannot be that."""
    if value is None:
        return {}
    if isinstance(value, str):
        return decode(value) if value.strip() else {}
    return value if isinstance(value, dict) else None


def object_text(text: str) -> dict[str, Any] | None:
    """The JSON object that a call's text is, {} for blank text."""
    return decode(text) if text.strip() else {}


def typed(text: str, tool: Tool | None, parameter: str) -> Any:
    """A value that was written without quotes, as its parameter's schema wants it: text stays text, the rest is JSON.

    What is no JSON stays text too: a client that checks types will say so, and nothing is lost.
    """
    if "string" in _types(tool, parameter):
        return text
    plain = text.strip()
    try:
        return orjson.loads(plain)
    except orjson.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(plain, text)


def _types(tool: Tool | None, parameter: str) -> tuple[str, ...]:
    properties = tool.function.parameters.get("properties") if tool is not None else None
    schema = properties.get(parameter) if isinstance(properties, Mapping) else None
    if not isinstance(schema, Mapping):
        return ()
    schemas = [schema, *(part for part in schema.get("anyOf") or () if isinstance(part, Mapping))]
    found: list[str] = []
    for part in schemas:
        kind = part.get("type")
        found += [kind] if isinstance(kind, str) else [k for k in kind if isinstance(k, str)] if kind else []
    return tuple(found)
