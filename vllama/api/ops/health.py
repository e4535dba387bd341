"""`/health`: whether this server can answer, and with what."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from vllama import __version__
from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, send_json
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.core.residency import Loaded
    from vllama.core.service import Service


STATS_TIMEOUT_S = 1.0
"""A worker answers between two steps; a probe does not wait for a long one."""

COUNTERS = ("active", "waiting", "prompt_tokens", "cached_tokens", "output_tokens")


def health(service: Service) -> Endpoint:
    """200 while requests are taken; `models` lists what is loaded, on which engine, with how many requests, and the
    engine's counters if it tells them soon enough."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        models = await asyncio.gather(*(_row(loaded) for loaded in service.residency.loaded()))
        await send_json(send, 200, dumps({"status": "ok", "version": __version__, "models": models}))

    return endpoint


async def _row(loaded: Loaded) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": loaded.model.name.shortest,
        "engine": loaded.engine,
        "requests": loaded.busy,
    }
    if loaded.handle is not None:
        with contextlib.suppress(TimeoutError, VllamaError):
            stats = await asyncio.wait_for(loaded.handle.stats(), STATS_TIMEOUT_S)
            row |= {name: getattr(stats, name) for name in COUNTERS}
    return row
