"""Bodies of Ollama's own routes, read and checked as far as Ollama checks before it looks for the model.

All functions are pure and raise BodyError (or RequestError) with the text for the client. Bodies of more than a
megabyte should be read off the event loop.
"""

from __future__ import annotations

from typing import Any

from vllama.api.bodies import CopyBody, CreateBody, NameBody
from vllama.api.gojson import decode, raw_member
from vllama.api.gotypes import Struct
from vllama.api.schemas import native
from vllama.api.structured_outputs import with_structured_outputs
from vllama.api.tools import build_message, build_tool
from vllama.core.requests import FOREVER, ChatRequest, EmbedRequest, GenerateRequest, ShowRequest
from vllama.errors import ModelNotFound, RequestError
from vllama.goduration import FOREVER_NS
from vllama.models.names import Name, parse_reference
from vllama.prompts.messages import Think

MAX_TOP_LOGPROBS = 20


class FieldError(RequestError):
    """A field that decodes well and cannot be used. On /v1 Ollama finds it behind the translation of the body,
    and sends it in the form of an error of the work itself."""


def read_generate(body: bytes) -> GenerateRequest:
    """POST /api/generate. An empty model is no error here: Ollama answers 404 to it."""
    get = decode(body, native.GENERATE).get
    top_logprobs = check_top_logprobs(get("top_logprobs", 0))
    context = get("context")
    return GenerateRequest(
        model=get("model", ""),
        prompt=get("prompt", ""),
        suffix=get("suffix", ""),
        system=get("system", ""),
        template=get("template", ""),
        context=tuple(context) if context is not None else None,
        stream=get("stream"),
        raw=get("raw", False),
        format=with_structured_outputs(_format(get("format"), body), get("structured_outputs")),
        keep_alive=keep_alive_of(get("keep_alive")),
        images=tuple(image or b"" for image in get("images") or ()),
        options=get("options") or {},
        think=think_of(get("think")),
        truncate=get("truncate"),
        shift=get("shift"),
        debug_render_only=get("_debug_render_only", False),
        logprobs=get("logprobs", False),
        top_logprobs=top_logprobs,
    )


def read_chat(body: bytes) -> ChatRequest:
    """POST /api/chat."""
    get = decode(body, native.CHAT).get
    top_logprobs = check_top_logprobs(get("top_logprobs", 0))
    model = require_model(get("model", ""))
    tools = get("tools")
    return ChatRequest(
        model=model,
        messages=tuple([build_message(message) for message in get("messages") or ()]),
        tools=tuple(build_tool(tool) for tool in tools) if tools else (),
        stream=get("stream"),
        format=with_structured_outputs(_format(get("format"), body), get("structured_outputs")),
        keep_alive=keep_alive_of(get("keep_alive")),
        options=get("options") or {},
        think=think_of(get("think")),
        truncate=get("truncate"),
        shift=get("shift"),
        debug_render_only=get("_debug_render_only", False),
        logprobs=get("logprobs", False),
        top_logprobs=top_logprobs,
    )


def read_show(body: bytes) -> ShowRequest:
    """POST /api/show; `name` stands in for `model`."""
    get = decode(body, native.SHOW).get
    return ShowRequest(
        model=require_model(get("model") or get("name", "")),
        system=get("system", ""),
        template=get("template", ""),
        verbose=get("verbose", False),
        options=get("options") or {},
    )


def read_embed(body: bytes) -> EmbedRequest:
    """POST /api/embed. An empty model is no error here: Ollama answers 404 to it."""
    get = decode(body, native.EMBED).get
    model = get("model", "")
    return EmbedRequest(
        model=model,
        inputs=embed_inputs(get("input"), model),
        truncate=get("truncate"),
        dimensions=get("dimensions", 0),
        keep_alive=keep_alive_of(get("keep_alive")),
        options=get("options") or {},
    )


def read_embeddings(body: bytes) -> EmbedRequest:
    """POST /api/embeddings."""
    get = decode(body, native.EMBEDDINGS).get
    prompt = get("prompt", "")
    return EmbedRequest(
        model=require_model(get("model", "")),
        inputs=(prompt,) if prompt else (),
        keep_alive=keep_alive_of(get("keep_alive")),
        options=get("options") or {},
        legacy=True,
    )


def read_copy(body: bytes) -> CopyBody:
    """POST /api/copy."""
    get = decode(body, native.COPY).get
    return CopyBody(source=get("source", ""), destination=get("destination", ""))


def read_delete(body: bytes) -> NameBody:
    """DELETE /api/delete."""
    name = _read_name(body, native.DELETE)
    require_model(name.name)
    return name


def read_pull(body: bytes) -> NameBody:
    """POST /api/pull. An empty name is left to the parser of names, which calls it invalid."""
    return _read_name(body, native.PULL)


def read_push(body: bytes) -> NameBody:
    """POST /api/push."""
    name = _read_name(body, native.PUSH)
    require_model(name.name)
    return name


def read_create(body: bytes) -> CreateBody:
    """POST /api/create. An empty name is left to the parser of names, which calls it invalid."""
    get = decode(body, native.CREATE).get
    return CreateBody(
        name=get("model") or get("name", ""),
        stream=get("stream"),
        from_=get("from", ""),
        files=get("files"),
        adapters=get("adapters"),
        template=get("template", ""),
        system=get("system", ""),
        license=get("license"),
        parameters=get("parameters") or {},
        messages=tuple(build_message(message) for message in get("messages") or ()),
        draft_files=get("draft_files"),
        draft_quantize=get("draft_quantize", ""),
        quantize=get("quantize") or get("quantization", ""),
        renderer=get("renderer", ""),
        parser=get("parser", ""),
        requires=get("requires", ""),
        remote_host=get("remote_host", ""),
        info=get("info") or {},
    )


def _read_name(body: bytes, schema: Struct) -> NameBody:
    get = decode(body, schema).get
    return NameBody(
        name=get("model") or get("name", ""),
        stream=get("stream"),
        insecure=get("insecure", False),
        source=get("from", ""),
    )


def require_model(name: str) -> str:
    """`name` as it is, unless it is blank."""
    if not name.strip():
        raise FieldError("model is required")
    return name


def check_top_logprobs(count: int) -> int:
    """`count`, if it is one that Ollama allows."""
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise FieldError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return count


def embed_inputs(value: Any, model: str) -> tuple[str, ...]:
    """The texts of an `input`: one text, a list of them, or nothing. An empty text alone is nothing.

    What is wrong with the model's name is said before what is wrong with the input.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if not model.strip():
        raise ModelNotFound(f"model '{model}' not found")
    if not Name.parse(parse_reference(model).base).valid:
        raise FieldError("invalid model name")
    raise FieldError("invalid input type")


def keep_alive_of(ns: int | None) -> int | None:
    """The keep_alive of a request. A time that overflowed to a negative number was meant to be long: forever."""
    if ns is None:
        return None
    return FOREVER if ns < 0 or ns == FOREVER_NS else ns


def think_of(value: bool | str | None) -> Think | None:
    """The think setting of a request; a level implies thinking."""
    if value is None:
        return None
    return Think(True, value) if isinstance(value, str) else Think(value)


def _format(value: Any, body: bytes) -> Any:
    # What Ollama cannot use stays a text, as it stands in the body: the error that comes later quotes it.
    if value is None or value == "":
        return None
    if value == "json" or isinstance(value, dict):
        return value
    return raw_member(body, "format")
