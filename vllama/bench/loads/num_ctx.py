"""Another context length for a model that is loaded: does the next request wait for a new load?"""

from __future__ import annotations

from itertools import cycle

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.loads.native import native
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """One request after the other, with the context lengths of the scenario in turn (role "ctx<n>")."""
    http = native(system)
    async with wire(http) as line:
        for prompt, num_ctx in zip(job.prompts, cycle(job.scenario.num_ctx), strict=False):
            sent = await line.send(line.greedy(prompt, job.cell.n_out, num_ctx=num_ctx), prompt)
            sent.role, sent.loads = f"ctx{num_ctx}", True
        return line.outcome(job.cell.n_out)
