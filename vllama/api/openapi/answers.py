"""JSON Schemas of what the routes answer. Objects are closed: a field that does not stand here is never sent.

`tests/unit/test_openapi.py` holds them against the recorded answers of a real Ollama, and against the routes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_INT: Schema = {"type": "integer"}
_BOOL: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_NULL: Schema = {"type": "null"}
_FREE: Schema = {"type": "object"}


def closed(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    properties = {**required, **(optional or {})}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def ref(name: str) -> Schema:
    """A component."""
    return {"$ref": f"#/components/schemas/{name}"}


def listed(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def maybe(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, _NULL]}


_TOKEN: dict[str, Schema] = {"token": _TEXT, "logprob": {"type": "number"}}
_BYTES: dict[str, Schema] = {"bytes": listed(_INT)}
_DETAILS: dict[str, Schema] = {
    "parent_model": _TEXT,
    "format": _TEXT,
    "family": _TEXT,
    "families": maybe(listed(_TEXT)),
    "parameter_size": _TEXT,
    "quantization_level": _TEXT,
}
_SIZES: dict[str, Schema] = {"context_length": _INT, "embedding_length": _INT}
_COUNTS: dict[str, Schema] = {
    "total_duration": _INT,
    "load_duration": _INT,
    "prompt_eval_count": _INT,
    "prompt_eval_duration": _INT,
    "eval_count": _INT,
    "eval_duration": _INT,
}
_END: dict[str, Schema] = {
    "done_reason": {"enum": ["stop", "length", "load", "unload"]},
    **_COUNTS,
    "logprobs": listed(ref("Logprob")),
    "_debug_info": ref("DebugInfo"),
}
_CHUNK: dict[str, Schema] = {"id": _TEXT, "object": _TEXT, "created": _INT, "model": _TEXT, "system_fingerprint": _TEXT}
_FINISH = maybe({"enum": ["stop", "length", "tool_calls", "load"]})
_USAGE = closed({"prompt_tokens": _INT, "completion_tokens": _INT, "total_tokens": _INT})
_ANTHROPIC_USAGE = closed({"input_tokens": _INT, "output_tokens": _INT})
_TEXT_PART = closed({"type": _TEXT, "text": _TEXT, "annotations": listed(_FREE), "logprobs": listed(_FREE)})
_MODEL: dict[str, Schema] = {"name": _TEXT, "model": _TEXT, "size": _INT, "digest": _TEXT}


def _event(kind: str, **fields: Schema) -> Schema:
    return closed({"type": {"const": kind}, "sequence_number": _INT, **fields})


def _message_event(kind: str, **fields: Schema) -> Schema:
    return closed({"type": {"const": kind}, **fields})


_PLACE: dict[str, Schema] = {"item_id": _TEXT, "output_index": _INT}
_IN_TEXT: dict[str, Schema] = {**_PLACE, "content_index": _INT}
_IN_SUMMARY: dict[str, Schema] = {**_PLACE, "summary_index": _INT}

COMPONENTS: Mapping[str, Schema] = {
    "Error": closed({"error": _TEXT}),
    "OpenAIError": closed({"error": closed({"message": _TEXT, "type": _TEXT, "param": _NULL, "code": _NULL})}),
    "AnthropicError": closed(
        {"type": {"const": "error"}, "error": closed({"type": _TEXT, "message": _TEXT}), "request_id": _TEXT}
    ),
    "Logprob": closed(_TOKEN, _BYTES | {"top_logprobs": listed(closed(_TOKEN, _BYTES))}),
    "DebugInfo": closed({"rendered_template": _TEXT}, {"image_count": _INT}),
    "ToolCall": closed(
        {"function": closed({"index": _INT, "name": _TEXT, "arguments": _FREE})},
        {"id": _TEXT},
    ),
    "Generated": closed(
        {"model": _TEXT, "created_at": _TIME, "response": _TEXT, "done": _BOOL},
        {"thinking": _TEXT, "context": listed(_INT), **_END},
    ),
    "ChatAnswer": closed(
        {
            "model": _TEXT,
            "created_at": _TIME,
            "message": closed(
                {"role": {"enum": ["assistant", ""]}, "content": _TEXT},
                {"thinking": _TEXT, "tool_calls": listed(ref("ToolCall"))},
            ),
            "done": _BOOL,
        },
        _END,
    ),
    "Embedded": closed(
        {"model": _TEXT, "embeddings": listed(listed({"type": "number"}))},
        {"total_duration": _INT, "load_duration": _INT, "prompt_eval_count": _INT},
    ),
    "Embedding": closed({"embedding": listed({"type": "number"})}),
    "Tags": closed(
        {
            "models": listed(
                closed(
                    {**_MODEL, "modified_at": _TIME, "details": closed(_DETAILS, _SIZES)},
                    {"capabilities": listed(_TEXT)},
                )
            )
        }
    ),
    "Running": closed(
        {
            "models": listed(
                closed(
                    {
                        **_MODEL,
                        "details": closed(_DETAILS, _SIZES),
                        "expires_at": _TIME,
                        "size_vram": _INT,
                        "context_length": _INT,
                    }
                )
            )
        }
    ),
    "Shown": closed(
        {
            "modelfile": _TEXT,
            "details": closed(_DETAILS, _SIZES),
            "model_info": _FREE,
            "capabilities": listed(_TEXT),
            "modified_at": _TIME,
        },
        {
            "license": _TEXT,
            "parameters": _TEXT,
            "template": _TEXT,
            "system": _TEXT,
            "renderer": _TEXT,
            "parser": _TEXT,
            "requires": _TEXT,
            "messages": listed(closed({"role": _TEXT, "content": _TEXT}, {"images": listed(_TEXT)})),
            "tensors": listed(closed({"name": _TEXT, "type": _TEXT, "shape": listed(_INT)})),
            "projector_info": _FREE,
        },
    ),
    "Progress": closed({}, {"status": _TEXT, "digest": _TEXT, "total": _INT, "completed": _INT, "error": _TEXT}),
    "Version": closed({"version": _TEXT}),
    "CloudStatus": closed({"cloud": closed({"disabled": _BOOL, "source": _TEXT})}),
    "Recommendations": closed({"recommendations": listed(_FREE)}),
    "Health": closed({"status": {"const": "ok"}, "version": _TEXT, "models": listed(_FREE)}),
    "OpenAIModel": closed(
        {"id": _TEXT, "object": {"const": "model"}, "created": _INT, "owned_by": _TEXT},
    ),
    "OpenAIModels": closed({"object": {"const": "list"}, "data": listed(ref("OpenAIModel"))}),
    "OpenAIToolCall": closed(
        {
            "id": _TEXT,
            "index": _INT,
            "type": {"const": "function"},
            "function": closed({"name": _TEXT, "arguments": _TEXT}),
        }
    ),
    "OpenAILogprobs": closed({"content": listed(ref("Logprob"))}),
    "OpenAIMessage": closed(
        {"role": _TEXT, "content": _TEXT}, {"reasoning": _TEXT, "tool_calls": listed(ref("OpenAIToolCall"))}
    ),
    "ChatCompletion": closed(
        {
            **_CHUNK,
            "choices": listed(
                closed(
                    {"index": _INT, "message": ref("OpenAIMessage"), "finish_reason": _FINISH},
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
                        "index": _INT,
                        "delta": closed(
                            {},
                            {
                                "role": _TEXT,
                                "content": _TEXT,
                                "reasoning": _TEXT,
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
            "choices": listed(closed({"text": _TEXT, "index": _INT, "finish_reason": _FINISH})),
            "usage": _USAGE,
        }
    ),
    "CompletionChunk": closed(
        {**_CHUNK, "choices": listed(closed({"text": _TEXT, "index": _INT, "finish_reason": _FINISH}))},
        {"usage": _USAGE},
    ),
    "OpenAIEmbeddings": closed(
        {
            "object": {"const": "list"},
            "data": listed(
                closed(
                    {
                        "object": {"const": "embedding"},
                        "embedding": {"oneOf": [listed({"type": "number"}), _TEXT]},
                        "index": _INT,
                    }
                )
            ),
            "model": _TEXT,
            "usage": closed({"prompt_tokens": _INT, "total_tokens": _INT}),
        }
    ),
    "ResponseItem": {
        "anyOf": [
            closed(
                {"id": _TEXT, "type": {"const": "message"}, "status": _TEXT, "role": _TEXT},
                {"content": listed(_TEXT_PART)},
            ),
            closed(
                {
                    "id": _TEXT,
                    "type": {"const": "reasoning"},
                    "summary": listed(closed({"type": _TEXT, "text": _TEXT})),
                },
                {"encrypted_content": _TEXT, "status": _TEXT},
            ),
            closed(
                {
                    "id": _TEXT,
                    "type": {"const": "function_call"},
                    "status": _TEXT,
                    "call_id": _TEXT,
                    "name": _TEXT,
                    "arguments": _TEXT,
                }
            ),
        ]
    },
    "Response": closed(
        {
            "id": _TEXT,
            "object": {"const": "response"},
            "created_at": _INT,
            "completed_at": maybe(_INT),
            "status": _TEXT,
            "incomplete_details": _NULL,
            "model": _TEXT,
            "previous_response_id": maybe(_TEXT),
            "instructions": maybe(_TEXT),
            "output": listed(ref("ResponseItem")),
            "error": maybe(_FREE),
            "tools": listed(_FREE),
            "tool_choice": _TEXT,
            "truncation": _TEXT,
            "parallel_tool_calls": _BOOL,
            "text": _FREE,
            "top_p": {"type": "number"},
            "presence_penalty": {"type": "number"},
            "frequency_penalty": {"type": "number"},
            "top_logprobs": _INT,
            "temperature": {"type": "number"},
            "reasoning": maybe(_FREE),
            "usage": maybe(
                closed(
                    {
                        "input_tokens": _INT,
                        "output_tokens": _INT,
                        "total_tokens": _INT,
                        "input_tokens_details": closed({"cached_tokens": _INT}),
                        "output_tokens_details": closed({"reasoning_tokens": _INT}),
                    }
                )
            ),
            "max_output_tokens": maybe(_INT),
            "max_tool_calls": _NULL,
            "store": _BOOL,
            "background": _BOOL,
            "service_tier": _TEXT,
            "metadata": _FREE,
            "safety_identifier": _NULL,
            "prompt_cache_key": _NULL,
        }
    ),
    "ResponseEvent": {
        "anyOf": [
            *(
                _event(f"response.{kind}", response=ref("Response"))
                for kind in ("created", "in_progress", "completed", "failed")
            ),
            _event("response.output_item.added", item=ref("ResponseItem"), output_index=_INT),
            _event("response.output_item.done", item=ref("ResponseItem"), output_index=_INT),
            _event("response.content_part.added", part=_TEXT_PART, **_IN_TEXT),
            _event("response.content_part.done", part=_TEXT_PART, **_IN_TEXT),
            _event("response.output_text.delta", delta=_TEXT, logprobs=listed(_FREE), **_IN_TEXT),
            _event("response.output_text.done", text=_TEXT, logprobs=listed(_FREE), **_IN_TEXT),
            _event("response.reasoning_summary_text.delta", delta=_TEXT, **_IN_SUMMARY),
            _event("response.reasoning_summary_text.done", text=_TEXT, **_IN_SUMMARY),
            _event("response.function_call_arguments.delta", delta=_TEXT, **_PLACE),
            _event("response.function_call_arguments.done", arguments=_TEXT, **_PLACE),
        ]
    },
    "MessageBlock": {
        "anyOf": [
            closed({"type": {"const": "text"}, "text": _TEXT}),
            closed({"type": {"const": "thinking"}, "thinking": _TEXT}, {"signature": _TEXT}),
            closed({"type": {"const": "tool_use"}, "id": _TEXT, "name": _TEXT, "input": _FREE}),
        ]
    },
    "Message": closed(
        {
            "id": _TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": _TEXT,
            "content": listed(ref("MessageBlock")),
            "usage": _ANTHROPIC_USAGE,
        },
        {"stop_reason": _TEXT, "stop_sequence": _TEXT},
    ),
    "MessageEvent": {
        "anyOf": [
            _message_event("message_start", message=ref("Message")),
            _message_event("content_block_start", index=_INT, content_block=ref("MessageBlock")),
            _message_event(
                "content_block_delta",
                index=_INT,
                delta={
                    "anyOf": [
                        closed({"type": {"const": "text_delta"}, "text": _TEXT}),
                        closed({"type": {"const": "thinking_delta"}, "thinking": _TEXT}),
                        closed({"type": {"const": "signature_delta"}, "signature": _TEXT}),
                        closed({"type": {"const": "input_json_delta"}, "partial_json": _TEXT}),
                    ]
                },
            ),
            _message_event("content_block_stop", index=_INT),
            _message_event(
                "message_delta",
                delta=closed({"stop_reason": _TEXT}, {"stop_sequence": _TEXT}),
                usage=_ANTHROPIC_USAGE,
            ),
            _message_event("message_stop"),
            ref("AnthropicError"),
        ]
    },
    "TokenCount": closed({"input_tokens": _INT}),
}


class Answers(NamedTuple):
    """What a route answers when all is well.

    `json` is the component of a single object, `lines` of each line of an NDJSON stream, `events` of each `data:` of
    Server-Sent Events. `text` is a media type for what is no JSON; with nothing set the body is empty.
    """

    json: str = ""
    lines: str = ""
    events: str = ""
    text: str = ""
    status: int = 200


_EMPTY = Answers()
_REFUSED = Answers(status=0)
"""No success is possible: there is no cloud here, or no such feature yet."""

ANSWERS: Mapping[tuple[str, str], Answers] = {
    ("HEAD", "/"): _EMPTY,
    ("GET", "/"): Answers(text="text/plain"),
    ("HEAD", "/api/version"): _EMPTY,
    ("GET", "/api/version"): Answers("Version"),
    ("GET", "/api/status"): Answers("CloudStatus"),
    ("POST", "/api/generate"): Answers("Generated", lines="Generated"),
    ("POST", "/api/chat"): Answers("ChatAnswer", lines="ChatAnswer"),
    ("POST", "/api/embed"): Answers("Embedded"),
    ("POST", "/api/embeddings"): Answers("Embedding"),
    ("HEAD", "/api/tags"): _EMPTY,
    ("GET", "/api/tags"): Answers("Tags"),
    ("GET", "/api/ps"): Answers("Running"),
    ("POST", "/api/show"): Answers("Shown"),
    ("POST", "/api/create"): Answers("Progress", lines="Progress"),
    ("POST", "/api/copy"): _EMPTY,
    ("DELETE", "/api/delete"): _EMPTY,
    ("POST", "/api/pull"): Answers("Progress", lines="Progress"),
    ("POST", "/api/push"): Answers("Progress", lines="Progress"),
    ("POST", "/api/blobs/{digest}"): Answers(status=201),
    ("HEAD", "/api/blobs/{digest}"): _EMPTY,
    ("POST", "/api/me"): _REFUSED,
    ("POST", "/api/signout"): _REFUSED,
    ("DELETE", "/api/user/keys/{encodedKey}"): _REFUSED,
    ("POST", "/api/experimental/web_search"): _REFUSED,
    ("POST", "/api/experimental/web_fetch"): _REFUSED,
    ("GET", "/api/experimental/model-recommendations"): Answers("Recommendations"),
    ("GET", "/v1/models"): Answers("OpenAIModels"),
    ("GET", "/v1/models/{model}"): Answers("OpenAIModel"),
    ("POST", "/v1/chat/completions"): Answers("ChatCompletion", events="ChatCompletionChunk"),
    ("POST", "/v1/completions"): Answers("Completion", events="CompletionChunk"),
    ("POST", "/v1/embeddings"): Answers("OpenAIEmbeddings"),
    ("POST", "/v1/responses"): Answers("Response", events="ResponseEvent"),
    ("POST", "/v1/audio/transcriptions"): _REFUSED,
    ("POST", "/v1/messages"): Answers("Message", events="MessageEvent"),
    ("POST", "/v1/messages/count_tokens"): Answers("TokenCount"),
    ("HEAD", "/health"): _EMPTY,
    ("GET", "/health"): Answers("Health"),
    ("HEAD", "/metrics"): _EMPTY,
    ("GET", "/metrics"): Answers(text="text/plain"),
    ("HEAD", "/docs"): _EMPTY,
    ("GET", "/docs"): Answers(text="text/html"),
    ("HEAD", "/openapi.json"): _EMPTY,
    ("GET", "/openapi.json"): Answers("Document"),
}
"""For each route and method."""

ERRORS: Mapping[str, str] = {
    "ollama": "Error",
    "ops": "Error",
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
}
"""The component of an API's errors."""
