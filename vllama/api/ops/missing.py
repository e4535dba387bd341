"""Routes of Ollama that vLLama knows and does not have yet: 501 in the shape of their API, never a 404 page."""

from __future__ import annotations

from vllama.api.envelopes import BY_API, send_error
from vllama.api.http import Receive, Scope, Send
from vllama.api.routing import Api, Route
from vllama.errors import NotImplementedYet


def missing(method: str, path: str, api: Api, summary: str) -> Route:
    """A route that says that it is not there yet."""
    error = NotImplementedYet(f"{method} {path} is not implemented yet")
    reply = BY_API[api]

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await send_error(send, reply(error))

    return Route((method,), path, endpoint, api, summary + " (not implemented yet)")
