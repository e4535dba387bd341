"""Does it cost a stream anything that others left their prompts in the cache?"""

from __future__ import annotations

import asyncio

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.loads.native import native, unload
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """The model is loaded anew; some requests one after the other (role "empty"), `concurrency` long prompts at once
    that fill the cache (role "fill"), and as many requests as before (role "full")."""
    http = native(system)
    await unload(http)
    await http.fetch("/api/generate", http.completion("", 1, stream=False)[1])  # loads, and leaves nothing in the cache
    fillers = job.cell.concurrency
    alone = (len(job.prompts) - fillers) // 2
    async with wire(http) as line:

        async def ask(prompt: str, role: str, n_out: int) -> None:
            sent = await line.send(line.greedy(prompt, n_out), prompt)
            sent.role, sent.n_asked = role, n_out

        for prompt in job.prompts[:alone]:
            await ask(prompt, "empty", job.cell.n_out)
        await asyncio.gather(*(ask(prompt, "fill", 1) for prompt in job.prompts[alone : alone + fillers]))
        for prompt in job.prompts[alone + fillers :]:
            await ask(prompt, "full", job.cell.n_out)
        return line.outcome(job.cell.n_out)
