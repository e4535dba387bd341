"""A server for one command: a child process on a free loopback port that lives exactly as long as its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from types import FrameType
from typing import IO

from vllama.cli.client import serves_vllama
from vllama.config import Host
from vllama.errors import ServerError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
LAST_LINES = 5


@contextlib.contextmanager
def private_server(flags: tuple[str, ...] = (), *, debug: bool = False) -> Iterator[Host]:
    """Runs `vllama serve` on a free port of the loopback address; yields where. Gone when the block is left.

    The child holds the read end of a pipe as its standard input. When this process goes, even by
    SIGKILL, the pipe ends and the child with it. It gets a session of its own, so that Ctrl+C reaches only us.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock, tempfile.TemporaryFile() as log:
        host = Host(port=sock.getsockname()[1])
        # -P: a directory "vllama" where the user happens to be is not the package.
        command = [sys.executable, "-P", "-m", "vllama", "serve", "--fd", str(sock.fileno()), "--until-eof"]
        command += ["--host", host.netloc, "--set", "shutdown_grace=0", "--set", "preload=", *flags]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if debug else log,
            pass_fds=(sock.fileno(),),
            start_new_session=True,
        )
        # Our own copy would keep the port open after the child's death, and we would wait for an answer for ever.
        sock.close()
        try:
            with _terminated_in_order():
                _wait_until_up(child, host, log)
                yield host
        finally:
            _stop(child)


def _wait_until_up(child: subprocess.Popen[bytes], host: Host, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not serves_vllama(host):
        if child.poll() is not None:
            raise ServerError(f"the private server ended at once (status {child.returncode}): {_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(f"the private server did not answer within {START_TIMEOUT_S:.0f} s: {_tail(log)}")
        time.sleep(0.02)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").strip().splitlines()
    text = " | ".join(lines[-LAST_LINES:])
    return text.removeprefix("Error: ") or "it said nothing"


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Its workers see their own pipes end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextlib.contextmanager
def _terminated_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block like any other exit, so that the child is gone before us."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
