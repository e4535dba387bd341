"""GET /api/tags: the models that can be used, newest first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, send_json
from vllama.models.show import tags_entry

if TYPE_CHECKING:
    from vllama.core.service import Service


def tags_endpoint(service: Service) -> Endpoint:
    """GET and HEAD /api/tags."""
    library = service.library

    def read() -> bytes:
        return dumps({"models": [tags_entry(m, m.capabilities) for m in library.models()]})

    async def tags(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await asyncio.to_thread(read))

    return tags
