"""POST /api/chat and POST /api/generate: read, ask the core, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from vllama.api import envelopes
from vllama.api.http import Endpoint, Receive, Scope, Send, read_body
from vllama.api.read import read_chat, read_generate
from vllama.api.streaming import ChatShape, GenerateShape, answer
from vllama.core.service import Service
from vllama.errors import VllamaError

LARGE = 1 << 20
"""Bodies of more bytes than this are parsed in a thread, so that one of them never stops all streams."""

T = TypeVar("T")


async def parsed(read: Callable[[bytes], T], body: bytes) -> T:
    """`read(body)`, off the event loop when the body is large."""
    if len(body) > LARGE:
        return await asyncio.to_thread(read, body)
    return read(body)


def chat_endpoint(service: Service) -> Endpoint:
    """POST /api/chat."""
    shape = ChatShape()

    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        request = await parsed(read_chat, await read_body(scope, receive))
        stream = request.stream is not False
        try:
            reply = await service.chat(request)
        except VllamaError as error:
            if not (stream and error.from_engine):
                raise
            await envelopes.send_error(send, envelopes.ollama_stream(error))
            return
        await answer(reply, request.model, shape, receive, send, stream=stream)

    return chat


def generate_endpoint(service: Service) -> Endpoint:
    """POST /api/generate."""
    shape = GenerateShape()

    async def generate(scope: Scope, receive: Receive, send: Send) -> None:
        request = await parsed(read_generate, await read_body(scope, receive))
        stream = request.stream is not False
        try:
            reply = await service.generate(request)
        except VllamaError as error:
            if not (stream and error.from_engine):
                raise
            await envelopes.send_error(send, envelopes.ollama_stream(error))
            return
        await answer(reply, request.model, shape, receive, send, stream=stream)

    return generate
