"""Nobody asks anything: what a loaded server costs by being there."""

from __future__ import annotations

import asyncio

from vllama.bench.loads.base import Job, Outcome
from vllama.bench.systems.base import System

SETTLE_S = 0.5


async def drive(system: System, job: Job) -> Outcome:
    """Wait `idle_s`. The slot's own CPU time and memory are the measurement."""
    await asyncio.sleep(job.scenario.idle_s)
    return Outcome(lambda slot, t0: [])


async def settle(system: System) -> None:
    """Let the request before the slot fade away."""
    await asyncio.sleep(SETTLE_S)
