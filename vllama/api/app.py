"""The gateway: one FastAPI application whose API routes are plain ASGI endpoints in front of FastAPI's own stack.

Nothing of FastAPI or Starlette runs for a route of the table. They serve the lifespan, the OpenAPI
document and its pages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from vllama import __version__
from vllama.api.envelopes import BY_API, INTERNAL, send_error
from vllama.api.http import (
    HTML_UTF8,
    TEXT,
    TEXT_UTF8,
    VERSION_HEADER,
    ASGIMessage,
    Header,
    Receive,
    Scope,
    Send,
    send_empty,
    send_json,
)
from vllama.api.routes import routes
from vllama.api.routing import Path, Redirect, Route, RouteTable
from vllama.api.security import Guard
from vllama.core.residency import GOING_DOWN
from vllama.errors import BusyError, RequestCanceled, VllamaError

if TYPE_CHECKING:
    from vllama.core.service import Service

log = logging.getLogger("vllama.api")


class Answer:
    """The `send` of one request: adds the CORS headers to the head, and knows whether it has gone out."""

    __slots__ = ("headers", "send", "started")

    def __init__(self, send: Send, headers: tuple[Header, ...]) -> None:
        self.send = send
        self.headers = headers
        self.started = False

    def __call__(self, message: ASGIMessage) -> Awaitable[None]:
        if not self.started:
            self.started = True
            if self.headers:
                message["headers"] = [*message["headers"], *self.headers]
        return self.send(message)


class Gateway(FastAPI):
    """The ASGI application. `table` and `guard` decide before anything of FastAPI runs."""

    def __init__(self, service: Service, *, listen: str) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            await service.start()
            try:
                yield
            finally:
                await service.stop()

        super().__init__(
            title="vLLama",
            version=__version__,
            summary="Ollama's and OpenAI's API on the engine that suits the machine.",
            lifespan=lifespan,
            redoc_url=None,
        )
        self._service = service
        self.guard = Guard(service.settings.origins, listen)
        self.table = RouteTable((*routes(service), *self._pages()))
        self._static = self.table.static

    def _pages(self) -> tuple[Route, ...]:
        return (
            Route(("HEAD", "GET"), "/docs", self._fastapi, "ops", "This API as a page"),
            Route(("HEAD", "GET"), "/openapi.json", self._fastapi, "ops", "This API as an OpenAPI document"),
        )

    async def _fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, Answer(send, (VERSION_HEADER,)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = self._static.get(scope["path"])
        if path is None:
            found = self.table.resolve(scope)
            if isinstance(found, Redirect):
                await _redirect(scope["method"], found, send)
                return
            path = found
        method = scope["method"]
        verdict = self.guard.judge(method, scope["headers"])
        answer = Answer(send, verdict.headers)
        endpoint = path.methods.get(method)
        try:
            if verdict.status == 400:
                await send_json(answer, 400, b"400 Bad Request: malformed Host header", TEXT_UTF8)
            elif verdict.status:
                allow = path.allow if endpoint is None else ()
                await send_empty(answer, verdict.status, allow, length=verdict.status != 204)
            elif endpoint is None:
                await _no_endpoint(path, answer)
            else:
                await endpoint(scope, receive, answer)
        except VllamaError as error:
            await _failed(error, path, answer, scope)
        except asyncio.CancelledError:
            # Only the end of the server cancels a request from outside.
            if not self._service.draining:
                raise
            if not answer.started:
                await send_error(answer, BY_API[path.api](BusyError(GOING_DOWN)))
        except Exception:
            if answer.started:
                raise  # the server logs it and cuts the connection, so that the client sees the answer is not whole
            log.exception("%s %s failed", method, scope["path"])
            await send_error(answer, BY_API[path.api](INTERNAL))

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, made on its first use."""
        if self.openapi_schema is None:
            from vllama.api.openapi.document import document

            self.openapi_schema = document(self.table.routes)
        return self.openapi_schema


def create_app(service: Service, *, listen: str | None = None) -> Gateway:
    """The application for a service. `listen` is the address it will listen on (None: the settings' host).

    Raises ConfigError for origins that cannot be used.
    """
    return Gateway(service, listen=service.settings.host.name if listen is None else listen)


async def _failed(error: VllamaError, path: Path, answer: Answer, scope: Scope) -> None:
    if isinstance(error, RequestCanceled):
        log.debug("%s %s: the client went away", scope["method"], scope["path"])
    elif error.status >= 500:
        log.error("%s %s: %s", scope["method"], scope["path"], error.text)
    if not answer.started:
        await send_error(answer, BY_API[path.api](error))
    elif not isinstance(error, RequestCanceled):
        raise error


async def _no_endpoint(path: Path, answer: Answer) -> None:
    if path.methods:
        await send_json(answer, 405, b"405 method not allowed", TEXT, extra=path.allow)
    else:
        await send_json(answer, 404, b"404 page not found", TEXT)


async def _redirect(method: str, redirect: Redirect, send: Send) -> None:
    location: Header = (b"location", redirect.location.encode("latin-1"))
    if method not in ("GET", "HEAD"):
        await send_empty(send, redirect.status, (location,))
        return
    text = "Moved Permanently" if redirect.status == 301 else "Temporary Redirect"
    page = f'<a href="{escape(redirect.location)}">{text}</a>.\n\n'
    await send_json(send, redirect.status, page.encode("latin-1"), HTML_UTF8, extra=(location,))
