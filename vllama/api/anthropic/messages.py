"""POST /v1/messages and /v1/messages/count_tokens on top of the core's chat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllama.api.anthropic.shape import MessageShape
from vllama.api.envelopes import anthropic_request, send_error
from vllama.api.events import answer
from vllama.api.http import JSON, DisconnectWatcher, Endpoint, Receive, Scope, Send, dumps, read_parts, send_json
from vllama.api.large import parsed
from vllama.api.ollama.chat import forbid_files
from vllama.api.read_anthropic import read_count_tokens, read_messages
from vllama.core.requests import ChatRequest
from vllama.errors import RequestError

if TYPE_CHECKING:
    from vllama.core.service import Service


def messages_endpoint(service: Service) -> Endpoint:
    """POST /v1/messages."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_parts(scope, receive)
        try:
            request, extras = await parsed(service, read_messages, body)
        except RequestError as error:
            await send_error(send, anthropic_request(error))
            return
        forbid_files(scope, extras.model)
        async with DisconnectWatcher(scope, receive) as watcher:
            reply = await service.chat(_relaxed(service, request))
            await answer(reply, MessageShape(extras.model), watcher, send, stream=extras.stream)

    return endpoint


def count_tokens_endpoint(service: Service) -> Endpoint:
    """POST /v1/messages/count_tokens: exact, by the model's own template and tokenizer."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_parts(scope, receive)
        try:
            request = await parsed(service, read_count_tokens, body)
        except RequestError as error:
            await send_error(send, anthropic_request(error))
            return
        forbid_files(scope, request.model)
        async with DisconnectWatcher(scope, receive) as watcher:
            count = await service.count_tokens(_relaxed(service, request))
            watcher.stop()
        await send_json(send, 200, dumps({"input_tokens": count}) + b"\n", JSON)

    return endpoint


def _relaxed(service: Service, request: ChatRequest) -> ChatRequest:
    """Without thinking where the model has none: Anthropic's clients ask for it whatever the model is."""
    if request.think is None or not request.think.enabled:
        return request
    if "thinking" in service.resolve(request.model).capabilities:
        return request
    return replace(request, think=None)
