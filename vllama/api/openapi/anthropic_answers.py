"""JSON Schemas of the answers of `/v1/messages`."""

from __future__ import annotations

from collections.abc import Mapping

from vllama.api.openapi.schema import FREE, INT, TEXT, Schema, closed, listed, ref

_ANTHROPIC_USAGE = closed({"input_tokens": INT, "output_tokens": INT})


def _message_event(kind: str, **fields: Schema) -> Schema:
    return closed({"type": {"const": kind}, **fields})


COMPONENTS: Mapping[str, Schema] = {
    "AnthropicError": closed(
        {"type": {"const": "error"}, "error": closed({"type": TEXT, "message": TEXT}), "request_id": TEXT}
    ),
    "MessageBlock": {
        "anyOf": [
            closed({"type": {"const": "text"}, "text": TEXT}),
            closed({"type": {"const": "thinking"}, "thinking": TEXT}, {"signature": TEXT}),
            closed({"type": {"const": "tool_use"}, "id": TEXT, "name": TEXT, "input": FREE}),
        ]
    },
    "Message": closed(
        {
            "id": TEXT,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": TEXT,
            "content": listed(ref("MessageBlock")),
            "usage": _ANTHROPIC_USAGE,
        },
        {"stop_reason": TEXT, "stop_sequence": TEXT},
    ),
    "MessageEvent": {
        "anyOf": [
            _message_event("message_start", message=ref("Message")),
            _message_event("content_block_start", index=INT, content_block=ref("MessageBlock")),
            _message_event(
                "content_block_delta",
                index=INT,
                delta={
                    "anyOf": [
                        closed({"type": {"const": "text_delta"}, "text": TEXT}),
                        closed({"type": {"const": "thinking_delta"}, "thinking": TEXT}),
                        closed({"type": {"const": "signature_delta"}, "signature": TEXT}),
                        closed({"type": {"const": "input_json_delta"}, "partial_json": TEXT}),
                    ]
                },
            ),
            _message_event("content_block_stop", index=INT),
            _message_event(
                "message_delta",
                delta=closed({"stop_reason": TEXT}, {"stop_sequence": TEXT}),
                usage=_ANTHROPIC_USAGE,
            ),
            _message_event("message_stop"),
            ref("AnthropicError"),
        ]
    },
    "TokenCount": closed({"input_tokens": INT}),
}
