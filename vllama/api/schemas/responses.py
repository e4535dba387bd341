"""Bodies of /v1/responses, named as Ollama's errors name them.

`input` is a text or a list of items of several kinds, and an item's content a text or a list of parts of several kinds:
each is decoded by the struct of its kind, and an error names the index where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllama.api.godecoder import Array, DecodeError, Decoder, GoType, Node, Number, Object, Odd
from vllama.api.goscalars import BOOL, FLOAT64, INT, RAW, STRING
from vllama.api.gotypes import ANY_MAP, BOOL_POINTER, STRINGS, Pointer, Slice, Struct, nameless
from vllama.goquote import quote

_KIND_OF_ITEM = nameless(
    'struct { Type string "json:\\"type\\""; Role string "json:\\"role\\"" }', {"type": STRING, "role": STRING}
)
_KIND_OF_PART = nameless('struct { Type string "json:\\"type\\"" }', {"type": STRING})

PARTS: dict[str, Struct] = {
    "input_text": Struct("openai.ResponsesTextContent", {"type": STRING, "text": STRING}),
    "output_text": Struct("openai.ResponsesOutputTextContent", {"type": STRING, "text": STRING}),
    "input_image": Struct(
        "openai.ResponsesImageContent", {"type": STRING, "detail": STRING, "file_id": STRING, "image_url": STRING}
    ),
    "input_file": Struct(
        "openai.ResponsesFileContent",
        {"type": STRING, "file_data": STRING, "file_id": STRING, "file_url": STRING, "filename": STRING},
    ),
}


class Parts(GoType):
    """A text, or a list of parts. Decoded: a list of the parts' dicts; None where there is nothing."""

    def fast(self, value: Any) -> Any:
        if type(value) is str:
            return [{"type": "input_text", "text": value}]
        if type(value) is not list:
            raise Odd
        return [_fast(part, PARTS, part.get("type") if type(part) is dict else None) for part in value]

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if node is None or (isinstance(node, str) and not isinstance(node, Number)):
            return [{"type": "input_text", "text": node or ""}]
        if not isinstance(node, Array):
            raise _not_a_list(self.name, node)
        return [self._part(index, part) for index, part in enumerate(node)]

    def _part(self, index: int, node: Node) -> dict[str, Any]:
        try:
            kind = Decoder().run(_KIND_OF_PART, node).get("type", "")
            if kind not in PARTS:
                raise DecodeError(f"unknown content type: {kind}")
            return {**Decoder().run(PARTS[kind], node), "type": kind}
        except DecodeError as error:
            raise DecodeError(f"{self.name}[{index}]: {error.text}") from None


_SUMMARY = Slice(Struct("openai.ResponsesReasoningSummary", {"type": STRING, "text": STRING}))
_ACTION = Pointer(Struct("openai.ResponsesWebSearchAction", {"type": STRING, "query": STRING}))
ITEMS: dict[str, Struct] = {
    "message": Struct("openai.ResponsesInputMessage", {"type": STRING, "role": STRING, "content": Parts("content")}),
    "function_call": Struct(
        "openai.ResponsesFunctionCall",
        {"id": STRING, "type": STRING, "call_id": STRING, "name": STRING, "arguments": STRING},
    ),
    "function_call_output": Struct(
        "openai.ResponsesFunctionCallOutput", {"type": STRING, "call_id": STRING, "output": Parts("output")}
    ),
    "reasoning": Struct(
        "openai.ResponsesReasoningInput",
        {"id": STRING, "type": STRING, "summary": _SUMMARY, "encrypted_content": STRING},
    ),
    "web_search_call": Struct(
        "openai.ResponsesWebSearchCall", {"id": STRING, "type": STRING, "status": STRING, "action": _ACTION}
    ),
}


class Input(GoType):
    """`input`: a text or a list of items. Decoded: the text, or a list of the items' dicts with their `type`."""

    takes_null = True

    def fast(self, value: Any) -> Any:
        if type(value) is str:
            return value
        if type(value) is not list:
            raise Odd
        return [_fast(item, ITEMS, _kind(item) if type(item) is dict else None) for item in value]

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        if node is None or (isinstance(node, str) and not isinstance(node, Number)):
            return node or ""
        if not isinstance(node, Array):
            raise _not_a_list("input", node)
        return [self._item(index, item) for index, item in enumerate(node)]

    def _item(self, index: int, node: Node) -> dict[str, Any]:
        try:
            kind = _kind(Decoder().run(_KIND_OF_ITEM, node))
            if not kind:
                raise DecodeError("input item missing required 'type' field")
            if kind not in ITEMS:
                raise DecodeError(f"unknown input item type: {quote(kind)}")
            return {**Decoder().run(ITEMS[kind], node), "type": kind}
        except DecodeError as error:
            raise DecodeError(f"input[{index}]: {error.text}") from None


def _kind(item: Mapping[str, Any]) -> Any:
    """The kind of an item; one with a role alone is a message."""
    kind = item.get("type")
    return kind if kind else "message" if item.get("role") else ""


def _fast(value: Any, kinds: Mapping[str, Struct], kind: Any) -> dict[str, Any]:
    struct = kinds.get(kind) if type(kind) is str else None
    if struct is None:
        raise Odd
    return {**struct.fast(value), "type": kind}


def _not_a_list(what: str, node: Node) -> DecodeError:
    kind = "object" if isinstance(node, Object) else "number" if isinstance(node, Number) else "bool"
    error = DecodeError(kind, "[]json.RawMessage")
    return DecodeError(f"{what} must be a string or array: {error.text}")


TOOL = Struct(
    "openai.ResponsesTool",
    {
        "type": STRING,
        "name": STRING,
        "description": Pointer(STRING),
        "strict": BOOL_POINTER,
        "parameters": ANY_MAP,
    },
)
TOOL.add("tools", Slice(TOOL))

RESPONSES = Struct(
    "openai.ResponsesRequest",
    {
        "model": STRING,
        "background": BOOL,
        "conversation": RAW,
        "include": STRINGS,
        "input": Input("openai.ResponsesInput"),
        "instructions": STRING,
        "max_output_tokens": Pointer(INT),
        "reasoning": Struct(
            "openai.ResponsesReasoning", {"effort": STRING, "generate_summary": STRING, "summary": STRING}
        ),
        "temperature": Pointer(FLOAT64),
        "text": Pointer(
            Struct(
                "openai.ResponsesText",
                {
                    "format": Pointer(
                        Struct(
                            "openai.ResponsesTextFormat",
                            {"type": STRING, "name": STRING, "schema": RAW, "strict": BOOL_POINTER},
                        )
                    )
                },
            )
        ),
        "top_p": Pointer(FLOAT64),
        "truncation": Pointer(STRING),
        "tools": Slice(TOOL),
        "stream": BOOL_POINTER,
    },
)
