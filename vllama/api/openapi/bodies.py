"""JSON Schemas of request bodies, made from the very types that read them (`vllama.api.schemas`).

The schemas say what clients should send. The reader takes more, as Go does: keys in another case, null for anything,
fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllama.api.godecoder import GoType
from vllama.api.goscalars import ANY, BOOL, FLOAT32, FLOAT64, INT, RAW, STRING, Bytes
from vllama.api.gotypes import Map, Pointer, Slice, Struct
from vllama.api.ollamatypes import THINK_LEVELS, Duration, OrderedMap, PropertyType, SelfDecoded, ThinkValue
from vllama.api.schemas import anthropic, native, openai, responses

Schema = dict[str, Any]

_SCALARS: dict[int, Schema] = {
    id(STRING): {"type": "string"},
    id(BOOL): {"type": "boolean"},
    id(INT): {"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1},
    id(FLOAT32): {"type": "number", "format": "float"},
    id(FLOAT64): {"type": "number", "format": "double"},
    id(ANY): {},
    id(RAW): {},
}
_TEXT: Schema = {"type": "string"}
_DURATION: Schema = {
    "description": "Seconds, or a text with units such as `5m` or `1h30m`; a negative one is forever, 0 unloads.",
    "oneOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+$"}],
}
_INPUTS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_OPTIONS: Schema = {
    "type": "object",
    "description": "Sampling and limits, by Ollama's names: temperature, num_ctx, num_predict, stop, seed, ...",
    "properties": {
        "num_ctx": {"type": "integer"},
        "num_predict": {"type": "integer"},
        "temperature": {"type": "number"},
        "top_k": {"type": "integer"},
        "top_p": {"type": "number"},
        "min_p": {"type": "number"},
        "seed": {"type": "integer"},
        "stop": {"type": "array", "items": _TEXT},
    },
}
_FORMAT: Schema = {"description": "`json`, or a JSON Schema.", "oneOf": [{"const": "json"}, {"type": "object"}]}
_BLOCKS: Schema = {"oneOf": [_TEXT, {"type": "array", "items": {"type": "object"}}]}

FIELDS: dict[tuple[str, str], Schema] = {
    ("api.GenerateRequest", "format"): _FORMAT,
    ("api.ChatRequest", "format"): _FORMAT,
    ("api.GenerateRequest", "options"): _OPTIONS,
    ("api.ChatRequest", "options"): _OPTIONS,
    ("api.EmbedRequest", "options"): _OPTIONS,
    ("api.EmbeddingRequest", "options"): _OPTIONS,
    ("api.EmbedRequest", "input"): _INPUTS,
    ("api.CreateRequest", "license"): _INPUTS,
    ("openai.EmbedRequest", "input"): _INPUTS,
    ("openai.EmbedRequest", "encoding_format"): {"enum": ["float", "base64"]},
    ("openai.Message", "content"): _BLOCKS,
    ("openai.ChatCompletionRequest", "stop"): _INPUTS,
    ("openai.ChatCompletionRequest", "max_completion_tokens"): {"type": "integer"},
    ("openai.CompletionRequest", "stop"): _INPUTS,
    ("openai.JsonSchema", "schema"): {"type": "object"},
    ("anthropic.MessagesRequest", "system"): _BLOCKS,
    ("anthropic.CountTokensRequest", "system"): _BLOCKS,
    ("anthropic.Tool", "input_schema"): {"type": "object"},
    ("anthropic.ContentBlock", "content"): _BLOCKS,
    ("openai.ResponsesTextFormat", "schema"): {"type": "object"},
}
"""(struct, field) -> what the table calls any value."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "api.GenerateRequest": ("model",),
    "api.ChatRequest": ("model",),
    "api.EmbedRequest": ("model", "input"),
    "api.EmbeddingRequest": ("model",),
    "api.ShowRequest": ("model",),
    "api.CreateRequest": ("model",),
    "api.CopyRequest": ("source", "destination"),
    "api.DeleteRequest": ("model",),
    "api.PullRequest": ("model",),
    "api.PushRequest": ("model",),
    "api.Alias": ("role",),
    "openai.ChatCompletionRequest": ("model", "messages"),
    "openai.CompletionRequest": ("model", "prompt"),
    "openai.EmbedRequest": ("model", "input"),
    "openai.ResponsesRequest": ("model", "input"),
    "openai.Message": ("role",),
    "anthropic.MessagesRequest": ("model", "max_tokens", "messages"),
    "anthropic.CountTokensRequest": ("model", "messages"),
    "anthropic.ContentBlock": ("type",),
}


class Bodies:
    """Makes schemas; structs that contain themselves become components, in `components`."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: GoType) -> Schema:
        """The schema of a type."""
        scalar = _SCALARS.get(id(kind))
        if scalar is not None:
            return scalar
        return next(make for known, make in _MAKERS if isinstance(kind, known))(self, kind)

    def struct(self, kind: Struct) -> Schema:
        """A struct by reference, or, where it has no name in Go, in place."""
        if not kind.short:
            return self._object(kind)
        name = component(kind)
        if name not in self.components:
            self.components[name] = {}
            self.components[name].update(self._object(kind))
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, kind: Struct) -> Schema:
        properties = {
            key: FIELDS.get((kind.name, key)) or self.of(field)
            for key, field in kind.fields.items()
            if not key.startswith("_")
        }
        schema: Schema = {"type": "object", "properties": properties}
        if required := REQUIRED.get(kind.name):
            schema["required"] = list(required)
        return schema


def component(kind: Struct) -> str:
    """The name of a struct's component: `api.Alias`, the struct behind a message, is the message."""
    return "api.Message" if kind.name == "api.Alias" else kind.name


def _responses_input(bodies: Bodies, kind: GoType) -> Schema:
    items = [bodies.struct(item) for item in responses.ITEMS.values()]
    return {"oneOf": [_TEXT, {"type": "array", "items": {"anyOf": items}}]}


def _responses_parts(bodies: Bodies, kind: GoType) -> Schema:
    parts = [bodies.struct(part) for part in responses.PARTS.values()]
    return {"oneOf": [_TEXT, {"type": "array", "items": {"anyOf": parts}}]}


def _message_param(bodies: Bodies, kind: GoType) -> Schema:
    content = {"oneOf": [_TEXT, {"type": "array", "items": bodies.of(anthropic.BLOCK)}]}
    roles = {"enum": ["user", "assistant"]}
    return {"type": "object", "properties": {"role": roles, "content": content}, "required": ["role", "content"]}


def _map(bodies: Bodies, kind: Any) -> Schema:
    element = bodies.of(kind.element)
    return {"type": "object", "additionalProperties": element} if element else {"type": "object"}


_MAKERS: tuple[tuple[type[GoType], Callable[[Bodies, Any], Schema]], ...] = (
    (Struct, Bodies.struct),
    (SelfDecoded, lambda bodies, kind: bodies.struct(kind.alias)),
    (Pointer, lambda bodies, kind: bodies.of(kind.element)),
    (Slice, lambda bodies, kind: {"type": "array", "items": bodies.of(kind.element)}),
    (Map, _map),
    (OrderedMap, _map),
    (Bytes, lambda bodies, kind: {"type": "string", "contentEncoding": "base64"}),
    (Duration, lambda bodies, kind: _DURATION),
    (ThinkValue, lambda bodies, kind: {"oneOf": [{"type": "boolean"}, {"enum": sorted(THINK_LEVELS)}]}),
    (PropertyType, lambda bodies, kind: _INPUTS),
    (anthropic.MessageParam, _message_param),
    (responses.Input, _responses_input),
    (responses.Parts, _responses_parts),
)

BODIES: Mapping[tuple[str, str], Struct] = {
    ("POST", "/api/generate"): native.GENERATE,
    ("POST", "/api/chat"): native.CHAT,
    ("POST", "/api/embed"): native.EMBED,
    ("POST", "/api/embeddings"): native.EMBEDDINGS,
    ("POST", "/api/show"): native.SHOW,
    ("POST", "/api/create"): native.CREATE,
    ("POST", "/api/copy"): native.COPY,
    ("DELETE", "/api/delete"): native.DELETE,
    ("POST", "/api/pull"): native.PULL,
    ("POST", "/api/push"): native.PUSH,
    ("POST", "/v1/chat/completions"): openai.CHAT,
    ("POST", "/v1/completions"): openai.COMPLETION,
    ("POST", "/v1/embeddings"): openai.EMBED,
    ("POST", "/v1/responses"): responses.RESPONSES,
    ("POST", "/v1/messages"): anthropic.MESSAGES,
    ("POST", "/v1/messages/count_tokens"): anthropic.COUNT_TOKENS,
}
"""What each route reads."""
