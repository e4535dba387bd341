"""JSON Schemas of the answers of Ollama's own routes, and what all of them share."""

from __future__ import annotations

from collections.abc import Mapping

from vllama.api.openapi.schema import BOOL, FREE, INT, TEXT, TIME, Schema, closed, listed, maybe, ref

_TOKEN: dict[str, Schema] = {"token": TEXT, "logprob": {"type": "number"}}
_BYTES: dict[str, Schema] = {"bytes": listed(INT)}
_DETAILS: dict[str, Schema] = {
    "parent_model": TEXT,
    "format": TEXT,
    "family": TEXT,
    "families": maybe(listed(TEXT)),
    "parameter_size": TEXT,
    "quantization_level": TEXT,
}
_SIZES: dict[str, Schema] = {"context_length": INT, "embedding_length": INT}
_COUNTS: dict[str, Schema] = {
    "total_duration": INT,
    "load_duration": INT,
    "prompt_eval_count": INT,
    "prompt_eval_duration": INT,
    "eval_count": INT,
    "eval_duration": INT,
}
_END: dict[str, Schema] = {
    "done_reason": {"enum": ["stop", "length", "load", "unload"]},
    **_COUNTS,
    "logprobs": listed(ref("Logprob")),
    "_debug_info": ref("DebugInfo"),
}
_MODEL: dict[str, Schema] = {"name": TEXT, "model": TEXT, "size": INT, "digest": TEXT}

COMPONENTS: Mapping[str, Schema] = {
    "Error": closed({"error": TEXT}),
    "Logprob": closed(_TOKEN, _BYTES | {"top_logprobs": listed(closed(_TOKEN, _BYTES))}),
    "DebugInfo": closed({"rendered_template": TEXT}, {"image_count": INT}),
    "ToolCall": closed(
        {"function": closed({"index": INT, "name": TEXT, "arguments": FREE})},
        {"id": TEXT},
    ),
    "Generated": closed(
        {"model": TEXT, "created_at": TIME, "response": TEXT, "done": BOOL},
        {"thinking": TEXT, "context": listed(INT), **_END},
    ),
    "ChatAnswer": closed(
        {
            "model": TEXT,
            "created_at": TIME,
            "message": closed(
                {"role": {"enum": ["assistant", ""]}, "content": TEXT},
                {"thinking": TEXT, "tool_calls": listed(ref("ToolCall"))},
            ),
            "done": BOOL,
        },
        _END,
    ),
    "Embedded": closed(
        {"model": TEXT, "embeddings": listed(listed({"type": "number"}))},
        {"total_duration": INT, "load_duration": INT, "prompt_eval_count": INT},
    ),
    "Embedding": closed({"embedding": listed({"type": "number"})}),
    "Tags": closed(
        {
            "models": listed(
                closed(
                    {**_MODEL, "modified_at": TIME, "details": closed(_DETAILS, _SIZES)},
                    {"capabilities": listed(TEXT)},
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
                        "expires_at": TIME,
                        "size_vram": INT,
                        "context_length": INT,
                    }
                )
            )
        }
    ),
    "Shown": closed(
        {
            "modelfile": TEXT,
            "details": closed(_DETAILS, _SIZES),
            "model_info": FREE,
            "capabilities": listed(TEXT),
            "modified_at": TIME,
        },
        {
            "license": TEXT,
            "parameters": TEXT,
            "template": TEXT,
            "system": TEXT,
            "renderer": TEXT,
            "parser": TEXT,
            "requires": TEXT,
            "messages": listed(closed({"role": TEXT, "content": TEXT}, {"images": listed(TEXT)})),
            "tensors": listed(closed({"name": TEXT, "type": TEXT, "shape": listed(INT)})),
            "projector_info": FREE,
        },
    ),
    "Progress": closed({}, {"status": TEXT, "digest": TEXT, "total": INT, "completed": INT, "error": TEXT}),
    "Version": closed({"version": TEXT}),
    "CloudStatus": closed({"cloud": closed({"disabled": BOOL, "source": TEXT})}),
    "Recommendations": closed({"recommendations": listed(FREE)}),
    "Health": closed({"status": {"const": "ok"}, "version": TEXT, "models": listed(FREE)}),
}
