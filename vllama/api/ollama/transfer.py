"""POST /api/pull and POST /api/push: names are checked as Ollama checks them; the transfer itself is not here yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama.api.http import END, JSON, NDJSON, Endpoint, Receive, Scope, Send, dumps, read_body, send_json, start_stream
from vllama.api.read import read_pull, read_push
from vllama.errors import ModelNotFound, NotImplementedYet, RequestError, VllamaError
from vllama.goquote import quote
from vllama.models.names import Name, parse_reference

if TYPE_CHECKING:
    from vllama.core.service import Service


async def pull_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    """POST /api/pull."""
    body = read_pull(await read_body(scope, receive))
    try:
        valid = Name.parse(parse_reference(body.name).pull_name).valid
    except RequestError:
        valid = False
    if not valid:
        raise RequestError("invalid model name")
    raise NotImplementedYet("POST /api/pull is not implemented yet")


def push_endpoint(service: Service) -> Endpoint:
    """POST /api/push. What is wrong with a name is found while Ollama already streams: a 200 with an error in it."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = read_push(await read_body(scope, receive))
        name = Name.parse(body.name)
        error: VllamaError
        if not name.valid:
            error = RequestError(f"unqualified name: {name.full}")
        elif await asyncio.to_thread(service.library.find, name) is None:
            error = ModelNotFound(f"model {quote(body.name)} not found")
        else:
            raise NotImplementedYet("POST /api/push is not implemented yet")
        if body.stream is False:
            await send_json(send, error.status, dumps({"error": error.text}), JSON)
            return
        await start_stream(send, NDJSON)
        for status in ("retrieving manifest", "couldn't retrieve manifest"):
            await _line(send, {"status": status})
        await _line(send, {"error": error.text})
        await send(END)

    return endpoint


async def _line(send: Send, line: dict[str, str]) -> None:
    await send({"type": "http.response.body", "body": dumps(line) + b"\n", "more_body": True})
