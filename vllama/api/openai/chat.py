"""POST /v1/chat/completions and /v1/completions on top of the core's chat and generate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from vllama.api.bodies import OpenAIExtras
from vllama.api.envelopes import openai_request, send_error
from vllama.api.http import DisconnectWatcher, Endpoint, Receive, Scope, Send, read_parts
from vllama.api.large import parsed
from vllama.api.ollama.chat import forbid_files
from vllama.api.openai.streaming import ChatShape, CompletionShape, Shape, answer
from vllama.api.read import FieldError
from vllama.api.read_openai import read_openai_chat, read_openai_completion
from vllama.core.replies import Reply
from vllama.errors import RequestError

if TYPE_CHECKING:
    from vllama.core.service import Service

R = TypeVar("R")


def chat_completions_endpoint(service: Service) -> Endpoint:
    """POST /v1/chat/completions."""
    return _endpoint(service, read_openai_chat, service.chat, ChatShape)


def completions_endpoint(service: Service) -> Endpoint:
    """POST /v1/completions."""
    return _endpoint(service, read_openai_completion, service.generate, CompletionShape)


def _endpoint(
    service: Service,
    read: Callable[[bytes], tuple[R, OpenAIExtras]],
    run: Callable[[R], Awaitable[Reply]],
    shape: Callable[[OpenAIExtras], Shape],
) -> Endpoint:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_parts(scope, receive)
        try:
            request, extras = await parsed(service, read, body)
        except FieldError:
            raise
        except RequestError as error:
            await send_error(send, openai_request(error))
            return
        forbid_files(scope, extras.model)
        # Loading a model and waiting for a free sequence may take long: a client that goes away meanwhile
        # must not leave its request behind.
        async with DisconnectWatcher(scope, receive) as watcher:
            reply = await run(request)
            await answer(reply, shape(extras), watcher, send, stream=extras.stream)

    return endpoint
