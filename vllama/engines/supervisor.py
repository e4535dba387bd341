"""A child process that lives no longer than this one.

Whatever way the gateway goes, SIGKILL included, the kernel closes its end of the death pipe, and the child, whose
watcher thread sleeps on the other end, leaves. The child has its own session and process group, so that Ctrl-C in a
terminal reaches the gateway first and the gateway decides, and so that a kill takes its children along. What the
child writes to stderr is kept for error texts.

The death pipe also carries pings: while the child has work, it is asked once a second, and its watcher thread answers
on the pulse pipe how long it has been busy with its current step. No answer at all (it was stopped, or its interpreter
hangs) or a step without end (a driver hangs) end it. Ticks are counted, not seconds: a gateway that was itself
stopped for a minute must not blame the child. An idle child is left alone.
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
from collections.abc import Callable
from pathlib import Path

from vllama.engines import pages
from vllama.engines.pulse import PULSE

log = logging.getLogger("vllama.worker")

KEPT_LINES = 50
TERM_GRACE_S = 2.0

TICK_S = 1.0
"""Seconds between two looks at a child that has work."""

SILENT_TICKS = 10
"""So many ticks without an answer end it."""

STEP_LIMIT_S = 600.0
"""Seconds that a single step may take: a long one on a slow machine takes a minute or two."""


class Child:
    """One supervised Python process that runs `module` with three descriptors as arguments: a socket to us, the death
    pipe to read from, the pulse pipe to write to.

    `start()` returns our end of the socket. All methods belong to one event loop. `verdict` says why we ended it, ""
    if we did not. `step_limit` is in seconds. `on_line` sees each line on its stderr.
    """

    def __init__(self, module: str, name: str, *, step_limit: float = 0.0) -> None:
        self.name = name
        self.stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self.verdict = ""
        self.on_line: Callable[[str], None] | None = None
        self._module = module
        self._step_limit = step_limit or STEP_LIMIT_S
        self._process: asyncio.subprocess.Process | None = None
        self._death = -1
        self._pulse = -1
        self._reader: asyncio.Task[None] | None = None
        self._busy: Callable[[], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        self._silent = 0
        self._orphans_ended = False

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
        self._pulse, beating = os.pipe()
        os.set_blocking(self._death, False)
        os.set_blocking(self._pulse, False)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                # Not the working directory's modules: it may be anybody's.
                "-P",
                "-m",
                self._module,
                str(theirs.fileno()),
                str(watched),
                str(beating),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(), watched, beating),
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
            os.close(beating)
        asyncio.get_running_loop().add_reader(self._pulse, self._answered)
        self._reader = asyncio.create_task(self._read_stderr())
        return ours

    def watch(self, busy: Callable[[], bool]) -> None:
        """From now on see that it answers, as long as `busy` says that it has work. Call it whenever work begins."""
        self._busy = busy
        if self._timer is None and self._death >= 0:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._death < 0 or self.returncode is not None:
            return
        if self._asked:
            self._silent += 1
            if self._silent >= SILENT_TICKS:
                self.condemn(f"it did not answer for {self._silent * TICK_S:g} s")
                return
        elif self._busy is not None and self._busy():
            with contextlib.suppress(OSError):
                os.write(self._death, b"?")
                self._asked = True
        else:
            return
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _answered(self) -> None:
        try:
            data = os.read(self._pulse, 4096)
        except BlockingIOError:
            return
        if not data:
            self._drop_pulse()
            return
        self._asked = False
        self._silent = 0
        busy_s = PULSE.unpack_from(data)[0] / 1e9 if len(data) >= PULSE.size else 0.0
        if busy_s > self._step_limit:
            self.condemn(f"a step has taken {busy_s:.0f} s")

    def condemn(self, verdict: str) -> None:
        """End it now, and remember why."""
        if self.returncode is None:
            self.verdict = self.verdict or verdict
            log.error("ending %s[%d]: %s", self.name, self.pid, verdict)
            self.kill()

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

    def kill_group(self) -> None:
        """SIGKILL to what is left of its process group after it ended itself: descendants that outlived it."""
        if self._process is not None and not self._orphans_ended:
            self._orphans_ended = self._process.returncode is not None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Its last lines on stderr."""
        return "\n".join(self.stderr)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._death >= 0:
            os.close(self._death)
            self._death = -1
        self._drop_pulse()

    def _drop_pulse(self) -> None:
        if self._pulse >= 0:
            asyncio.get_running_loop().remove_reader(self._pulse)
            os.close(self._pulse)
            self._pulse = -1

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
            if self.on_line is not None:
                self.on_line(text)
            log.info("%s[%d] %s", self.name, self.pid, text)


def _environment() -> dict[str, str]:
    """Ours, and the place that this package was imported from (a checkout need not be installed)."""
    environment = dict(os.environ)
    home = str(Path(__file__).resolve().parents[2])
    path = environment.get("PYTHONPATH")
    # Without it a failed assertion starts a debugger that holds everybody up for seconds.
    environment.setdefault("GGML_NO_BACKTRACE", "1")
    environment["PYTHONPATH"] = f"{home}{os.pathsep}{path}" if path else home
    return pages.environment(environment)
