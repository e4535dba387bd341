"""POST /api/copy and DELETE /api/delete: names come and go, weights are shared."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama.api.http import Endpoint, Receive, Scope, Send, read_body, send_empty
from vllama.api.read import read_copy, read_delete
from vllama.models.manage import copy, delete
from vllama.models.names import Name

if TYPE_CHECKING:
    from vllama.core.service import Service


def copy_endpoint(service: Service) -> Endpoint:
    """POST /api/copy: 200 without a body."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        body = read_copy(await read_body(scope, receive))
        await asyncio.to_thread(copy, service.library, body.source, body.destination)
        await send_empty(send, 200)

    return endpoint


def delete_endpoint(service: Service) -> Endpoint:
    """DELETE /api/delete: 200 without a body. A loaded copy goes when its last request ends: nobody can name it."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        name = read_delete(await read_body(scope, receive)).name
        await asyncio.to_thread(delete, service.library, name)
        if service.library.find(Name.parse(name)) is None:
            service.residency.retire(Name.parse(name))
        await send_empty(send, 200)

    return endpoint
