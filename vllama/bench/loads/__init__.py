"""The kinds of load: one module each, with one function that drives a system's public interface."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vllama.bench.loads import (
    burst,
    cancel,
    closed,
    cold_start,
    constrained,
    conversation,
    embeddings,
    fresh_connections,
    idle,
    idle_cache,
    keep_alive,
    memory,
    mixed,
    model_load,
    num_ctx,
    open_loop,
    prefill,
    shared_prefix,
    two_models,
)
from vllama.bench.loads.base import Drive, Job, NotApplicable, Outcome
from vllama.bench.plan import Cell, Scenario
from vllama.bench.systems.base import System


@dataclass(frozen=True, slots=True)
class Load:
    """How a kind is driven. `needs` are the capabilities that a system must declare. `prepare` runs before each slot,
    outside the measurement; `try_it` once before the first, and may raise `NotApplicable`."""

    drive: Drive
    needs: frozenset[str] = frozenset()
    prepare: Callable[[System], Awaitable[None]] | None = None
    try_it: Callable[[System], Awaitable[None]] | None = None


_STREAM = frozenset({"stream"})
_EITHER_WAY = ("closed", "fresh-connections")  # a scenario of these says itself whether it streams

LOADS: dict[str, Load] = {
    "closed": Load(closed.drive),
    "prefill": Load(prefill.drive, _STREAM),
    "shared-prefix": Load(shared_prefix.drive, _STREAM),
    "conversation": Load(conversation.drive, _STREAM | {"chat"}),
    "mixed": Load(mixed.drive, _STREAM),
    "open": Load(open_loop.drive, _STREAM),
    "burst": Load(burst.drive, _STREAM),
    "cancel": Load(cancel.drive, _STREAM | {"cancel"}),
    "fresh-connections": Load(fresh_connections.drive),
    "cold-start": Load(cold_start.drive, _STREAM | {"restart"}),
    "load": Load(model_load.drive, _STREAM | {"unload"}),
    "keep-alive": Load(keep_alive.drive, _STREAM | {"keep_alive"}),
    "num-ctx": Load(num_ctx.drive, _STREAM | {"num_ctx"}),
    "embeddings": Load(embeddings.drive, frozenset({"embed"}), try_it=embeddings.try_it),
    "idle": Load(idle.drive, prepare=idle.settle),
    "memory": Load(memory.drive, _STREAM | {"restart"}),
    "idle-cache": Load(idle_cache.drive, _STREAM | {"unload"}),
    "two-models": Load(two_models.drive, _STREAM | {"unload"}, try_it=two_models.make_second),
    "constrained": Load(constrained.drive, _STREAM | {"constrained"}),
}


KNOWN_NEEDS: frozenset[str] = frozenset().union(*(load.needs for load in LOADS.values()))
"""Every capability that some kind needs."""


def lacks(system: System, scenario: Scenario, cell: Cell) -> str:
    """Why the system has no such cell, or an empty string."""
    if system.lane not in scenario.lanes:
        return f"the scenario belongs to the lane {' and '.join(scenario.lanes)}; this system is in {system.lane}"
    if system.ceiling:
        return "" if cell.concurrency in scenario.ceiling else "the scenario does not ask for the ceiling here"
    needs = LOADS[cell.kind].needs | (
        _STREAM if cell.stream and cell.kind in ("closed", "fresh-connections") else frozenset()
    )
    missing = sorted(needs - system.capabilities)
    return f"it cannot: {', '.join(missing)}" if missing else ""


__all__ = ["KNOWN_NEEDS", "LOADS", "Drive", "Job", "Load", "NotApplicable", "Outcome", "lacks"]
