"""How much memory a server needs: when it has just begun, when it has worked, when everything in it is full."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from vllama.bench.loads.base import Job, Outcome, Wire
from vllama.bench.loads.cold_start import first_answer, listening
from vllama.bench.loads.second_process import fresh, running
from vllama.bench.systems.base import System

MIB = 2**20


async def drive(system: System, job: Job) -> Outcome:
    """In a process of its own, so that earlier slots have left nothing in it: one answer (role "first"); all prompts
    but the last `concurrency`, that many at once ("busy"); the last ones together, each nearly as long as a request's
    whole context ("full"). The numbers are the proportional set sizes of the process tree after each part, in MiB.
    """
    other = fresh(system)
    clients = job.cell.concurrency
    *rest, first = job.prompts[:-clients]
    full = job.prompts[-clients:]
    line = Wire(system, port=other.port)
    async with running(other) as kept:
        try:
            await listening(kept, other.port, other.setup.timeout)
            await first_answer(line, line.greedy(first, job.cell.n_out), first, kept, other.setup.timeout)
            line.sent[-1].role = "first"
            found = {"pss_start_mib": kept.meter.pss() / MIB}
            await _together(line, rest, clients, job.cell.n_out, "busy")
            found["pss_busy_mib"] = kept.meter.pss() / MIB
            await _together(line, full, clients, job.cell.n_out, "full")
            found["pss_full_mib"] = kept.meter.pss() / MIB
        finally:
            line.close()
    return line.outcome(job.cell.n_out, **found)


async def _together(line: Wire, prompts: Sequence[str], clients: int, n_out: int, role: str) -> None:
    """All prompts, `clients` of them at any time."""
    queue = iter(prompts)

    async def client() -> None:
        for prompt in queue:
            (await line.send(line.greedy(prompt, n_out), prompt)).role = role

    await asyncio.gather(*(client() for _ in range(clients)))
