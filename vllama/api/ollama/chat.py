"""POST /api/chat and POST /api/generate: read, ask the core, answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from vllama.api import envelopes
from vllama.api.http import DisconnectWatcher, Endpoint, Receive, Scope, Send, header, read_parts
from vllama.api.large import parsed
from vllama.api.read import read_chat, read_generate
from vllama.api.streaming import ChatShape, GenerateShape, answer
from vllama.core.replies import Reply
from vllama.core.requests import ChatRequest, GenerateRequest
from vllama.errors import ForbiddenError, VllamaError
from vllama.models.library import looks_like_path

if TYPE_CHECKING:
    from vllama.core.service import Service

R = TypeVar("R", ChatRequest, GenerateRequest)


def forbid_files(scope: Scope, model: str) -> None:
    """A file's path is no name of a model for web pages: the errors would tell them which files exist.

    Browsers put Origin on every request whose answer a page could read.
    """
    if looks_like_path(model) and header(scope, b"origin") is not None:
        raise ForbiddenError("a model cannot be named by its file from a web page")


def chat_endpoint(service: Service) -> Endpoint:
    """POST /api/chat."""
    return _endpoint(service, read_chat, service.chat, ChatShape())


def generate_endpoint(service: Service) -> Endpoint:
    """POST /api/generate."""
    return _endpoint(service, read_generate, service.generate, GenerateShape())


def _endpoint(
    service: Service,
    read: Callable[[bytes], R],
    run: Callable[[R], Awaitable[Reply]],
    shape: ChatShape | GenerateShape,
) -> Endpoint:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        request = await parsed(service, read, await read_parts(scope, receive))
        forbid_files(scope, request.model)
        stream = request.stream is not False
        # Loading a model and waiting for a free sequence may take long: a client that goes away meanwhile
        # must not leave its request behind.
        async with DisconnectWatcher(scope, receive) as watcher:
            try:
                reply = await run(request)
            except VllamaError as error:
                if not (stream and error.from_engine):
                    raise
                watcher.stop()
                await envelopes.send_error(send, envelopes.ollama_stream(error))
                return
            await answer(reply, request.model, shape, watcher, send, stream=stream)

    return endpoint
