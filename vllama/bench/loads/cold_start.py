"""From nothing to the first token: a second process of the system, its files in the page cache."""

from __future__ import annotations

import asyncio
import contextlib
import time

from vllama.bench.loads.base import Job, Outcome, Wire
from vllama.bench.loads.second_process import fresh, running
from vllama.bench.systems.base import System, SystemFailed
from vllama.bench.systems.kept import Kept

POLL_S = 0.002


async def drive(system: System, job: Job) -> Outcome:
    """Start the same command on another port and ask as soon as it listens, again while it says that it still loads.

    The resident process stays as it is, so the model file is in the page cache. The request is recorded with the start
    of the process as the time at which it was wanted (`t_sched`).
    """
    other = fresh(system)
    line = Wire(system, port=other.port)
    faults = 0
    try:
        for prompt in job.prompts:
            request = line.greedy(prompt, job.cell.n_out)
            async with running(other) as kept:
                try:
                    listens = await listening(kept, other.port, other.setup.timeout)
                    await first_answer(line, request, prompt, kept, other.setup.timeout)
                    sent = line.sent[-1]
                    sent.role, sent.t_sched, sent.loads = "start", kept.spawned, True
                    sent.extra["listen_ms"] = (listens - kept.spawned) / 1e6
                    faults += kept.meter.major_faults()
                finally:
                    line.close()
        return line.outcome(job.cell.n_out, major_faults=faults)
    finally:
        line.close()


async def listening(kept: Kept, port: int, seconds: float) -> int:
    """When a process that was started accepted its first connection, in ns on the monotonic clock."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := kept.poll()) is not None:
            raise SystemFailed(f"a second process of the system ended with {code}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_S)
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return time.monotonic_ns()
    raise SystemFailed(f"a second process of the system did not listen within {seconds:g} s")


async def first_answer(line: Wire, request: tuple[str, bytes], prompt: str, kept: Kept, seconds: float) -> None:
    """Leaves one `Sent` at the end of `line.sent`; those that came too early are dropped."""
    deadline = time.monotonic() + seconds
    while True:
        sent = await line.send(request, prompt)
        too_early = sent.exchange.status == 503 or (sent.exchange.error and not sent.exchange.received)
        if not too_early or time.monotonic() > deadline or kept.poll() is not None:
            return
        line.sent.pop()
        await asyncio.sleep(POLL_S)
