"""Clients that share a long beginning: one round that nobody has seen, and a second one behind the same beginning."""

from __future__ import annotations

import asyncio

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """`concurrency` requests at once (role "cold"), and when the last one ended, as many again (role "warm")."""
    clients = job.cell.concurrency
    async with wire(system) as line:

        async def ask(prompt: str, role: str) -> None:
            sent = await line.send(line.greedy(prompt, job.cell.n_out), prompt)
            sent.role, sent.reuses = role, True

        for role, prompts in (("cold", job.prompts[:clients]), ("warm", job.prompts[clients:])):
            await asyncio.gather(*(ask(prompt, role) for prompt in prompts))
        return line.outcome(job.cell.n_out)
