"""Bodies of /v1/messages, named as Ollama's errors name them."""

from __future__ import annotations

from typing import Any

from vllama.api.godecoder import DecodeError, Decoder, GoType, Node, Number, Object, Odd
from vllama.api.goscalars import ANY, BOOL, FLOAT64, INT, RAW, STRING
from vllama.api.gotypes import STRINGS, Pointer, Slice, Struct
from vllama.api.schemas.native import TOOL_ARGUMENTS

IMAGE_SOURCE = Pointer(
    Struct("anthropic.ImageSource", {"type": STRING, "media_type": STRING, "data": STRING, "url": STRING})
)
BLOCK = Struct(
    "anthropic.ContentBlock",
    {
        "type": STRING,
        "text": Pointer(STRING),
        "source": IMAGE_SOURCE,
        "id": STRING,
        "name": STRING,
        "input": TOOL_ARGUMENTS,
        "tool_use_id": STRING,
        "content": ANY,
        "is_error": BOOL,
        "thinking": Pointer(STRING),
        "signature": STRING,
    },
)
BLOCKS = Slice(BLOCK)
_OUTER = Struct(
    'struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }', {"role": STRING}
)
_OUTER.short = ""  # it has no name in Go: errors name the place outside


class MessageParam(GoType):
    """A message, whose content is a text or a list of blocks. Decoded: `content` is always a list of blocks."""

    takes_null = True

    def fast(self, value: Any) -> Any:
        if type(value) is not dict:
            raise Odd
        content = value.get("content")
        if type(content) is str:
            blocks = [{"type": "text", "text": content}]
        elif type(content) is list:
            blocks = BLOCKS.fast(content)
        else:
            raise Odd
        # A key of `value` in another case has to be seen, whatever stands there.
        rest = {key: item for key, item in value.items() if key != "content"}
        if any(key.lower() == "content" for key in rest):
            raise Odd
        return {**_OUTER.fast(rest), "content": blocks}

    def decode(self, decoder: Decoder, node: Node, old: Any) -> Any:
        message = Decoder().run(_OUTER, node)
        found, content = _member(node, "content")
        if not found:
            raise DecodeError("unexpected end of JSON input")
        if content is None or (isinstance(content, str) and not isinstance(content, Number)):
            return {**message, "content": [{"type": "text", "text": content or ""}]}
        return {**message, "content": Decoder().run(BLOCKS, content) or []}


def _member(node: Node, name: str) -> tuple[bool, Node]:
    """The last member of that name, in any case."""
    if isinstance(node, Object):
        for key, value in reversed(node):
            if key.lower() == name:
                return True, value
    return False, None


THINKING = Pointer(Struct("anthropic.ThinkingConfig", {"type": STRING, "budget_tokens": INT}))
TOOL = Struct(
    "anthropic.Tool",
    {"type": STRING, "name": STRING, "description": STRING, "input_schema": RAW, "max_uses": INT},
)
_PROMPT: dict[str, GoType] = {
    "model": STRING,
    "messages": Slice(MessageParam("anthropic.MessageParam")),
    "system": ANY,
    "tools": Slice(TOOL),
    "thinking": THINKING,
}
COUNT_TOKENS = Struct("anthropic.CountTokensRequest", _PROMPT)
MESSAGES = Struct(
    "anthropic.MessagesRequest",
    {
        **_PROMPT,
        "max_tokens": INT,
        "stream": BOOL,
        "temperature": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "top_k": Pointer(INT),
        "stop_sequences": STRINGS,
        "tool_choice": Pointer(
            Struct(
                "anthropic.ToolChoice",
                {"type": STRING, "name": STRING, "disable_parallel_tool_use": BOOL},
            )
        ),
        "metadata": Pointer(Struct("anthropic.Metadata", {"user_id": STRING})),
        "output_config": Pointer(Struct("anthropic.OutputConfig", {"effort": STRING})),
    },
)
