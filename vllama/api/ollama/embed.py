"""POST /api/embed and POST /api/embeddings: read, ask the core, answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllama.api.embeddings import embed_json, embeddings_json, written
from vllama.api.http import DisconnectWatcher, Endpoint, Receive, Scope, Send, read_parts, send_json
from vllama.api.large import parsed
from vllama.api.ollama.chat import forbid_files
from vllama.api.read import read_embed, read_embeddings
from vllama.core.replies import Embedded
from vllama.core.requests import EmbedRequest

if TYPE_CHECKING:
    from vllama.core.service import Service


def embed_endpoint(service: Service) -> Endpoint:
    """POST /api/embed."""
    return _endpoint(service, read_embed, embed_json)


def embeddings_endpoint(service: Service) -> Endpoint:
    """POST /api/embeddings."""
    return _endpoint(service, read_embeddings, embeddings_json)


def _endpoint(
    service: Service, read: Callable[[bytes], EmbedRequest], write: Callable[[Embedded, str], bytes]
) -> Endpoint:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        request = await parsed(service, read, await read_parts(scope, receive))
        forbid_files(scope, request.model)
        async with DisconnectWatcher(scope, receive) as watcher:
            payload = await written(write, await service.embed(request), request.model)
            watcher.stop()
        await send_json(send, 200, payload)

    return endpoint
