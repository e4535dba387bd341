"""The same system once more: a fresh process beside the resident one, for loads that need a server without a past."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import subprocess
from collections.abc import AsyncIterator

from vllama.bench.loads.base import NotApplicable
from vllama.bench.systems.base import System, free_port
from vllama.bench.systems.http import HttpSystem
from vllama.bench.systems.kept import Kept

GRACE_S = 5.0


def fresh(system: System) -> HttpSystem:
    """A copy of a system with a free port. What the running one knows (its binary, the arguments that it read
    elsewhere, the store it made) holds for the second process. Raises `NotApplicable` where nothing is started."""
    if not isinstance(system, HttpSystem) or not system.pids():
        raise NotApplicable("it is not started by the benchmark")
    other = copy.copy(system)
    other.port = free_port()
    return other


@contextlib.asynccontextmanager
async def running(other: HttpSystem) -> AsyncIterator[Kept]:
    """Start the command of a `fresh` system; stopped for certain at the end. It has just been started, not more."""
    argv, env = other.command()
    kept = Kept()
    process = subprocess.Popen(  # noqa: ASYNC220 (it takes a millisecond, before anything is measured)
        kept.wrap(argv),
        env={**other.environ(), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=kept.fds,
        cwd=other.setup.scratch,
    )
    try:
        await asyncio.to_thread(kept.begin, process.pid)
        yield kept
    finally:
        await asyncio.to_thread(_end, kept, process)


def _end(kept: Kept, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, some seconds, then SIGKILL for all that is left of the tree."""
    kept.ask_to_end()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    kept.close()
    process.wait(GRACE_S)
