"""A burst above what the server takes: how many it refuses, whether it loses any, and when it is itself again."""

from __future__ import annotations

import asyncio
import time

from vllama.bench.dialects import read_reply
from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """All at once, each on its own connection. A 503 with a whole body is a refusal, not a failure; an answer in full
    that has no text (outcome "silent": the model ended at once) is an answer.

    `recover_ms` is the time from the end of the last answer to the first text of a request that comes after it.
    """
    async with wire(system) as line:

        async def ask(prompt: str) -> None:
            sent = await line.send(line.greedy(prompt, job.cell.n_out, stream=job.cell.stream), prompt)
            sent.n_asked = -1
            if sent.exchange.status == 503 and not sent.exchange.error:
                sent.outcome = "refused"

        await asyncio.gather(*(ask(prompt) for prompt in job.prompts))
        ended = time.monotonic_ns()
        for sent in line.sent:
            reply = read_reply(sent.exchange)
            if not reply.error and not reply.texts:
                sent.outcome = "silent"
        outcome = line.outcome(job.cell.n_out)
        deadline = time.monotonic() + system.setup.timeout
        while time.monotonic() < deadline:
            probe = f"after {job.seed}. {job.prompts[0]}"
            sent = await line.send(line.greedy(probe, 1), probe)
            if sent.exchange.status == 200 and sent.exchange.pieces:
                outcome.extra["recover_ms"] = (sent.exchange.pieces[0][0] - ended) / 1e6
                break
            await asyncio.sleep(0.02)
        return outcome
