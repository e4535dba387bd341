"""JSON Schemas of the answers of the OpenAI routes."""

from __future__ import annotations

from collections.abc import Mapping

from vllama.api.openapi.schema import INT, NULL, TEXT, Schema, closed, listed, maybe, ref

_CHUNK: dict[str, Schema] = {"id": TEXT, "object": TEXT, "created": INT, "model": TEXT, "system_fingerprint": TEXT}
_FINISH = maybe({"enum": ["stop", "length", "tool_calls", "load"]})
_USAGE = closed({"prompt_tokens": INT, "completion_tokens": INT, "total_tokens": INT})

COMPONENTS: Mapping[str, Schema] = {
    "OpenAIError": closed({"error": closed({"message": TEXT, "type": TEXT, "param": NULL, "code": NULL})}),
    "OpenAIModel": closed(
        {"id": TEXT, "object": {"const": "model"}, "created": INT, "owned_by": TEXT},
    ),
    "OpenAIModels": closed({"object": {"const": "list"}, "data": listed(ref("OpenAIModel"))}),
    "OpenAIToolCall": closed(
        {
            "id": TEXT,
            "index": INT,
            "type": {"const": "function"},
            "function": closed({"name": TEXT, "arguments": TEXT}),
        }
    ),
    "OpenAILogprobs": closed({"content": listed(ref("Logprob"))}),
    "OpenAIMessage": closed(
        {"role": TEXT, "content": TEXT}, {"reasoning": TEXT, "tool_calls": listed(ref("OpenAIToolCall"))}
    ),
    "ChatCompletion": closed(
        {
            **_CHUNK,
            "choices": listed(
                closed(
                    {"index": INT, "message": ref("OpenAIMessage"), "finish_reason": _FINISH},
                    {"logprobs": ref("OpenAILogprobs")},
                )
            ),
            "usage": _USAGE,
        },
        {"_debug_info": ref("DebugInfo")},
    ),
    "ChatCompletionChunk": closed(
        {
            **_CHUNK,
            "choices": listed(
                closed(
                    {
                        "index": INT,
                        "delta": closed(
                            {},
                            {
                                "role": TEXT,
                                "content": TEXT,
                                "reasoning": TEXT,
                                "tool_calls": listed(ref("OpenAIToolCall")),
                            },
                        ),
                        "finish_reason": _FINISH,
                    },
                    {"logprobs": ref("OpenAILogprobs")},
                )
            ),
        },
        {"usage": _USAGE, "_debug_info": ref("DebugInfo")},
    ),
    "Completion": closed(
        {
            **_CHUNK,
            "choices": listed(closed({"text": TEXT, "index": INT, "finish_reason": _FINISH})),
            "usage": _USAGE,
        }
    ),
    "CompletionChunk": closed(
        {**_CHUNK, "choices": listed(closed({"text": TEXT, "index": INT, "finish_reason": _FINISH}))},
        {"usage": _USAGE},
    ),
    "OpenAIEmbeddings": closed(
        {
            "object": {"const": "list"},
            "data": listed(
                closed(
                    {
                        "object": {"const": "embedding"},
                        "embedding": {"oneOf": [listed({"type": "number"}), TEXT]},
                        "index": INT,
                    }
                )
            ),
            "model": TEXT,
            "usage": closed({"prompt_tokens": INT, "total_tokens": INT}),
        }
    ),
}
