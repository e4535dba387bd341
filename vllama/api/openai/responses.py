"""POST /v1/responses on top of the core's chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama.api.envelopes import openai_request, send_error
from vllama.api.events import answer
from vllama.api.http import DisconnectWatcher, Endpoint, Receive, Scope, Send, read_parts
from vllama.api.large import parsed
from vllama.api.ollama.chat import forbid_files
from vllama.api.openai.response_shape import ResponseShape
from vllama.api.read import FieldError
from vllama.api.read_responses import read_responses
from vllama.errors import RequestError

if TYPE_CHECKING:
    from vllama.core.service import Service


def responses_endpoint(service: Service) -> Endpoint:
    """POST /v1/responses."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_parts(scope, receive)
        try:
            request, extras = await parsed(service, read_responses, body)
        except FieldError:
            raise
        except RequestError as error:
            await send_error(send, openai_request(error))
            return
        forbid_files(scope, extras.model)
        async with DisconnectWatcher(scope, receive) as watcher:
            reply = await service.chat(request)
            await answer(reply, ResponseShape(extras), watcher, send, stream=extras.stream)

    return endpoint
