"""A model that nobody asks leaves when its time is over, and comes back when somebody asks."""

from __future__ import annotations

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.loads.native import native, until_gone
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """In turn: a request that may stay `keep_alive_s` (role "prime"), the wait until the model left, a request that
    loads it again (role "reload"). `expiry_late_ms` is how much later than promised it left."""
    http = native(system)
    keep = job.scenario.keep_alive_s
    async with wire(http) as line:
        for first, second in zip(job.prompts[::2], job.prompts[1::2], strict=True):
            prime = await line.send(line.greedy(first, job.cell.n_out, keys={"keep_alive": f"{keep:g}s"}), first)
            prime.role = "prime"
            gone = await until_gone(http, keep + http.setup.timeout)
            reload = await line.send(line.greedy(second, job.cell.n_out, keys={"keep_alive": -1}), second)
            reload.role, reload.loads = "reload", True
            reload.extra["expiry_late_ms"] = (gone - prime.exchange.t_end) / 1e6 - keep * 1e3
        return line.outcome(job.cell.n_out)
