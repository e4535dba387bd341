"""Bodies of /v1/messages, turned into chat requests as Ollama turns them.

Pure functions; errors are BodyError and RequestError with the text for the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllama.api.gobase64 import decode_base64
from vllama.api.godecoder import DecodeError
from vllama.api.gojson import decode
from vllama.api.http import dumps
from vllama.api.schemas import anthropic
from vllama.api.tools import build_schema_tool
from vllama.core.requests import ChatRequest
from vllama.errors import BodyError, RequestError
from vllama.goquote import quote
from vllama.prompts.messages import Message, Think, Tool, ToolCall

EMPTY = "EOF"
_EFFORTS = frozenset({"low", "medium", "high", "max"})
_SEARCH_ERROR = "web_search_tool_result_error"


@dataclass(frozen=True, slots=True)
class MessagesExtras:
    """What the route needs to shape its answer."""

    model: str
    stream: bool = False


def read_messages(body: bytes) -> tuple[ChatRequest, MessagesExtras]:
    """POST /v1/messages."""
    get = decode(body, anthropic.MESSAGES, empty=EMPTY).get
    model = get("model", "")
    if not model:
        raise RequestError("model is required")
    max_tokens = get("max_tokens", 0)
    if max_tokens <= 0:
        raise RequestError("max_tokens is required and must be positive")
    options: dict[str, Any] = {"num_predict": max_tokens}
    for name in ("temperature", "top_p", "top_k"):
        if get(name) is not None:
            options[name] = get(name)
    if get("stop_sequences"):
        options["stop"] = get("stop_sequences")
    stream = get("stream", False)
    request = ChatRequest(
        model=model,
        messages=_messages(get),
        tools=_tools(get("tools") or ()),
        stream=stream,
        options=options,
        think=_think(get("thinking"), get("output_config")),
    )
    return request, MessagesExtras(model, stream)


def read_count_tokens(body: bytes) -> ChatRequest:
    """POST /v1/messages/count_tokens: the same without what only matters for the answer."""
    get = decode(body, anthropic.COUNT_TOKENS, empty=EMPTY).get
    model = get("model", "")
    if not model:
        raise RequestError("model is required")
    return ChatRequest(
        model=model, messages=_messages(get), tools=_tools(get("tools") or ()), think=_think(get("thinking"), None)
    )


def _messages(get: Any) -> tuple[Message, ...]:
    sent = get("messages")
    if not sent:
        raise RequestError("messages is required")
    system = _system(get("system"))
    messages = [Message("system", system)] if system else []
    for message in sent:
        messages.extend(_message(message.get("role", "").lower(), message["content"]))
    return tuple(messages)


def _system(value: Any) -> str:
    """A text, or the texts of a list of blocks; Ollama ignores everything else."""
    if isinstance(value, str):
        return value
    return _texts(value) if isinstance(value, list) else ""


def _texts(blocks: Iterable[Any]) -> str:
    texts = (block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def _message(role: str, blocks: Iterable[dict[str, Any]]) -> list[Message]:
    """A message of text, images, thoughts and calls, and one message for each result of a tool."""
    texts: list[str] = []
    images: list[bytes] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    thinking = ""
    for block in blocks:
        match block.get("type", ""):
            case "text":
                texts.append(block.get("text") or "")
            case "image":
                images.append(_image(block.get("source")))
            case "tool_use":
                for field in ("id", "name"):
                    if not block.get(field):
                        raise RequestError(f"tool_use block missing required '{field}' field")
                calls.append(_call(block))
            case "server_tool_use":
                calls.append(_call(block))
            case "tool_result":
                content, pictures = _result(block.get("content"))
                results.append(Message("tool", content, images=pictures, tool_call_id=block.get("tool_use_id", "")))
            case "web_search_tool_result":
                content = _search_result(block.get("content"))
                results.append(Message("tool", content, tool_call_id=block.get("tool_use_id", "")))
            case "thinking":
                thinking = block.get("thinking") or thinking
            case _:
                pass  # kinds that no local model can take: documents, redacted thoughts
    text = "".join(texts)
    said = [Message(role, text, thinking, tuple(images), tuple(calls))] if text or images or calls or thinking else []
    # What a user says beside the results of tools comes after them.
    return [*results, *said] if role == "user" else [*said, *results]


def _call(block: dict[str, Any]) -> ToolCall:
    return ToolCall(block.get("name", ""), block.get("input") or {}, block.get("id", ""))


def _image(source: dict[str, Any] | None) -> bytes:
    if source is None:
        raise RequestError("invalid image source")
    kind = source.get("type", "")
    if kind != "base64":
        raise RequestError(f"invalid image source type: {kind}. Only base64 images are supported.")
    try:
        return decode_base64(source.get("data", ""))
    except DecodeError as error:
        raise RequestError(f"invalid base64 image data: {error.text}") from None


def _result(content: Any) -> tuple[str, tuple[bytes, ...]]:
    """The text and the images of a tool's result."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        return "", ()
    images: list[bytes] = []
    for block in content:
        if isinstance(block, dict) and block.get("type") == "image":
            source = block.get("source")
            if not isinstance(source, dict):
                raise RequestError("invalid tool_result image source")
            images.append(_image({key: value for key, value in source.items() if isinstance(value, str)}))
    return _texts(content), tuple(images)


def _search_result(content: Any) -> str:
    """The results of a search in another server's answer, as lines of title and address."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _search_error(content) if content.get("type") == _SEARCH_ERROR else dumps(content).decode()
    if not isinstance(content, list):
        return dumps(content).decode()
    lines: list[str] = []
    for item in content:
        if not isinstance(item, dict):
            continue
        if item.get("type") == _SEARCH_ERROR:
            return _search_error(item)
        if item.get("type") == "web_search_result":
            title, url = (value if isinstance(value := item.get(key), str) else "" for key in ("title", "url"))
            lines.append(f"- {title}: {url}\n")
    return "".join(lines)


def _search_error(item: dict[str, Any]) -> str:
    code = item.get("error_code")
    return f"{_SEARCH_ERROR}: {code}" if code and isinstance(code, str) else _SEARCH_ERROR


def _tools(sent: Iterable[dict[str, Any]]) -> tuple[Tool, ...]:
    """The tools that a client runs. A search by the server needs ollama.com, so no model is offered it."""
    tools: list[Tool] = []
    for tool in sent:
        if tool.get("type", "").startswith("web_search"):
            continue
        name = tool.get("name", "")
        try:
            tools.append(build_schema_tool(name, tool.get("description", ""), tool.get("input_schema")))
        except BodyError as error:
            raise RequestError(f"invalid input_schema for tool {quote(name)}: {error.text}") from None
    return tuple(tools)


def _think(thinking: dict[str, Any] | None, output: dict[str, Any] | None) -> Think | None:
    kind = thinking.get("type", "") if thinking else ""
    if kind in ("enabled", "disabled"):
        return Think(kind == "enabled")
    effort = output.get("effort", "").strip().lower() if output else ""
    effort = "high" if effort == "xhigh" else effort
    return Think(True, effort) if effort in _EFFORTS else None
