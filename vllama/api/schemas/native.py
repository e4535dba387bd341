"""Bodies of Ollama's own routes, named as its errors name them."""

from __future__ import annotations

from vllama.api.godecoder import GoType
from vllama.api.goscalars import ANY, BOOL, INT, RAW, STRING, Bytes
from vllama.api.gotypes import ANY_MAP, ANYS, BOOL_POINTER, STRING_MAP, STRINGS, Pointer, Slice, Struct
from vllama.api.ollamatypes import Duration, OrderedMap, PropertyType, SelfDecoded, ThinkValue

IMAGES = Slice(Bytes("api.ImageData"))
KEEP_ALIVE = Pointer(Duration("api.Duration"))
THINK = Pointer(ThinkValue("api.ThinkValue"))

TOOL_ARGUMENTS = OrderedMap(ANY)
TOOL_CALL = Struct(
    "api.ToolCall",
    {
        "id": STRING,
        "function": Struct(
            "api.ToolCallFunction",
            {"index": INT, "name": STRING, "arguments": TOOL_ARGUMENTS},
        ),
    },
)
MESSAGE = SelfDecoded(
    "api.Message",
    Struct(
        "api.Alias",
        {
            "role": STRING,
            "content": STRING,
            "thinking": STRING,
            "images": IMAGES,
            "tool_calls": Slice(TOOL_CALL),
            "tool_name": STRING,
            "tool_call_id": STRING,
        },
    ),
)

TOOL_PROPERTY = Struct(
    "api.ToolProperty",
    {
        "type": PropertyType("api.PropertyType"),
        "items": ANY,
        "description": STRING,
        "enum": ANYS,
        "required": STRINGS,
    },
)
TOOL_PROPERTIES = Pointer(OrderedMap(TOOL_PROPERTY))
TOOL_PROPERTY.add("anyOf", Slice(TOOL_PROPERTY))
TOOL_PROPERTY.add("properties", TOOL_PROPERTIES)
TOOL_PARAMETERS = Struct(
    "api.ToolFunctionParameters",
    {
        "type": STRING,
        "$defs": ANY,
        "items": ANY,
        "required": STRINGS,
        "properties": TOOL_PROPERTIES,
    },
)
TOOL = Struct(
    "api.Tool",
    {
        "type": STRING,
        "items": ANY,
        "function": Struct(
            "api.ToolFunction",
            {"name": STRING, "description": STRING, "parameters": TOOL_PARAMETERS},
        ),
    },
)

_RUN: dict[str, GoType] = {
    "model": STRING,
    "stream": BOOL_POINTER,
    "format": RAW,
    # vLLama's, with vLLM's name.
    "structured_outputs": ANY,
    "keep_alive": KEEP_ALIVE,
    "options": ANY_MAP,
    "think": THINK,
    "truncate": BOOL_POINTER,
    "shift": BOOL_POINTER,
    "_debug_render_only": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
}
GENERATE = Struct(
    "api.GenerateRequest",
    {
        **_RUN,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Slice(INT),
        "raw": BOOL,
        "images": IMAGES,
    },
)
CHAT = Struct(
    "api.ChatRequest",
    {**_RUN, "messages": Slice(MESSAGE), "tools": Slice(TOOL, "api.Tools")},
)
EMBED = Struct(
    "api.EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": KEEP_ALIVE,
        "truncate": BOOL_POINTER,
        "dimensions": INT,
        "options": ANY_MAP,
    },
)
EMBEDDINGS = Struct(
    "api.EmbeddingRequest",
    {"model": STRING, "prompt": STRING, "keep_alive": KEEP_ALIVE, "options": ANY_MAP},
)
SHOW = Struct(
    "api.ShowRequest",
    {
        "model": STRING,
        "system": STRING,
        "template": STRING,
        "verbose": BOOL,
        "options": ANY_MAP,
        "name": STRING,
    },
)
CREATE = Struct(
    "api.CreateRequest",
    {
        "model": STRING,
        "stream": BOOL_POINTER,
        "quantize": STRING,
        "from": STRING,
        "remote_host": STRING,
        "files": STRING_MAP,
        "adapters": STRING_MAP,
        "draft_files": STRING_MAP,
        "draft_quantize": STRING,
        "template": STRING,
        "license": ANY,
        "system": STRING,
        "parameters": ANY_MAP,
        "messages": Slice(MESSAGE),
        "renderer": STRING,
        "parser": STRING,
        "requires": STRING,
        "info": ANY_MAP,
        "name": STRING,
        "quantization": STRING,
    },
)
COPY = Struct("api.CopyRequest", {"source": STRING, "destination": STRING})
DELETE = Struct("api.DeleteRequest", {"model": STRING, "name": STRING})
_TRANSFER: dict[str, GoType] = {
    "model": STRING,
    "insecure": BOOL,
    "username": STRING,
    "password": STRING,
    "stream": BOOL_POINTER,
    "name": STRING,
}
# "from" is ours: Ollama ignores it, as any field that it does not know.
PULL = Struct("api.PullRequest", _TRANSFER | {"from": STRING})
PUSH = Struct("api.PushRequest", _TRANSFER)
