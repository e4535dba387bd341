"""POST /api/create: a new model from another one or from uploaded files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vllama.api.bodies import CreateBody
from vllama.api.envelopes import ollama, ollama_stream, send_error
from vllama.api.http import (
    END,
    JSON,
    NDJSON,
    Endpoint,
    Receive,
    Scope,
    Send,
    dumps,
    read_parts,
    send_json,
    start_stream,
)
from vllama.api.large import parsed
from vllama.api.read import read_create
from vllama.core.creating import create_model
from vllama.errors import VllamaError
from vllama.models.create import CreateRequest, Status
from vllama.models.names import Name

if TYPE_CHECKING:
    from vllama.core.service import Service

log = logging.getLogger("vllama.api")

_FOUND_BEFORE_THE_WORK = ("file path must be relative", "--draft-quantize requires a DRAFT model")


def create_endpoint(service: Service) -> Endpoint:
    """POST /api/create: a line per step, or one status when not streamed.

    The work goes on when the client goes away: half a model would help nobody.
    """

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await parsed(service, read_create, await read_parts(scope, receive))
        steps = create_model(_request(body), service.library, service.settings, _puller(service))
        stream = body.stream is not False
        started = False
        last: Status = {}
        try:
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                last = step
                if not stream:
                    continue
                if not started:
                    started = True
                    await start_stream(send, NDJSON)
                await _line(send, step)
        except VllamaError as error:
            if not started:
                early = not Name.parse(body.name).valid or error.text in _FOUND_BEFORE_THE_WORK
                await send_error(send, ollama(error) if early else ollama_stream(error))
                return
            await _line(send, {"error": error.text})
        except Exception:
            if not started:
                raise
            log.exception("create failed")
            await _line(send, {"error": "internal error, see the server's log"})
        if stream:
            await send(END)
        else:
            await send_json(send, 200, dumps(last), JSON)

    return endpoint


async def _line(send: Send, status: Status) -> None:
    await send({"type": "http.response.body", "body": dumps(status) + b"\n", "more_body": True})


def _puller(service: Service) -> Callable[[Name], Iterator[Status]]:
    """Called in the thread that creates, and only for a base that is not there."""
    return lambda name: service.transfers.pull_blocking(name)


def _request(body: CreateBody) -> CreateRequest:
    return CreateRequest(
        name=body.name,
        from_=body.from_,
        files=body.files,
        adapters=body.adapters,
        draft_files=body.draft_files,
        template=body.template,
        system=body.system,
        license=body.license,
        parameters=body.parameters,
        messages=tuple((message.role, message.content) for message in body.messages),
        quantize=body.quantize,
        draft_quantize=body.draft_quantize,
        renderer=body.renderer,
        parser=body.parser,
        requires=body.requires,
        info=body.info,
    )
