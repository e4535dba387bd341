"""Messages and tools of a decoded body as the prompts package takes them."""

from __future__ import annotations

import json
from typing import Any

from vllama.api.godecoder import Odd
from vllama.api.gojson import decode_text
from vllama.api.schemas.native import TOOL_PARAMETERS
from vllama.prompts.messages import Message, Tool, ToolCall, ToolFunction


def build_message(decoded: dict[str, Any]) -> Message:
    """A native message. The role is lower-cased, as Ollama does while it decodes."""
    get = decoded.get
    calls = get("tool_calls")
    images = get("images")
    return Message(
        get("role", "").lower(),
        get("content", ""),
        get("thinking", ""),
        tuple(image or b"" for image in images) if images else (),
        tuple(build_tool_call(call) for call in calls) if calls else (),
        get("tool_name", ""),
        get("tool_call_id", ""),
    )


def build_tool_call(decoded: dict[str, Any]) -> ToolCall:
    """A native tool call, whose arguments are an object."""
    function = decoded.get("function", {})
    return ToolCall(
        function.get("name", ""),
        function.get("arguments", {}),
        decoded.get("id", ""),
        function.get("index", 0),
    )


def build_tool(decoded: dict[str, Any]) -> Tool:
    """A tool. Its parameters hold what Ollama keeps of the schema, in Ollama's order of keys."""
    function = decoded.get("function", {})
    return Tool(
        ToolFunction(
            function.get("name", ""),
            function.get("description", ""),
            _parameters(function.get("parameters", {})),
        ),
        decoded.get("type", ""),
        numbers(decoded.get("items")),
    )


def build_schema_tool(name: str, description: str, schema: Any, kind: str = "function") -> Tool:
    """A tool of an API that sends its parameters as a free schema. Raises BodyError where Ollama cannot read it."""
    try:
        parameters = {} if schema is None else TOOL_PARAMETERS.fast(schema)
    except Odd:
        parameters = decode_text(json.dumps(schema), TOOL_PARAMETERS)
    return Tool(ToolFunction(name, description, _parameters(parameters)), kind)


def _parameters(decoded: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"type": decoded.get("type", "")}
    for key in ("$defs", "items"):
        if decoded.get(key) is not None:
            result[key] = numbers(decoded[key])
    if decoded.get("required"):
        result["required"] = decoded["required"]
    properties = decoded.get("properties")
    result["properties"] = None if properties is None else _properties(properties)
    return result


def _properties(decoded: dict[str, Any]) -> dict[str, Any]:
    return {name: _property(item) for name, item in decoded.items()}


def _property(decoded: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if decoded.get("anyOf"):
        result["anyOf"] = [_property(item) for item in decoded["anyOf"]]
    names = decoded.get("type")
    if names:
        result["type"] = names[0] if len(names) == 1 else names
    if decoded.get("items") is not None:
        result["items"] = numbers(decoded["items"])
    if decoded.get("description"):
        result["description"] = decoded["description"]
    if decoded.get("enum"):
        result["enum"] = numbers(decoded["enum"])
    if decoded.get("properties") is not None:
        result["properties"] = _properties(decoded["properties"])
    if decoded.get("required"):
        result["required"] = decoded["required"]
    return result


def numbers(value: Any) -> Any:
    """`value` with whole floats as ints: Go holds every number as float64 and prints 1e3 as 1000."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e21 else value
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    return value
