"""GET /api/ps: what is loaded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, send_json
from vllama.models.show import rfc3339

if TYPE_CHECKING:
    from vllama.core.service import Service


def ps_endpoint(service: Service) -> Endpoint:
    """GET /api/ps, longest life first; then what loads, where it says how far it is."""

    async def ps(scope: Scope, receive: Receive, send: Send) -> None:
        rows = sorted(service.residency.loaded(), key=lambda row: row.expires_at, reverse=True)
        models = [
            {
                "name": row.model.name.shortest,
                "model": row.model.name.shortest,
                "size": row.size,
                "digest": row.model.digest,
                "details": row.model.details,
                "expires_at": rfc3339(row.expires_at),
                "size_vram": row.size_vram,
                "context_length": row.num_ctx,
            }
            for row in rows
        ]
        now = rfc3339(datetime.now(UTC))
        models += [
            {
                "name": model.name.shortest,
                "model": model.name.shortest,
                "size": model.size,
                "digest": model.digest,
                "details": model.details,
                "expires_at": now,
                "size_vram": 0,
                "context_length": num_ctx,
                "loading": phase,
            }
            for model, num_ctx, phase in service.residency.loading()
        ]
        await send_json(send, 200, dumps({"models": models}))

    return ps
