"""DELETE /api/delete: take a model out of the store."""

from __future__ import annotations

import asyncio

from vllama.api.http import Endpoint, Receive, Scope, Send, read_body, send_empty
from vllama.api.read import read_delete
from vllama.core.service import Service
from vllama.errors import ModelNotFound, RequestError
from vllama.goquote import quote
from vllama.models.names import Name, parse_reference


def delete_endpoint(service: Service) -> Endpoint:
    """DELETE /api/delete. A loaded copy stays loaded until its time is over, as with Ollama."""
    library = service.library

    def delete(body: bytes) -> None:
        given = read_delete(body).name
        name = Name.parse(parse_reference(given).pull_name)
        if not name.valid:
            raise RequestError(f"name {quote(given)} is invalid")
        if library.store.delete(name):
            return
        if library.overlay.find(name):
            raise RequestError(
                f"model '{given}' is carried by an installed Python package and is not in the store; "
                "uninstall the package, or set VLLAMA_PACKAGED_MODELS=0"
            )
        raise ModelNotFound(f"model '{given}' not found")

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive)
        await asyncio.to_thread(delete, body)
        await send_empty(send, 200)

    return endpoint
