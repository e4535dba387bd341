"""JSON Schemas of the answers of `/v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping

from vllama.api.openapi.schema import BOOL, FREE, INT, NULL, TEXT, Schema, closed, listed, maybe, ref

_TEXT_PART = closed({"type": TEXT, "text": TEXT, "annotations": listed(FREE), "logprobs": listed(FREE)})
_PLACE: dict[str, Schema] = {"item_id": TEXT, "output_index": INT}
_IN_TEXT: dict[str, Schema] = {**_PLACE, "content_index": INT}
_IN_SUMMARY: dict[str, Schema] = {**_PLACE, "summary_index": INT}


def _event(kind: str, **fields: Schema) -> Schema:
    return closed({"type": {"const": kind}, "sequence_number": INT, **fields})


COMPONENTS: Mapping[str, Schema] = {
    "ResponseItem": {
        "anyOf": [
            closed(
                {"id": TEXT, "type": {"const": "message"}, "status": TEXT, "role": TEXT},
                {"content": listed(_TEXT_PART)},
            ),
            closed(
                {
                    "id": TEXT,
                    "type": {"const": "reasoning"},
                    "summary": listed(closed({"type": TEXT, "text": TEXT})),
                },
                {"encrypted_content": TEXT, "status": TEXT},
            ),
            closed(
                {
                    "id": TEXT,
                    "type": {"const": "function_call"},
                    "status": TEXT,
                    "call_id": TEXT,
                    "name": TEXT,
                    "arguments": TEXT,
                }
            ),
        ]
    },
    "Response": closed(
        {
            "id": TEXT,
            "object": {"const": "response"},
            "created_at": INT,
            "completed_at": maybe(INT),
            "status": TEXT,
            "incomplete_details": NULL,
            "model": TEXT,
            "previous_response_id": maybe(TEXT),
            "instructions": maybe(TEXT),
            "output": listed(ref("ResponseItem")),
            "error": maybe(FREE),
            "tools": listed(FREE),
            "tool_choice": TEXT,
            "truncation": TEXT,
            "parallel_tool_calls": BOOL,
            "text": FREE,
            "top_p": {"type": "number"},
            "presence_penalty": {"type": "number"},
            "frequency_penalty": {"type": "number"},
            "top_logprobs": INT,
            "temperature": {"type": "number"},
            "reasoning": maybe(FREE),
            "usage": maybe(
                closed(
                    {
                        "input_tokens": INT,
                        "output_tokens": INT,
                        "total_tokens": INT,
                        "input_tokens_details": closed({"cached_tokens": INT}),
                        "output_tokens_details": closed({"reasoning_tokens": INT}),
                    }
                )
            ),
            "max_output_tokens": maybe(INT),
            "max_tool_calls": NULL,
            "store": BOOL,
            "background": BOOL,
            "service_tier": TEXT,
            "metadata": FREE,
            "safety_identifier": NULL,
            "prompt_cache_key": NULL,
        }
    ),
    "ResponseEvent": {
        "anyOf": [
            *(
                _event(f"response.{kind}", response=ref("Response"))
                for kind in ("created", "in_progress", "completed", "failed")
            ),
            _event("response.output_item.added", item=ref("ResponseItem"), output_index=INT),
            _event("response.output_item.done", item=ref("ResponseItem"), output_index=INT),
            _event("response.content_part.added", part=_TEXT_PART, **_IN_TEXT),
            _event("response.content_part.done", part=_TEXT_PART, **_IN_TEXT),
            _event("response.output_text.delta", delta=TEXT, logprobs=listed(FREE), **_IN_TEXT),
            _event("response.output_text.done", text=TEXT, logprobs=listed(FREE), **_IN_TEXT),
            _event("response.reasoning_summary_text.delta", delta=TEXT, **_IN_SUMMARY),
            _event("response.reasoning_summary_text.done", text=TEXT, **_IN_SUMMARY),
            _event("response.function_call_arguments.delta", delta=TEXT, **_PLACE),
            _event("response.function_call_arguments.done", arguments=TEXT, **_PLACE),
        ]
    },
}
