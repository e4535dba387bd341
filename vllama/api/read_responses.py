"""Bodies of /v1/responses, turned into chat requests as Ollama turns them.

Pure functions; errors are BodyError and RequestError with the text for the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllama.api.gojson import decode, decode_text
from vllama.api.read import require_model
from vllama.api.read_openai import EMPTY, data_image, schema_format, think_of_effort
from vllama.api.schemas import responses
from vllama.api.schemas.native import TOOL_ARGUMENTS
from vllama.api.tools import build_schema_tool
from vllama.core.requests import ChatRequest
from vllama.errors import BodyError, RequestError
from vllama.prompts.messages import Message, Tool, ToolCall


@dataclass(frozen=True, slots=True)
class ResponsesExtras:
    """What the route needs to shape its answer. `sent` is the decoded request, parts of which an answer repeats."""

    model: str
    stream: bool
    sent: dict[str, Any]


def read_responses(body: bytes) -> tuple[ChatRequest, ResponsesExtras]:
    """POST /v1/responses."""
    sent = decode(body, responses.RESPONSES, empty=EMPTY)
    get = sent.get
    messages = _messages(get("instructions", ""), get("input", ""))
    temperature = get("temperature")
    options: dict[str, Any] = {"temperature": 1.0 if temperature is None else temperature}
    # Unlike on the older routes an absent top_p is the model's own.
    if get("top_p") is not None:
        options["top_p"] = get("top_p")
    if get("max_output_tokens") is not None:
        options["num_predict"] = get("max_output_tokens")
    think = think_of_effort(get("reasoning", {}).get("effort", ""))
    tools = tuple(_tools(get("tools") or (), ""))
    stream = get("stream") or False
    request = ChatRequest(
        model=require_model(get("model", "")),
        messages=messages,
        tools=tools,
        stream=stream,
        format=_format((get("text") or {}).get("format")),
        options=options,
        think=think,
    )
    return request, ResponsesExtras(request.model, stream, sent)


def _format(wanted: dict[str, Any] | None) -> Any:
    kind = wanted.get("type", "") if wanted else ""
    if kind == "json_object":
        return "json"  # which Ollama ignores
    return schema_format(wanted.get("schema")) if wanted and kind == "json_schema" else None


def _messages(instructions: str, items: str | Sequence[dict[str, Any]]) -> tuple[Message, ...]:
    messages = [Message("system", instructions)] if instructions else []
    if isinstance(items, str):
        return (*messages, Message("user", items)) if items else tuple(messages)
    thinking = ""  # of a reasoning item, until the message of the assistant that it belongs to
    for index, item in enumerate(items):
        match item["type"]:
            case "reasoning":
                thinking = item.get("encrypted_content", "")
            case "message":
                message = _message(item)
                if message.role == "assistant" and thinking:
                    message = replace(message, thinking=thinking)
                    thinking = ""
                answered = _answered(items[index + 1] if index + 1 < len(items) else None)
                if message.role == "assistant" and answered and messages and _calls(messages[-1], answered):
                    messages[-1] = _merged(messages[-1], message)
                else:
                    messages.append(message)
            case "function_call":
                call = _call(item)
                if messages and messages[-1].role == "assistant":
                    last = messages[-1]
                    calls = (*last.tool_calls, call)
                    messages[-1] = replace(last, tool_calls=calls, thinking=thinking or last.thinking)
                else:
                    messages.append(Message("assistant", "", thinking, (), (call,)))
                thinking = ""
            case "function_call_output":
                text, images = _content(item.get("output") or ())
                messages.append(Message("tool", text, images=images, tool_call_id=item.get("call_id", "")))
            case _:
                pass  # a search by the server: what it found is in the message that follows
    if thinking:
        messages.append(Message("assistant", "", thinking))
    return tuple(messages)


def _message(item: dict[str, Any]) -> Message:
    text, images = _content(item.get("content") or ())
    return Message(item.get("role", "").lower(), text, images=images)


def _answered(item: dict[str, Any] | None) -> str:
    """The id of the call that an item answers."""
    return item.get("call_id", "") if item is not None and item["type"] == "function_call_output" else ""


def _calls(message: Message, call_id: str) -> bool:
    return message.role == "assistant" and any(call.id == call_id for call in message.tool_calls)


def _merged(last: Message, more: Message) -> Message:
    """What the assistant said between a call and its result, in the message of the call."""
    text = f"{last.content}\n{more.content}" if last.content and more.content else last.content + more.content
    return replace(last, content=text, images=(*last.images, *more.images), thinking=more.thinking or last.thinking)


def _call(item: dict[str, Any]) -> ToolCall:
    arguments: dict[str, Any] = {}
    if text := item.get("arguments", ""):
        try:
            arguments = decode_text(text, TOOL_ARGUMENTS)
        except BodyError as error:
            raise RequestError(f"failed to parse function call arguments: {error.text}") from None
    return ToolCall(item.get("name", ""), arguments, item.get("call_id", ""))


def _content(parts: Iterable[dict[str, Any]]) -> tuple[str, tuple[bytes, ...]]:
    texts: list[str] = []
    images: list[bytes] = []
    for part in parts:
        if part["type"] == "input_file":
            raise RequestError("file inputs are not currently supported")
        if part["type"] == "input_image":
            if url := part.get("image_url", ""):
                images.append(data_image(url))
        else:
            texts.append(part.get("text", ""))
    return "".join(texts), tuple(images)


def _tools(sent: Iterable[dict[str, Any]], namespace: str) -> Iterable[Tool]:
    """The tools that a client runs; those of a namespace carry its name in front of theirs.

    A search by the server needs ollama.com, so no model is offered it.
    """
    for tool in sent:
        kind, name = tool.get("type", ""), tool.get("name", "")
        name = name if not namespace or name.startswith(f"{namespace}.") else f"{namespace}.{name}"
        if kind == "namespace":
            yield from _tools(tool.get("tools") or (), name)
        elif kind != "web_search":
            try:
                yield build_schema_tool(name, tool.get("description") or "", tool.get("parameters"), kind)
            except BodyError as error:
                raise RequestError(f"failed to unmarshal tool parameters: {error.text}") from None
