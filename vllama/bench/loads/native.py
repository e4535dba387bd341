"""What only Ollama's API can say: unload this model, keep it for so long, is it loaded."""

from __future__ import annotations

import json

from vllama.bench.loads.base import NotApplicable, wait_for
from vllama.bench.systems.base import System, SystemFailed
from vllama.bench.systems.http import HttpSystem

POLL_S = 0.01


def native(system: System) -> HttpSystem:
    """The system, if it speaks Ollama's API. Raises `NotApplicable`."""
    if not isinstance(system, HttpSystem) or system.api != "ollama":
        raise NotApplicable("its API cannot unload a model")
    return system


async def is_loaded(system: HttpSystem) -> bool:
    """Whether /api/ps lists any model."""
    exchange = await system.fetch("/api/ps")
    if exchange.error or exchange.status != 200:
        raise SystemFailed(f"{system.title}: /api/ps answered {exchange.error or exchange.status}")
    return bool(json.loads(exchange.body).get("models"))


async def unload(system: HttpSystem) -> None:
    """Ask for it, and return when the model is gone."""
    body = json.dumps({"model": system.model, "keep_alive": 0}).encode()
    exchange = await system.fetch("/api/generate", body)
    if exchange.error or exchange.status != 200:
        raise NotApplicable(f"unloading was answered {exchange.error or exchange.status}: {exchange.body[:200]!r}")
    await until_gone(system, system.setup.timeout)


async def until_gone(system: HttpSystem, seconds: float) -> int:
    """When the model was gone, in ns on the monotonic clock, as seen by polling."""

    async def gone() -> bool:
        return not await is_loaded(system)

    found = await wait_for(gone, seconds, POLL_S)
    if not found:
        raise SystemFailed(f"{system.title}: the model is still loaded after {seconds:g} s")
    return found
