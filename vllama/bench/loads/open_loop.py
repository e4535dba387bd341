"""Open loop: requests come when they come, whether the last ones were answered or not."""

from __future__ import annotations

import asyncio
import itertools
import random
import time

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


def schedule(rate: float, count: int, seed: str) -> list[float]:
    """Seconds from the start at which requests come: Poisson arrivals, stretched so that their mean rate is exact."""
    rng = random.Random(seed)
    arrivals = list(itertools.accumulate(rng.expovariate(1.0) for _ in range(count)))
    return [arrival / arrivals[-1] * count / rate for arrival in arrivals]


async def drive(system: System, job: Job) -> Outcome:
    """Each request at its time, on a connection of its own if none is free. Nothing waits for an answer."""
    async with wire(system) as line:
        requests = [line.greedy(prompt, job.cell.n_out, stream=job.cell.stream) for prompt in job.prompts]
        times = schedule(job.scenario.rate, len(requests), job.seed)
        start = time.monotonic_ns()

        async def ask(index: int) -> None:
            due = start + round(times[index] * 1e9)
            await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
            sent = await line.send(requests[index], job.prompts[index])
            sent.t_sched = due

        await asyncio.gather(*(ask(index) for index in range(len(requests))))
        return line.outcome(job.cell.n_out, rate=job.scenario.rate)
