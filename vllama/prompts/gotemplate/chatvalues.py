"""Messages and tools as the Go values that Ollama gives to templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from vllama.prompts.gotemplate.marshal import marshal
from vllama.prompts.gotemplate.printing import sprint
from vllama.prompts.gotemplate.values import (
    STRINGS,
    Held,
    Map,
    NilPointer,
    Slice,
    Struct,
    Type,
    Value,
)
from vllama.prompts.messages import Message, Tool, ToolCall


def _names(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _pointer(target: Type) -> Type:
    return Type("*" + target.name, fields=target.fields, target=target)


def _json_or_braces(value: Map) -> str:
    return "{}" if value.is_nil else marshal(value)


def _property_type_text(value: Slice) -> str:
    return str(value[0]) if len(value) == 1 else sprint([list(value)]) if value else ""


def _typescript(value: Struct) -> str:
    """The TypeScript type of a property, as gpt-oss templates want it."""
    fields = value.fields
    if fields["AnyOf"]:
        return " | ".join(_typescript(option) for option in fields["AnyOf"])
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in fields["Type"]) or "any"


_TYPESCRIPT: Final = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}

_ARGUMENTS: Final = Type(
    "template.templateArgs", holds_any=True, string=_json_or_braces, methods={"String": _json_or_braces}
)
_CALL_FUNCTION: Final = Type("template.templateToolCallFunction", fields=_names("Index", "Name", "Arguments"))
_CALL: Final = Type("template.templateToolCall", fields=_names("ID", "Function"))
_CALLS: Final = Type("[]template.templateToolCall")
_IMAGES: Final = Type("[]api.ImageData")
_MESSAGE: Final = _pointer(
    Type(
        "template.templateMessage",
        fields=_names("Role", "Content", "Thinking", "Images", "ToolCalls", "ToolName", "ToolCallID"),
    )
)
_MESSAGES: Final = Type("[]*template.templateMessage")

_ANYS: Final = Type("[]interface {}", holds_any=True)
_PROPERTY_TYPE: Final = Type(
    "api.PropertyType",
    string=_property_type_text,
    json=lambda value: value[0] if len(value) == 1 else Slice(STRINGS, None if value.is_nil else list(value)),
    methods={"String": _property_type_text},
)
_PROPERTY: Final = Type(
    "api.ToolProperty",
    fields={
        "AnyOf": "anyOf",
        "Type": "type",
        "Items": "items",
        "Description": "description",
        "Enum": "enum",
        "Properties": "properties",
        "Required": "required",
    },
    omit_empty=frozenset({"AnyOf", "Type", "Items", "Description", "Enum", "Properties", "Required"}),
    methods={"ToTypeScriptType": _typescript},
)
_PROPERTY_LIST: Final = Type("[]api.ToolProperty")
_ORDERED: Final = Type("map[string]api.ToolProperty", keeps_order=True)
_TO_MAP: Final = Type("map[string]api.ToolProperty", zero=lambda: _property({}))
_NESTED: Final = Type(
    "*api.ToolPropertiesMap",
    target=Type("api.ToolPropertiesMap"),
    json=lambda value: value.fields["om"],
    methods={
        "Len": lambda value: len(value.fields["om"]) if isinstance(value, Struct) else 0,
        "ToMap": lambda value: Map(_TO_MAP, value.fields["om"] if isinstance(value, Struct) else None),
    },
)
_PROPERTIES: Final = Type(
    "template.templateProperties",
    string=_json_or_braces,
    methods={"String": _json_or_braces},
    zero=lambda: _property({}),
)
_PARAMETERS: Final = Type(
    "template.templateToolFunctionParameters",
    fields={
        "Type": "type",
        "Defs": "$defs",
        "Items": "items",
        "Required": "required",
        "Properties": "properties",
    },
    omit_empty=frozenset({"Defs", "Items", "Required"}),
)
_FUNCTION: Final = Type(
    "template.templateToolFunction",
    fields={"Name": "name", "Description": "description", "Parameters": "parameters"},
)
_TOOL: Final = Type(
    "template.templateTool",
    fields={"Type": "type", "Items": "items", "Function": "function"},
    omit_empty=frozenset({"Items"}),
    string=marshal,
    methods={"String": marshal},
)
_TOOLS: Final = Type("template.templateTools", string=marshal, methods={"String": marshal})


def messages_value(messages: Sequence[Message]) -> Slice:
    """`.Messages`; nil if there are none."""
    return Slice(_MESSAGES, [_message(message) for message in messages] or None)


def _message(message: Message) -> Struct:
    return Struct(
        _MESSAGE,
        {
            "Role": message.role,
            "Content": message.content,
            "Thinking": message.thinking,
            "Images": Slice(_IMAGES, list(message.images) or None),
            "ToolCalls": Slice(_CALLS, [_call(call) for call in message.tool_calls] or None),
            "ToolName": message.tool_name,
            "ToolCallID": message.tool_call_id,
        },
    )


def _call(call: ToolCall) -> Struct:
    arguments = Map(_ARGUMENTS, {key: _decoded(value) for key, value in call.arguments.items()})
    function = Struct(_CALL_FUNCTION, {"Index": call.index, "Name": call.name, "Arguments": arguments})
    return Struct(_CALL, {"ID": call.id, "Function": function})


def _decoded(value: Any) -> Value:
    """Decoded JSON as Go has it: every number is a float64."""
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    if isinstance(value, Mapping):
        return {str(key): _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value]


def tools_value(tools: Sequence[Tool], *, given: bool) -> Slice:
    """`.Tools`; nil if there are none, unless an empty list was given."""
    return Slice(_TOOLS, [_tool(tool) for tool in tools] if tools or given else None)


def _tool(tool: Tool) -> Struct:
    parameters = tool.function.parameters
    properties = parameters.get("properties")
    function = {
        "Name": tool.function.name,
        "Description": tool.function.description,
        "Parameters": Struct(
            _PARAMETERS,
            {
                "Type": parameters.get("type") or "",
                "Defs": Held(_decoded(parameters.get("$defs"))),
                "Items": Held(_decoded(parameters.get("items"))),
                "Required": _strings(parameters.get("required")),
                "Properties": Map(_PROPERTIES, None if properties is None else _property_map(properties)),
            },
        ),
    }
    fields = {"Type": tool.type, "Items": Held(_decoded(tool.items)), "Function": Struct(_FUNCTION, function)}
    return Struct(_TOOL, fields)


def _strings(names: Sequence[str] | None) -> Slice:
    return Slice(STRINGS, None if names is None else list(names))


def _property_map(properties: Mapping[str, Any]) -> dict[str, Value]:
    return {name: _property(schema or {}) for name, schema in properties.items()}


def _property(schema: Mapping[str, Any]) -> Struct:
    types = schema.get("type")
    options, enum, nested = schema.get("anyOf"), schema.get("enum"), schema.get("properties")
    if isinstance(types, str):
        types = [types]
    return Struct(
        _PROPERTY,
        {
            "AnyOf": Slice(_PROPERTY_LIST, None if options is None else [_property(o or {}) for o in options]),
            "Type": Slice(_PROPERTY_TYPE, types),
            "Items": Held(_decoded(schema.get("items"))),
            "Description": schema.get("description") or "",
            "Enum": Slice(_ANYS, None if enum is None else _decoded(enum)),
            "Properties": NilPointer(_NESTED)
            if nested is None
            else Struct(_NESTED, {"om": Map(_ORDERED, _property_map(nested))}),
            "Required": _strings(schema.get("required")),
        },
    )
