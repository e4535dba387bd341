"""Long prompts and short ones in turn: what a prompt token costs is the difference of their times to first text."""

from __future__ import annotations

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """One after the other, each with a fresh nonce; the short ones pay for everything but the prompt."""
    async with wire(system) as line:
        for index, prompt in enumerate(job.prompts):
            sent = await line.send(line.greedy(prompt, job.cell.n_out), prompt)
            sent.role = "short" if index % 2 else "long"
        return line.outcome(job.cell.n_out)
