"""The routes that Ollama forwards to ollama.com. vLLama has no cloud and answers like an Ollama without one."""

from __future__ import annotations

from vllama.api.envelopes import ollama, send_error
from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, read_body, send_json
from vllama.errors import BodyError, ForbiddenError, VllamaError

_NO_RECOMMENDATIONS = dumps({"recommendations": []})


def disabled(what: str) -> Endpoint:
    """403 for an operation that only ollama.com could do; an empty body is the client's first mistake."""
    error = ollama(ForbiddenError(f"ollama cloud is disabled: {what}"))

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if not (await read_body(scope, receive)).strip():
            raise BodyError("missing request body")
        await send_error(send, error)

    return endpoint


_NO_ACCOUNT = ollama(ForbiddenError("ollama cloud is disabled: accounts are unavailable"))
_SIGNED_OUT = ollama(VllamaError("you are not currently signed in", status=401))


async def me(scope: Scope, receive: Receive, send: Send) -> None:
    """Who is signed in: nobody can."""
    await send_error(send, _NO_ACCOUNT)


async def signout(scope: Scope, receive: Receive, send: Send) -> None:
    """Nobody is signed in."""
    await send_error(send, _SIGNED_OUT)


async def recommendations(scope: Scope, receive: Receive, send: Send) -> None:
    """Models to try: none are known without the cloud."""
    await send_json(send, 200, _NO_RECOMMENDATIONS)
