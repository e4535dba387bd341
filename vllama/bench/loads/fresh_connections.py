"""A closed loop in which every request opens a connection of its own, as scripts and many HTTP clients do."""

from __future__ import annotations

import asyncio

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """All prompts, at most `concurrency` at once. The time at which the client begins to connect is recorded as the
    one at which the request was wanted (`t_sched`)."""
    queue = iter(job.prompts)
    async with wire(system, keep_alive=False) as line:

        async def client() -> None:
            for prompt in queue:
                request = line.greedy(prompt, job.cell.n_out, stream=job.cell.stream)
                sent = await line.send(request, prompt)
                sent.t_sched = sent.exchange.t_connect

        await asyncio.gather(*(client() for _ in range(job.cell.concurrency)))
        return line.outcome(job.cell.n_out)
