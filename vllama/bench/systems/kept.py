"""A program that a `keeper` started: the harness's end of the pipes."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from vllama.bench.probe import TreeMeter, descendants

KEEPER = Path(__file__).with_name("keeper.py")
STARTED_S = 30.0
"""How long a keeper may take to say that the program runs: far below a second but on a machine in trouble."""


class Kept:
    """Use: `Popen(kept.wrap(argv), pass_fds=kept.fds)`, `kept.begin(popen.pid)`, and in the end `kept.close()`.

    `pid` is the program, `keeper` the process that watches over it, `spawned` when the program was started (ns,
    monotonic). `meter` measures the program and all that descends from it, without the keeper.
    """

    def __init__(self) -> None:
        self._orders_end, self._orders = os.pipe()
        self._status, self._status_end = os.pipe()
        self._said = b""
        self.keeper = 0
        self.pid = 0
        self.spawned = 0
        self.meter = TreeMeter(self.pids, lambda: self.keeper)

    @property
    def fds(self) -> tuple[int, int]:
        """What the keeper inherits."""
        return self._orders_end, self._status_end

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command line of the keeper for this one."""
        return [sys.executable, "-P", str(KEEPER), *map(str, self.fds), *argv]

    def begin(self, keeper: int) -> None:
        """Wait until the program runs. Raises `OSError` if it cannot."""
        self.keeper = keeper
        for end in self.fds:
            os.close(end)
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._status], [], [], STARTED_S)
            data = os.read(self._status, 4096) if ready else b""
            if not data:
                raise OSError("the process that watches over the program did not start it")
            self._said += data
        first, _, self._said = self._said.partition(b"\n")
        word, _, rest = first.decode(errors="replace").partition(" ")
        if word != "pid":
            raise OSError(rest)
        pid, spawned = rest.split()
        self.pid, self.spawned = int(pid), int(spawned)
        os.set_blocking(self._status, False)

    def poll(self) -> int | None:
        """The program's exit code (negative: the signal), once everything that it started is gone too."""
        with contextlib.suppress(OSError):  # nothing said since, or closed
            self._said += os.read(self._status, 4096)
        word, _, rest = self._said.decode(errors="replace").partition(" ")
        return int(rest) if word == "exit" else None

    def pids(self) -> list[int]:
        """The program and everything that descends from it, orphans included, the program first."""
        return sorted(descendants(self.keeper), key=lambda pid: pid != self.pid) if self.keeper else []

    def family(self) -> list[psutil.Process]:
        """The same, and the keeper, as objects that notice when a process id was given to somebody else."""
        family = []
        for pid in (*self.pids(), self.keeper):
            with contextlib.suppress(psutil.Error):
                family.append(psutil.Process(pid))
        return family

    def ask_to_end(self) -> None:
        """SIGTERM for the program."""
        with contextlib.suppress(OSError):
            os.write(self._orders, b"T")

    def kill(self) -> None:
        """SIGKILL for all that is left of it. Twice is fine."""
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    def close(self) -> None:
        """`kill`, and give the other pipe end back. `poll` knows the exit code only before this."""
        self.kill()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
