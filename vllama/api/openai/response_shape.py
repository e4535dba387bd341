"""The response object of /v1/responses, and its stream of numbered events."""

from __future__ import annotations

import secrets
import time
from typing import Any

from vllama.api.events import event
from vllama.api.http import dumps
from vllama.api.read_responses import ResponsesExtras
from vllama.api.tools import numbers
from vllama.core.replies import Delta, Done, Reply
from vllama.errors import VllamaError
from vllama.prompts.messages import ToolCall

Item = dict[str, Any]


class ResponseShape:
    """One response. In a stream an item of thoughts or text is open until something else comes."""

    def __init__(self, extras: ResponsesExtras) -> None:
        self._id = f"resp_{_number()}"
        self._model = extras.model
        self._sent = extras.sent
        self._created = int(time.time())
        self._output: list[Item] = []
        self._sequence = 0
        self._streams = False
        self._open = ""
        self._item_id = ""
        self._text: list[str] = []

    # -- whole ---------------------------------------------------------------------------------------------

    def whole(self, delta: Delta, done: Done) -> dict[str, Any]:
        """The response. Text beside calls is kept; Ollama drops it."""
        output: list[Item] = []
        if delta.thinking:
            output.append(_reasoning(f"rs_{self._id}", delta.thinking))
        if delta.content or not delta.tool_calls:
            output.append(_message(f"msg_{_number()}", delta.content))
        for index, call in enumerate(delta.tool_calls):
            output.append(_function_call(f"fc_{self._id}_{index}", call))
        return self._response("completed", output, _usage(done))

    def _response(
        self,
        status: str,
        output: list[Item],
        usage: dict[str, Any] | None,
        error: VllamaError | None = None,
    ) -> dict[str, Any]:
        get = self._sent.get
        text_format = (get("text") or {}).get("format")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "incomplete_details": None,
            "model": self._model,
            "previous_response_id": None,
            "instructions": get("instructions") or None,
            "output": output,
            "error": {"code": "server_error", "message": error.text} if error is not None else None,
            "tools": [_tool(tool) for tool in get("tools") or ()],
            "tool_choice": "auto",
            "truncation": get("truncation") or "disabled",
            "parallel_tool_calls": True,
            "text": {"format": _format(text_format)},
            "top_p": _number_or_one(get("top_p")),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": _number_or_one(get("temperature")),
            "reasoning": self._reasoning_sent(),
            "usage": usage,
            "max_output_tokens": get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": get("background", False),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    def _reasoning_sent(self) -> dict[str, Any] | None:
        """What the request said about reasoning. A stream says of each setting whether it is there."""
        sent = self._sent.get("reasoning") or {}
        effort, summary = sent.get("effort") or None, sent.get("summary") or None
        if effort is None and summary is None:
            return None
        both = {"effort": effort, "summary": summary}
        return both if self._streams else {key: value for key, value in both.items() if value is not None}

    # -- stream --------------------------------------------------------------------------------------------

    def begin(self, reply: Reply) -> bytes:
        """response.created and response.in_progress."""
        self._streams = True
        response = self._response("in_progress", [], None)
        return b"".join(self._event(f"response.{name}", response=response) for name in ("created", "in_progress"))

    def events(self, delta: Delta) -> bytes:
        """A delta of the open item; another kind of piece ends it and opens the next."""
        parts: list[bytes] = []
        if delta.thinking:
            parts.append(self._opened("reasoning"))
            parts.append(
                self._event(
                    "response.reasoning_summary_text.delta",
                    item_id=self._item_id,
                    output_index=len(self._output),
                    summary_index=0,
                    delta=delta.thinking,
                )
            )
            self._text.append(delta.thinking)
        if delta.content:
            parts.append(self._opened("message"))
            parts.append(self._text_delta(delta.content))
            self._text.append(delta.content)
        if delta.tool_calls:
            parts.append(self._closed())
            number = _number()
            parts.extend(self._called(f"fc_{number}_{i}", call) for i, call in enumerate(delta.tool_calls))
        return b"".join(parts)

    def finish(self, done: Done) -> bytes:
        """What the parsers still had, the end of the open item, response.completed."""
        rest = self.events(done.delta) + self._closed()
        response = self._response("completed", self._output, _usage(done))
        return rest + self._event("response.completed", response=response)

    def failed(self, error: VllamaError) -> bytes:
        """response.failed, with what there is so far."""
        rest = self._closed()
        return rest + self._event("response.failed", response=self._response("failed", self._output, None, error))

    def _event(self, name: str, **data: Any) -> bytes:
        number = self._sequence
        self._sequence += 1
        return event(name, {**data, "sequence_number": number, "type": name})

    def _text_delta(self, text: str) -> bytes:
        number = self._sequence
        self._sequence += 1
        return (
            b'event: response.output_text.delta\ndata: {"content_index":0,"delta":%b,"item_id":"%b","logprobs":[],'
            b'"output_index":%d,"sequence_number":%d,"type":"response.output_text.delta"}\n\n'
            % (dumps(text), self._item_id.encode(), len(self._output), number)
        )

    def _opened(self, kind: str) -> bytes:
        if self._open == kind:
            return b""
        before = self._closed()
        self._open = kind
        if kind == "reasoning":
            self._item_id = f"rs_{_number()}"
            return before + self._added({"id": self._item_id, "type": "reasoning", "summary": []})
        self._item_id = f"msg_{_number()}"
        item = {"id": self._item_id, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        return before + self._added(item) + self._part("response.content_part.added", part=_part(""))

    def _added(self, item: Item) -> bytes:
        return self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _done(self, item: Item) -> bytes:
        data = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return data

    def _part(self, name: str, **data: Any) -> bytes:
        place = {"item_id": self._item_id, "output_index": len(self._output), "content_index": 0}
        return self._event(name, **place, **data)

    def _closed(self) -> bytes:
        kind, text = self._open, "".join(self._text)
        self._open, self._text = "", []
        if kind == "reasoning":
            data = {"item_id": self._item_id, "output_index": len(self._output), "summary_index": 0, "text": text}
            end = self._event("response.reasoning_summary_text.done", **data)
            return end + self._done(_reasoning(self._item_id, text))
        if kind == "message":
            end = self._part("response.output_text.done", text=text, logprobs=[])
            end += self._part("response.content_part.done", part=_part(text))
            return end + self._done(_message(self._item_id, text))
        return b""

    def _called(self, item_id: str, call: ToolCall) -> bytes:
        item = _function_call(item_id, call)
        data = {"item_id": item_id, "output_index": len(self._output)}
        return (
            self._added({**item, "status": "in_progress", "arguments": ""})
            + self._event("response.function_call_arguments.delta", **data, delta=item["arguments"])
            + self._event("response.function_call_arguments.done", **data, arguments=item["arguments"])
            + self._done(item)
        )


def _number() -> int:
    return secrets.randbelow(10**12)


def _part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(item_id: str, text: str) -> Item:
    return {"id": item_id, "type": "message", "status": "completed", "role": "assistant", "content": [_part(text)]}


def _reasoning(item_id: str, text: str) -> Item:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def _function_call(item_id: str, call: ToolCall) -> Item:
    return {
        "id": item_id,
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": dumps(call.arguments).decode(),
    }


def _tool(sent: Item) -> Item:
    """A tool as it was sent."""
    tool = {"type": sent.get("type", ""), "name": sent.get("name", "")}
    tool |= {key: numbers(sent.get(key)) for key in ("description", "strict", "parameters")}
    if members := sent.get("tools"):
        tool["tools"] = [_tool(member) for member in members]
    return tool


def _format(sent: Item | None) -> Item:
    if sent is None:
        return {"type": "text"}
    settings = {key: sent[key] for key in ("name", "schema", "strict") if sent.get(key) not in (None, "")}
    return {"type": sent.get("type", ""), **settings}


def _number_or_one(value: float | None) -> Any:
    return 1 if value is None else numbers(value)


def _usage(done: Done) -> dict[str, Any]:
    prompt, output = done.prompt_tokens, done.output_tokens
    return {
        "input_tokens": prompt,
        "output_tokens": output,
        "total_tokens": prompt + output,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
