"""`/health`: whether this server can answer, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama import __version__
from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, send_json

if TYPE_CHECKING:
    from vllama.core.service import Service


def health(service: Service) -> Endpoint:
    """200 while requests are taken; `models` lists what is loaded, on which engine, with how many requests."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        loaded = [
            {"model": row.model.name.shortest, "engine": row.engine, "requests": row.busy}
            for row in service.residency.loaded()
        ]
        await send_json(send, 200, dumps({"status": "ok", "version": __version__, "models": loaded}))

    return endpoint
