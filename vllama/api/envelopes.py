"""How an error looks on the wire: one function for each API, from the one error tree."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from vllama.api.http import JSON, JSON_UTF8, BodyTooLargeError, Header, Send, dumps, send_json
from vllama.api.routing import Api
from vllama.errors import ServerError, VllamaError

INTERNAL = ServerError("internal error, see the server's log")
"""What a client gets to see of an exception that nobody expected."""

_CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error, ready to send."""

    status: int
    payload: bytes
    content_type: bytes
    headers: tuple[Header, ...] = ()


def ollama(error: VllamaError) -> ErrorReply:
    """`{"error": text}`, as all of /api."""
    return ErrorReply(error.status, dumps({"error": error.text}), JSON_UTF8, _headers(error))


def ollama_stream(error: VllamaError) -> ErrorReply:
    """The same for an error that ends a stream before its first line: the type lacks its charset there."""
    return ErrorReply(error.status, dumps({"error": error.text}), JSON, _headers(error))


def openai(error: VllamaError) -> ErrorReply:
    """OpenAI's envelope for an error of the work itself: with a newline and without a charset."""
    return ErrorReply(error.status, dumps(openai_object(error)) + b"\n", JSON, _headers(error))


def openai_request(error: VllamaError) -> ErrorReply:
    """OpenAI's envelope for an error found while the body was read: no newline, but a charset."""
    return ErrorReply(error.status, dumps(openai_object(error)), JSON_UTF8, _headers(error))


def openai_object(error: VllamaError) -> dict[str, object]:
    """The JSON of OpenAI's envelope, also the `data:` of an error in the middle of a stream."""
    if error.status in (400, 413):
        kind = "invalid_request_error"
    elif error.status == 404:
        kind = "not_found_error"
    else:
        kind = "api_error"
    return {"error": {"message": error.text, "type": kind, "param": None, "code": None}}


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def anthropic(error: VllamaError) -> ErrorReply:
    """Anthropic's envelope, with a request id, for an error of the work itself: with a newline, without a charset."""
    return ErrorReply(error.status, dumps(anthropic_object(error)) + b"\n", JSON, _headers(error))


def anthropic_request(error: VllamaError) -> ErrorReply:
    """Anthropic's envelope for an error found while the body was read: no newline, but a charset."""
    return ErrorReply(error.status, dumps(anthropic_object(error)), JSON_UTF8, _headers(error))


def anthropic_object(error: VllamaError) -> dict[str, object]:
    """The JSON of Anthropic's envelope, also the `data:` of an error in the middle of a stream."""
    return {
        "type": "error",
        "error": {"type": _ANTHROPIC_KINDS.get(error.status, "api_error"), "message": error.text},
        "request_id": "req_" + secrets.token_hex(12),
    }


BY_API: dict[Api, Callable[[VllamaError], ErrorReply]] = {
    "ollama": ollama,
    "ops": ollama,
    "openai": openai,
    "anthropic": anthropic,
}


async def send_error(send: Send, reply: ErrorReply) -> None:
    """Send an error as the whole answer."""
    await send_json(send, reply.status, reply.payload, reply.content_type, extra=reply.headers)


def _headers(error: VllamaError) -> tuple[Header, ...]:
    return _CLOSE if isinstance(error, BodyTooLargeError) else ()
