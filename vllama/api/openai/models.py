"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from vllama.api.http import JSON, Endpoint, Receive, Scope, Send, dumps, send_json
from vllama.api.ollama.chat import forbid_files
from vllama.api.ollama.show import find_shown
from vllama.models.model import Model
from vllama.models.names import Name

if TYPE_CHECKING:
    from vllama.core.service import Service


def _entry(name: str, namespace: str, model: Model) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": namespace}


def models_endpoint(service: Service) -> Endpoint:
    """All models, newest first."""

    def read() -> bytes:
        data = [_entry(m.name.shortest, m.name.namespace, m) for m in service.library.models()]
        return dumps({"object": "list", "data": data}) + b"\n"

    async def models(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await asyncio.to_thread(read), JSON)

    return models


def model_endpoint(service: Service) -> Endpoint:
    """One model, under the name that was asked for."""

    async def model(scope: Scope, receive: Receive, send: Send) -> None:
        name: str = scope["path_params"]["model"]
        forbid_files(scope, name)
        found = await asyncio.to_thread(find_shown, service, name)
        entry = _entry(name, Name.parse(name).namespace, found)
        await send_json(send, 200, dumps(entry) + b"\n", JSON)

    return model
