"""POST /api/show: everything that is known about one model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama.api.http import ENGINE_HEADER, Endpoint, Receive, Scope, Send, dumps, read_body, send_json
from vllama.api.ollama.chat import forbid_files
from vllama.api.read import read_show
from vllama.core.choosing import explained
from vllama.errors import ForbiddenError, ModelNotFound, RequestError
from vllama.models.library import looks_like_path
from vllama.models.model import Model
from vllama.models.names import Name, parse_reference
from vllama.models.show import describe

if TYPE_CHECKING:
    from vllama.core.service import Service


def find_shown(service: Service, text: str) -> Model:
    """The model of that name, with the error texts of /api/show: a missing one is named in its short form."""
    if looks_like_path(text):
        return service.resolve(text)
    reference = parse_reference(text)
    name = Name.parse(reference.base)
    if not name.valid:
        raise RequestError("invalid model name")
    # a tag that is really called "cloud" or "local" comes first: copies may be named so
    model = service.library.find(Name.parse(text.strip())) or service.library.find(name)
    if model is None and reference.source == "cloud":
        raise ForbiddenError("ollama cloud is disabled: remote model details are unavailable")
    if model is None:
        raise ModelNotFound(f"model '{name.shortest}' not found")
    return model


def show_endpoint(service: Service) -> Endpoint:
    """POST /api/show. Reads the GGUF's header in a thread: with `verbose` it can be megabytes of vocabulary."""

    def read(scope: Scope, body: bytes) -> tuple[bytes, bytes]:
        request = read_show(body)
        forbid_files(scope, request.model)
        model = find_shown(service, request.model)
        engine = explained(model, service.settings).encode("ascii", "replace").replace(b"\n", b" ")
        described = dumps(
            describe(
                model,
                verbose=request.verbose,
                system=request.system,
                template=request.template,
                options=request.options,
                capabilities=model.capabilities,
            )
        )
        return described, engine

    async def show(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive)
        described, engine = await asyncio.to_thread(read, scope, body)
        await send_json(send, 200, described, extra=[(ENGINE_HEADER, engine)])

    return show
