"""Closed loop: streams that each send their next request when the last one ended."""

from __future__ import annotations

from vllama.bench.loads.base import Job, Outcome
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """All prompts, at most `concurrency` at once. The one kind that the ceiling without a server can do too."""
    cell = job.cell
    later = await system.drive(job.prompts, cell.n_out, cell.concurrency, stream=cell.stream)
    return Outcome(later, system.no_delay)
