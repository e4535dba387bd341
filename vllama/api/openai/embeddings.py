"""POST /v1/embeddings on top of the core's embed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama.api.embeddings import openai_json, written
from vllama.api.envelopes import openai_request, send_error
from vllama.api.http import JSON, DisconnectWatcher, Endpoint, Receive, Scope, Send, read_parts, send_json
from vllama.api.large import parsed
from vllama.api.ollama.chat import forbid_files
from vllama.api.read import FieldError
from vllama.api.read_openai import read_openai_embed
from vllama.errors import RequestError

if TYPE_CHECKING:
    from vllama.core.service import Service


def v1_embeddings_endpoint(service: Service) -> Endpoint:
    """POST /v1/embeddings."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_parts(scope, receive)
        try:
            request, extras = await parsed(service, read_openai_embed, body)
        except FieldError:
            raise
        except RequestError as error:
            await send_error(send, openai_request(error))
            return
        forbid_files(scope, request.model)
        async with DisconnectWatcher(scope, receive) as watcher:
            result = await service.embed(request)
            payload = await written(openai_json, result, (extras.model, extras.base64))
            watcher.stop()
        await send_json(send, 200, payload, JSON)

    return endpoint
