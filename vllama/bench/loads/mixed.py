"""A long prompt joins streams that run: what it does to their rhythm."""

from __future__ import annotations

import asyncio

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System

JOINER_TOKENS = 8


async def drive(system: System, job: Job) -> Outcome:
    """All prompts but the last at once (role "victim"); after `join_after_s` the last, long one (role "joiner").

    By the clock and not by what the victims have got, so that every system is asked the same thing.
    """
    async with wire(system) as line:

        async def ask(prompt: str, role: str, n_out: int, delay: float) -> None:
            if delay:
                await asyncio.sleep(delay)
            sent = await line.send(line.greedy(prompt, n_out), prompt)
            sent.role, sent.n_asked = role, n_out

        *victims, joiner = job.prompts
        await asyncio.gather(
            *(ask(prompt, "victim", job.cell.n_out, 0) for prompt in victims),
            ask(joiner, "joiner", JOINER_TOKENS, job.scenario.join_after_s),
        )
        return line.outcome(job.cell.n_out)
