"""A client that hangs up: how long the server goes on for nobody.

Seen from outside, by the CPU time of the process tree: what a request costs from its start until the tree is idle.
Two requests that are left alone, of one and of four lengths, give the cost of a token; what a cancelled one costs
above the short one, in that coin, is the number of tokens made for nobody.
"""

from __future__ import annotations

import asyncio
import time

from vllama.bench import probe
from vllama.bench.loads.base import Job, NotApplicable, Outcome, Wire, wire
from vllama.bench.systems.base import System

POLL_S = 0.005
WINDOW = 6
"""Polls that must all be idle: 30 ms, longer than a step of any model that this is run with."""

IDLE_SHARE = 0.1
REFERENCE_FACTOR = 4


async def drive(system: System, job: Job) -> Outcome:
    """Two requests left alone (role "reference"), then cancelled ones after `cancel_after` events."""
    if not system.pids():
        raise NotApplicable("its processes are not on this machine: what it does after a hang-up cannot be seen")
    after = job.scenario.cancel_after
    async with wire(system) as line:
        short, _ = await _one(line, job.prompts[0], after, None)
        long, _ = await _one(line, job.prompts[1], after * REFERENCE_FACTOR, None)
        token = (long - short) / (after * (REFERENCE_FACTOR - 1))
        for prompt in job.prompts[2:]:
            used, free = await _one(line, prompt, job.cell.n_out, after)
            sent = line.sent[-1]
            if sent.outcome and token > 0:
                sent.extra["tokens_after"] = max(0.0, (used - short) / token)
                sent.extra["free_ms"] = free / 1e6
        return line.outcome(job.cell.n_out, cpu_s_per_token=token)


async def _one(line: Wire, prompt: str, n_out: int, cancel_after: int | None) -> tuple[float, int]:
    """(CPU-seconds until idle, ns from the end of the request to idle)."""
    pids = line.system.pids()
    before = probe.cpu_seconds(pids)
    sent = await line.send(line.greedy(prompt, n_out), prompt, cancel_after=cancel_after)
    sent.n_asked = n_out
    if cancel_after is None:
        sent.role = "reference"
    elif not sent.exchange.error and sent.exchange.cancelled:
        sent.outcome = "cancelled"
    idle_since = await _until_idle(pids, line.system.setup.timeout)
    return probe.cpu_seconds(pids) - before, max(0, idle_since - sent.exchange.t_end)


async def _until_idle(pids: list[int], seconds: float) -> int:
    """When the tree became idle, in ns; now if it never did."""
    deadline = time.monotonic() + seconds
    seen = [(time.monotonic_ns(), probe.cpu_seconds(pids))]
    while time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        seen.append((time.monotonic_ns(), probe.cpu_seconds(pids)))
        if len(seen) > WINDOW:
            (start, used_before), (end, used) = seen[-1 - WINDOW], seen[-1]
            if (used - used_before) * 1e9 < IDLE_SHARE * (end - start):
                return start
    return time.monotonic_ns()
