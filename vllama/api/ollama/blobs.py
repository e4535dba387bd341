"""HEAD and POST /api/blobs/{digest}: uploads of files that a create request then names."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama.api.http import Endpoint, Receive, Scope, Send, send_empty
from vllama.errors import NotFoundError, RequestCanceled
from vllama.goquote import quote
from vllama.models.blobs import BlobWriter, has_blob

if TYPE_CHECKING:
    from vllama.core.service import Service

_PIECE = 4 << 20
"""Bytes gathered before they are hashed and written in a thread."""


def head_blob_endpoint(service: Service) -> Endpoint:
    """Whether the blob is there: 200 or 404."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        digest: str = scope["path_params"]["digest"]
        if not await asyncio.to_thread(has_blob, service.library.store, digest):
            raise NotFoundError(f"blob {quote(digest)} not found")
        await send_empty(send, 200, length=False)

    return endpoint


def post_blob_endpoint(service: Service) -> Endpoint:
    """Upload: 201, or 200 at once when the blob is there already. Of any size; memory holds one piece."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        digest: str = scope["path_params"]["digest"]
        store = service.library.store
        if await asyncio.to_thread(has_blob, store, digest):
            await send_empty(send, 200)
            return
        writer = await asyncio.to_thread(BlobWriter, store)
        try:
            piece = bytearray()
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestCanceled()
                piece += message.get("body", b"")
                more = message.get("more_body", False)
                if len(piece) >= _PIECE or not more:
                    await asyncio.to_thread(writer.write, bytes(piece))
                    piece.clear()
            await asyncio.to_thread(writer.commit, digest)
        finally:
            writer.abort()
        await send_empty(send, 201)

    return endpoint
