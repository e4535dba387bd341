"""`/`, `/api/version`, `/api/status`: who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama.api.http import TEXT_UTF8, Endpoint, Receive, Scope, Send, dumps, send_json

if TYPE_CHECKING:
    from vllama.core.service import Service

OLLAMA_API = "0.33.0"
"""The Ollama release whose API this server speaks. Clients switch features on and off by it; vLLama's own version
is in the header `X-vLLama-Version`."""

_RUNNING = b"Ollama is running"
_VERSION = dumps({"version": OLLAMA_API})


async def root(scope: Scope, receive: Receive, send: Send) -> None:
    """The sentence by which clients and load balancers know an Ollama."""
    await send_json(send, 200, _RUNNING, TEXT_UTF8)


async def version(scope: Scope, receive: Receive, send: Send) -> None:
    """The API's version."""
    await send_json(send, 200, _VERSION)


def status_endpoint(service: Service) -> Endpoint:
    """Whether cloud models can be used: never."""
    payload = dumps({"cloud": {"disabled": True, "source": "env" if service.settings.no_cloud else "config"}})

    async def status(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, payload)

    return status
