"""Bodies of the /v1 routes, turned into the requests of Ollama's own routes as Ollama turns them.

Pure functions; errors are BodyError and RequestError with the text for the client.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vllama.api.bodies import OpenAIExtras
from vllama.api.gobase64 import decode_base64
from vllama.api.godecoder import DecodeError
from vllama.api.gojson import decode, decode_text
from vllama.api.goscalars import ANY
from vllama.api.ollamatypes import OrderedMap
from vllama.api.read import check_top_logprobs, embed_inputs, require_model
from vllama.api.schemas import openai
from vllama.api.structured_outputs import with_structured_outputs
from vllama.api.tools import build_tool
from vllama.core.requests import ChatRequest, EmbedRequest, GenerateRequest
from vllama.errors import BodyError, RequestError
from vllama.prompts.messages import Message, Think, ToolCall

EMPTY = "EOF"
_IMAGE_PREFIXES = ("data:;base64,", *(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")))
_EFFORTS = {
    "none": Think(False),
    "minimal": Think(True, "low"),
    "low": Think(True, "low"),
    "medium": Think(True, "medium"),
    "high": Think(True, "high"),
    "xhigh": Think(True, "max"),
    "ultra": Think(True, "max"),
    "max": Think(True, "max"),
}


def read_openai_chat(body: bytes) -> tuple[ChatRequest, OpenAIExtras]:
    """POST /v1/chat/completions."""
    get = decode(body, openai.CHAT, empty=EMPTY).get
    sent = get("messages")
    if not sent:
        raise RequestError("[] is too short - 'messages'")
    messages: list[Message] = []
    for message in sent:
        _add_message(messages, message, sent)
    options = _sampling_options(get)
    # Ollama drops what is not a text in a list of stops here, and refuses it on /v1/completions.
    stop = get("stop")
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        options["stop"] = [item for item in stop if isinstance(item, str)]
    max_tokens = get("max_tokens")
    if max_tokens is None:
        newer = get("max_completion_tokens")
        max_tokens = newer if type(newer) is int else None
    if max_tokens is not None:
        options["num_predict"] = max_tokens
    reasoning = get("reasoning")
    think = think_of_effort(get("reasoning_effort") if reasoning is None else reasoning.get("effort", ""))
    top_logprobs = check_top_logprobs(get("top_logprobs", 0))
    extras = _extras(get)
    request = ChatRequest(
        model=require_model(extras.model),
        messages=tuple(messages),
        tools=tuple(build_tool(tool) for tool in get("tools") or ()),
        stream=extras.stream,
        format=with_structured_outputs(_response_format(get("response_format")), get("structured_outputs")),
        options=options,
        think=think,
        debug_render_only=get("_debug_render_only", False),
        logprobs=get("logprobs") or False,
        top_logprobs=top_logprobs,
    )
    return request, extras


def read_openai_completion(body: bytes) -> tuple[GenerateRequest, OpenAIExtras]:
    """POST /v1/completions. An empty model is no error here: Ollama answers 404 to it."""
    get = decode(body, openai.COMPLETION, empty=EMPTY).get
    options = _sampling_options(get)
    options["top_p"] = get("top_p") or 1.0
    options.setdefault("frequency_penalty", 0.0)
    options.setdefault("presence_penalty", 0.0)
    stop = get("stop")
    if isinstance(stop, str):
        options["stop"] = [stop]
    elif isinstance(stop, list):
        for item in stop:
            if not isinstance(item, str):
                raise RequestError(f"invalid type for 'stop' field: {go_type(item)}")
        options["stop"] = stop
    if get("max_tokens") is not None:
        options["num_predict"] = get("max_tokens")
    logprobs = max(get("logprobs") or 0, 0)
    check_top_logprobs(logprobs)
    extras = _extras(get)
    request = GenerateRequest(
        model=extras.model,
        prompt=get("prompt", ""),
        suffix=get("suffix", ""),
        stream=extras.stream,
        format=with_structured_outputs(None, get("structured_outputs")),
        options=options,
        logprobs=logprobs > 0,
        top_logprobs=logprobs,
        debug_render_only=get("_debug_render_only", False),
    )
    return request, extras


def read_openai_embed(body: bytes) -> tuple[EmbedRequest, OpenAIExtras]:
    """POST /v1/embeddings. An empty text is embedded here, unlike on /api/embed."""
    get = decode(body, openai.EMBED, empty=EMPTY).get
    encoding = get("encoding_format", "")
    if encoding and encoding.lower() not in ("float", "base64"):
        raise RequestError(f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64'].")
    value = get("input")
    if value is None or value == []:
        raise RequestError("invalid input")
    model = get("model", "")
    inputs = ("",) if value == "" else embed_inputs(value, model)
    request = EmbedRequest(model=model, inputs=inputs, dimensions=get("dimensions", 0))
    return request, OpenAIExtras(model=model, base64=encoding.lower() == "base64")


def go_type(value: Any) -> str:
    """What Go's %T prints for a decoded JSON value."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return "map[string]interface {}"
    return "[]interface {}" if isinstance(value, list) else "float64"


def _extras(get: Any) -> OpenAIExtras:
    stream_options = get("stream_options") or {}
    return OpenAIExtras(
        model=get("model", ""),
        stream=get("stream", False),
        include_usage=stream_options.get("include_usage", False),
    )


def _sampling_options(get: Any) -> dict[str, Any]:
    # Absent temperature and top_p are 1.0 on /v1, whatever the model's own parameters say.
    temperature, top_p = get("temperature"), get("top_p")
    options: dict[str, Any] = {
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
    }
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        value = get(name)
        if value is not None:
            options[name] = value
    return options


def think_of_effort(wanted: str | None) -> Think | None:
    """The think setting of a reasoning effort."""
    if not wanted:
        return None
    if wanted not in _EFFORTS:
        raise RequestError(
            f'invalid reasoning value: "{wanted}" (must be "minimal", "low", "medium", "high", '
            '"xhigh", "ultra", "max", or "none")'
        )
    return _EFFORTS[wanted]


def _response_format(wanted: dict[str, Any] | None) -> Any:
    if wanted is None:
        return None
    kind = wanted.get("type", "").strip().lower()
    if kind == "json_object":
        return "json"
    if kind != "json_schema":
        return None
    return schema_format((wanted.get("json_schema") or {}).get("schema"))


def schema_format(schema: Any) -> Any:
    """The `format` of a schema that a request carries."""
    if schema is None or schema == "":
        return None
    if schema == "json" or isinstance(schema, dict):
        return schema
    # The error that comes later quotes it.
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _add_message(messages: list[Message], sent: dict[str, Any], all_sent: Sequence[dict[str, Any]]) -> None:
    """One message of the request; every part of a content list becomes a message of its own."""
    role = sent.get("role", "").lower()
    content = sent.get("content")
    call_id = sent.get("tool_call_id", "")
    calls = sent.get("tool_calls")
    thinking = sent.get("reasoning", "")
    if isinstance(content, str):
        name = _tool_name(role, sent, all_sent)
        messages.append(Message(role, content, thinking, (), _tool_calls(calls), name, call_id))
    elif isinstance(content, list):
        messages.extend([_part(role, part) for part in content])
        if calls and messages:
            last = messages[-1]
            name = _tool_name(role, sent, all_sent)
            messages[-1] = Message(last.role, last.content, thinking, last.images, _tool_calls(calls), name, call_id)
    elif calls is None:
        raise RequestError(f"invalid message content type: {go_type(content)}")
    else:
        messages.append(Message(role, "", thinking, (), _tool_calls(calls), "", call_id))


def _part(role: str, part: Any) -> Message:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Message(role, part["text"])
    if kind == "image_url":
        url = part.get("image_url")
        if isinstance(url, dict):
            url = url.get("url")
        if isinstance(url, str):
            return Message(role, images=(data_image(url),))
    if kind == "input_audio":
        return Message(role, images=(_audio(part.get("input_audio")),))
    raise RequestError("invalid message format")


def data_image(url: str) -> bytes:
    """The image in a data: URL."""
    if url.startswith(("http://", "https://")):
        raise RequestError("image URLs are not currently supported, please use base64 encoded data instead")
    for prefix in _IMAGE_PREFIXES:
        if url.startswith(prefix):
            try:
                return decode_base64(url.removeprefix(prefix))
            except DecodeError:
                break
    raise RequestError("invalid image input")


def _audio(audio: Any) -> bytes:
    if not isinstance(audio, dict):
        raise RequestError("invalid input_audio format")
    data = audio.get("data")
    if not isinstance(data, str):
        raise RequestError("invalid input_audio format: missing data")
    try:
        return decode_base64(data)
    except DecodeError as error:
        raise RequestError(f"invalid input_audio base64 data: {error.text}") from None


def _tool_name(role: str, sent: dict[str, Any], all_sent: Sequence[dict[str, Any]]) -> str:
    """The name of the tool that a tool message answers for: its own, or that of the latest call with its id."""
    if role != "tool":
        return ""
    name: str = sent.get("name", "")
    call_id = sent.get("tool_call_id", "")
    if name or not call_id:
        return name
    for message in reversed(all_sent):
        for call in message.get("tool_calls") or ():
            if call.get("id", "") == call_id:
                found: str = call.get("function", {}).get("name", "")
                return found
    return ""


_ARGUMENTS = OrderedMap(ANY)


def _tool_calls(calls: Sequence[dict[str, Any]] | None) -> tuple[ToolCall, ...]:
    return tuple(_tool_call(call) for call in calls or ())


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function", {})
    try:
        arguments = decode_text(function.get("arguments", ""), _ARGUMENTS)
    except BodyError:
        raise RequestError("invalid tool call arguments") from None
    return ToolCall(function.get("name", ""), arguments, call.get("id", ""))
