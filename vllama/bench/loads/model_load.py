"""The server runs, the model does not: from the request to its first token, the load included."""

from __future__ import annotations

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.loads.native import native, unload
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """For each prompt: unload, wait until the model is gone, ask."""
    http = native(system)
    async with wire(http) as line:
        for prompt in job.prompts:
            await unload(http)
            sent = await line.send(line.greedy(prompt, job.cell.n_out, keys={"keep_alive": -1}), prompt)
            sent.role, sent.loads = "reload", True
        return line.outcome(job.cell.n_out)
