"""Bodies of the /v1 routes, named as Ollama's errors name them."""

from __future__ import annotations

from vllama.api.goscalars import ANY, BOOL, FLOAT32, FLOAT64, INT, RAW, STRING
from vllama.api.gotypes import BOOL_POINTER, Pointer, Slice, Struct, nameless
from vllama.api.schemas.native import TOOL

STREAM_OPTIONS = Pointer(Struct("openai.StreamOptions", {"include_usage": BOOL}))

MESSAGE = Struct(
    "openai.Message",
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "tool_calls": Slice(
            Struct(
                "openai.ToolCall",
                {
                    "id": STRING,
                    "index": INT,
                    "type": STRING,
                    # Go prints a struct without a name by its fields.
                    "function": nameless(
                        'struct { Name string "json:\\"name\\""; Arguments string "json:\\"arguments\\"" }',
                        {"name": STRING, "arguments": STRING},
                    ),
                },
            )
        ),
        "name": STRING,
        "tool_call_id": STRING,
    },
)

CHAT = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": STRING,
        "messages": Slice(MESSAGE),
        "stream": BOOL,
        "stream_options": STREAM_OPTIONS,
        "max_tokens": Pointer(INT),
        # vLLama's: Ollama does not read OpenAI's newer name, so nothing in it is wrong.
        "max_completion_tokens": ANY,
        "seed": Pointer(INT),
        "stop": ANY,
        "temperature": Pointer(FLOAT64),
        "frequency_penalty": Pointer(FLOAT64),
        "presence_penalty": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "response_format": Pointer(
            Struct(
                "openai.ResponseFormat",
                {
                    "type": STRING,
                    "json_schema": Pointer(Struct("openai.JsonSchema", {"schema": RAW})),
                },
            )
        ),
        "structured_outputs": ANY,
        "tools": Slice(TOOL),
        "reasoning": Pointer(Struct("openai.Reasoning", {"effort": STRING})),
        "reasoning_effort": Pointer(STRING),
        "logprobs": BOOL_POINTER,
        "top_logprobs": INT,
        "_debug_render_only": BOOL,
    },
)

COMPLETION = Struct(
    "openai.CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "frequency_penalty": FLOAT32,
        "max_tokens": Pointer(INT),
        "presence_penalty": FLOAT32,
        "seed": Pointer(INT),
        "stop": ANY,
        "stream": BOOL,
        "stream_options": STREAM_OPTIONS,
        "temperature": Pointer(FLOAT32),
        "top_p": FLOAT32,
        "suffix": STRING,
        "structured_outputs": ANY,
        "logprobs": Pointer(INT),
        "_debug_render_only": BOOL,
    },
)

EMBED = Struct(
    "openai.EmbedRequest",
    {"input": ANY, "model": STRING, "dimensions": INT, "encoding_format": STRING},
)
