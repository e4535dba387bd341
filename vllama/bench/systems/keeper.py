"""Starts one program and lets nothing of it outlive the harness, however either of them ends.

Run as a script: `python -P keeper.py ORDERS STATUS PROGRAM [ARGUMENT...]`, where ORDERS and STATUS are inherited pipe
ends. "T" on ORDERS asks the program to end (SIGTERM); the end of ORDERS, which the kernel brings about even when the
harness was killed with -9, kills every process that descends from the program. STATUS gets one line when the program
runs ("pid PID TIME", TIME on the monotonic clock in ns) or cannot ("failed REASON"), and one when all of it is gone
("exit CODE"). On Linux this process adopts orphans, so a child that outlived its parent is found and its CPU time is
not lost; and the program gets SIGKILL if this process itself is killed.

It keeps the harness free of signal handlers and its own session keeps Ctrl-C away from servers that still measure.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SWEEPS = 500
"""How often the descendants are killed and looked for again, 10 ms apart: one may be about to fork."""


def main(argv: list[str]) -> int:
    """See the module's docstring. The exit code says nothing about the program's."""
    orders, status, command = int(argv[0]), int(argv[1]), argv[2:]
    for pipe in (orders, status):
        os.set_inheritable(pipe, False)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _nothing)  # a handler and not SIG_IGN, which the program would inherit
    wakes, wake = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    failure, failed = os.pipe()  # closed by a successful exec
    began = time.monotonic_ns()
    program = os.fork()
    if not program:
        _become(command, failed)
    os.close(failed)
    with os.fdopen(failure) as refusal:
        reason = refusal.read()
    if reason:
        _say(status, f"failed {reason}")
        return 1
    # The program's standard streams belong to it alone: who reads them must see their end.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    _say(status, f"pid {program} {began}")
    code = _watch(program, orders, wakes)
    swept = _sweep(program)
    _say(status, f"exit {code if code is not None else swept}")
    return 0


def _watch(program: int, orders: int, wakes: int) -> int | None:
    """The program's exit code, or None when the harness wants it dead."""
    while True:
        ready, _, _ = select.select([orders, wakes], [], [])
        if wakes in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wakes, 4096)
            if (code := _reap(program)) is not None:
                return code
        if orders in ready:
            order = os.read(orders, 1)
            if not order:
                return None
            os.kill(program, signal.SIGTERM)
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.resume()  # one that was paused could not hear it


def _reap(program: int) -> int | None:
    """Collect children that ended; the program's exit code if it is among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
    return code


def _sweep(program: int) -> int:
    """Kill all descendants, and those that they had started meanwhile; the program's exit code."""
    code = None
    for _ in range(SWEEPS):
        found = psutil.Process().children(recursive=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)  # where orphans are not adopted, the group still finds them
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        code = _reap(program) if code is None else code
        if not found:
            break
        time.sleep(0.01)
    return -signal.SIGKILL if code is None else code


def _become(command: list[str], failed: int) -> NoReturn:
    """In the forked child: lead a session of its own, die with the parent, be the program."""
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.execvp(command[0], command)
    except OSError as error:
        _say(failed, f"{command[0]}: {error.strerror}")
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _say(status: int, line: str) -> None:
    # Nobody reads when the harness is dead; that is no reason to leave its servers running.
    with contextlib.suppress(OSError):
        os.write(status, line.replace("\n", " ").encode() + b"\n")


def _nothing(_number: int, _frame: object) -> None:
    """Wakes `select` up."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
