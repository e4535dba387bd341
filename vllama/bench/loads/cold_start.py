"""From nothing to the first token: a second process of the system, its files in the page cache."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import subprocess
import time

from vllama.bench.loads.base import Job, NotApplicable, Outcome, Wire
from vllama.bench.systems.base import System, SystemFailed, free_port
from vllama.bench.systems.http import HttpSystem
from vllama.bench.systems.kept import Kept

POLL_S = 0.002
GRACE_S = 5.0


async def drive(system: System, job: Job) -> Outcome:
    """Start the same command on another port and ask as soon as it listens, again while it says that it still loads.

    The resident process stays as it is, so the model file is in the page cache, and the store is the one it made. The
    request is recorded with the start of the process as the time at which it was wanted (`t_sched`).
    """
    if not isinstance(system, HttpSystem) or not system.pids():
        raise NotApplicable("it is not started by the benchmark")
    # What the running one knows (its binary, the arguments that it read elsewhere) holds for the second process.
    other = copy.copy(system)
    other.port = free_port()
    argv, env = other.command()
    line = Wire(system, port=other.port)
    try:
        for prompt in job.prompts:
            request = line.greedy(prompt, job.cell.n_out)
            kept = Kept()
            process = subprocess.Popen(  # noqa: ASYNC220 (it takes a millisecond, before anything is measured)
                kept.wrap(argv),
                env={**system.environ(), **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=kept.fds,
                cwd=system.setup.scratch,
            )
            try:
                await asyncio.to_thread(kept.begin, process.pid)
                listens = await _listens(kept, other.port, system.setup.timeout)
                await _first_answer(line, request, prompt, kept, system.setup.timeout)
                sent = line.sent[-1]
                sent.role, sent.t_sched, sent.loads = "start", kept.spawned, True
                sent.extra["listen_ms"] = (listens - kept.spawned) / 1e6
            finally:
                line.close()
                await asyncio.to_thread(_end, kept, process)
        return line.outcome(job.cell.n_out)
    finally:
        line.close()


async def _listens(kept: Kept, port: int, seconds: float) -> int:
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


async def _first_answer(line: Wire, request: tuple[str, bytes], prompt: str, kept: Kept, seconds: float) -> None:
    """Leaves one `Sent` at the end of `line.sent`; those that came too early are dropped."""
    deadline = time.monotonic() + seconds
    while True:
        sent = await line.send(request, prompt)
        too_early = sent.exchange.status == 503 or (sent.exchange.error and not sent.exchange.received)
        if not too_early or time.monotonic() > deadline or kept.poll() is not None:
            return
        line.sent.pop()
        await asyncio.sleep(POLL_S)


def _end(kept: Kept, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, some seconds, then SIGKILL for all that is left of the tree."""
    kept.ask_to_end()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    kept.close()
    process.wait(GRACE_S)
