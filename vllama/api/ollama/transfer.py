"""POST /api/pull and POST /api/push: a line per step, or one status when not streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from vllama.api.envelopes import ollama_stream, send_error
from vllama.api.http import (
    END,
    JSON,
    NDJSON,
    DisconnectWatcher,
    Endpoint,
    Receive,
    Scope,
    Send,
    dumps,
    read_body,
    send_json,
    start_stream,
)
from vllama.api.read import read_pull, read_push
from vllama.core.pulling import pull
from vllama.errors import ModelNotFound, RequestCanceled, RequestError, VllamaError
from vllama.goquote import quote
from vllama.models.names import Name, parse_reference

if TYPE_CHECKING:
    from vllama.core.service import Service

Lines = AsyncGenerator[dict[str, Any], None]


def pull_endpoint(service: Service) -> Endpoint:
    """POST /api/pull. A client that goes away ends the pull, unless another one waits for the same blobs."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = read_pull(await read_body(scope, receive))
        name = _pulled(body.name)
        lines = pull(service, name, insecure=body.insecure, source=body.source)
        await _answer(lines, body.stream is not False, scope, receive, send)

    return endpoint


def push_endpoint(service: Service) -> Endpoint:
    """POST /api/push. What is wrong with a name is found while Ollama already streams: a 200 with an error in it."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = read_push(await read_body(scope, receive))
        await _answer(_pushed(service, body.name, body.insecure), body.stream is not False, scope, receive, send)

    return endpoint


def _pulled(text: str) -> Name:
    try:
        name = Name.parse(parse_reference(text).pull_name)
    except RequestError:
        name = Name.parse("")
    if not name.valid:
        raise RequestError("invalid model name")
    return name


async def _pushed(service: Service, text: str, insecure: bool) -> Lines:
    yield {"status": "retrieving manifest"}
    name = Name.parse(text)
    error: VllamaError
    found = await asyncio.to_thread(service.library.find, name)
    if found is not None and found.origin == "store":
        async with aclosing(service.transfers.push(found.name, insecure=insecure)) as lines:
            async for line in lines:
                yield line
        return
    yield {"status": "couldn't retrieve manifest"}
    if not name.valid:
        error = RequestError(f"unqualified name: {name.full}")
    elif found is not None:
        error = RequestError(f"model {quote(text)} is not in the model store: copy it to a name there, and push that")
    else:
        error = ModelNotFound(f"model {quote(text)} not found")
    raise error


async def _answer(lines: Lines, stream: bool, scope: Scope, receive: Receive, send: Send) -> None:
    started = False
    last: dict[str, Any] = {}
    async with DisconnectWatcher(scope, receive) as watcher, aclosing(lines):
        try:
            async for last in lines:
                if not stream:
                    continue
                if not started:
                    started = True
                    await start_stream(send, NDJSON)
                    watcher.patience()
                watcher.progress += 1
                await _line(send, last)
                watcher.progress += 1
        except RequestCanceled:
            raise
        except VllamaError as error:
            watcher.stop()
            if not started:
                await send_error(send, ollama_stream(error))
                return
            await _line(send, {"error": error.text})
        watcher.stop()
        if stream:
            await send(END)
        else:
            await send_json(send, 200, dumps(last), JSON)


async def _line(send: Send, line: dict[str, Any]) -> None:
    await send({"type": "http.response.body", "body": dumps(line) + b"\n", "more_body": True})
