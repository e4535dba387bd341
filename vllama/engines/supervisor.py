"""A child process that lives no longer than this one.

Whatever way the gateway goes, SIGKILL included, the kernel closes its end of the death pipe, and the child, whose
watcher thread sleeps on the other end, leaves. The child has its own session, so that Ctrl-C in a terminal
reaches the gateway first and the gateway decides. What the child writes to stderr is kept for error texts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from pathlib import Path

log = logging.getLogger("vllama.worker")

KEPT_LINES = 50
TERM_GRACE_S = 2.0


class Child:
    """One supervised Python process that runs `module` with a socket to it as first, the death pipe as second argument.

    `start()` returns our end of the socket. All methods belong to one event loop.
    """

    def __init__(self, module: str, name: str) -> None:
        self.name = name
        self.stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._module = module
        self._process: asyncio.subprocess.Process | None = None
        self._death = -1
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """0 before `start()`."""
        return self._process.pid if self._process is not None else 0

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.returncode if self._process is not None else None

    async def start(self) -> socket.socket:
        """Spawn it. Raises OSError."""
        ours, theirs = socket.socketpair()
        watched, self._death = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Not the working directory's modules: it may be anybody's.
                "-P",
                "-m",
                self._module,
                str(theirs.fileno()),
                str(watched),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(), watched),
                start_new_session=True,
                env=_environment(),
                limit=1 << 16,
            )
        except BaseException:
            ours.close()
            self._release()
            raise
        finally:
            theirs.close()
            os.close(watched)
        self._reader = asyncio.create_task(self._read_stderr())
        return ours

    async def wait(self) -> int:
        """Its exit code, once it is gone and its last words have been read."""
        assert self._process is not None, "start() first"
        code = await self._process.wait()
        if self._reader is not None:
            # A grandchild could keep the pipe open.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        self._release()
        return code

    async def stop(self, grace: float = TERM_GRACE_S) -> None:
        """End it: by closing the death pipe, then by SIGKILL to its process group. Twice is fine."""
        self._release()
        if self._process is None:
            return
        if self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), grace)
            except TimeoutError:
                self.kill()
                await self._process.wait()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None

    def kill(self) -> None:
        """SIGKILL to its process group, now."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Its last lines on stderr."""
        return "\n".join(self.stderr)

    def _release(self) -> None:
        if self._death >= 0:
            os.close(self._death)
            self._death = -1

    async def _read_stderr(self) -> None:
        assert self._process is not None
        stream = self._process.stderr
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit: the rest comes as lines of its own
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self.stderr.append(text)
            log.info("%s[%d] %s", self.name, self.pid, text)


def _environment() -> dict[str, str]:
    """Ours, and the place that this package was imported from (a checkout need not be installed)."""
    environment = dict(os.environ)
    home = str(Path(__file__).resolve().parents[2])
    path = environment.get("PYTHONPATH")
    # Without it a failed assertion starts a debugger that holds everybody up for seconds.
    environment.setdefault("GGML_NO_BACKTRACE", "1")
    environment["PYTHONPATH"] = f"{home}{os.pathsep}{path}" if path else home
    return environment
