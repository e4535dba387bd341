"""Work of unknown length that must not hold up the step loop: tokenising long texts, compiling grammars.

It runs in helper threads; the C functions behind it let go of the interpreter. Each *lane* is one thread that works in
order, so a short text never waits for a book, nor a text for a grammar. The step loop puts work in, is woken by
`fileno()` when something is done, and collects it with `take()`. A grammar has a deadline: C code cannot be
interrupted, so its thread is left behind and a new one takes over the lane.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from vllama.engines.llama.prompt import RequestFault

INLINE = 4096
"""Characters of text that are tokenised at once: faster than waking a thread."""

BULK = 256 << 10
"""Characters from which a text counts as long: it goes to a lane of its own, at a low priority."""

GRAMMAR_S = 10.0
"""Seconds a grammar may take to compile, waiting for others included."""

LEFT_BEHIND = 4
"""Threads that may still be busy with grammars nobody waits for; then no further grammar is taken."""

STACK = 16 << 20
"""Bytes of stack: the grammar parser is recursive, and macOS gives threads 512 KiB."""

TOO_SLOW = "the grammar takes too long to compile; use a simpler one"
TOO_MANY = "the server is busy with grammars that take too long to compile"


class Task:
    """One piece of work for a frame. `discarded`: nobody waits for it any more."""

    __slots__ = ("_seconds", "began", "discarded", "due", "fault", "frame", "paused", "value", "work")

    def __init__(self, frame: Any, work: Callable[[], Any], seconds: float | None) -> None:
        self.frame = frame
        self.work = work
        self.due: float | None = None
        self._seconds = seconds
        self.restart(time.monotonic())
        self.began = False
        self.discarded = False
        self.paused = False
        self.value: Any = None
        self.fault: RequestFault | None = None

    def restart(self, now: float) -> None:
        """The clock starts anew."""
        self.due = now + self._seconds if self._seconds is not None else None


class Preparation:
    """See the module. Everything but the work itself happens in the step loop's thread."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._tasks: dict[int, tuple[str, Task]] = {}
        self._done: deque[Task] = deque()
        self._left: list[_Lane] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def fileno(self) -> int:
        """Readable when `take()` has something to give."""
        return self._wake_read

    @property
    def ready(self) -> bool:
        """Whether `take()` has something to give, or a deadline has passed."""
        return bool(self._done) or (bool(self._tasks) and self.patience() == 0.0)

    def patience(self) -> float | None:
        """Seconds until the next deadline, at least 0; None without one."""
        due = [task.due for _, task in self._tasks.values() if task.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def put(self, lane: str, frame: Any, work: Callable[[], Any], seconds: float | None = None) -> None:
        """Let the lane do it. `frame.id` names it. `work` may raise `RequestFault`."""
        task = Task(frame, work, seconds)
        self._tasks[frame.id] = (lane, task)
        self._lane(lane).put(task)

    def cancel(self, id: int) -> bool:
        """Forget the work; True if there was any."""
        found = self._tasks.pop(id, None)
        if found is None:
            return False
        found[1].discarded = True
        return True

    def pause(self, id: int, on: bool) -> None:
        """The request is to begin paused, or not."""
        found = self._tasks.get(id)
        if found is not None:
            found[1].paused = on

    def take(self) -> Iterable[Task]:
        """What is done, or has run out of time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        found = []
        while self._done:
            task = self._done.popleft()
            if task.discarded:
                _close(task.value)
                continue
            self._tasks.pop(task.frame.id, None)
            found.append(task)
        if self._tasks:
            found += self._expire(time.monotonic())
        return found

    def _expire(self, now: float) -> list[Task]:
        late = [(lane, task) for lane, task in self._tasks.values() if task.due is not None and task.due <= now]
        failed = []
        for name in {lane for lane, _ in late}:
            # Also when what keeps the lane busy is nothing that anybody waits for any more.
            replaced = not self._lanes[name].busy or self._replace(name)
            for _, task in (found for found in late if found[0] == name):
                if replaced and not task.began:
                    continue  # it was not its fault: it has its time again
                task.discarded = True
                task.fault = RequestFault("request", TOO_SLOW if task.began else TOO_MANY)
                del self._tasks[task.frame.id]
                failed.append(task)
            if replaced:
                for lane, task in self._tasks.values():
                    if lane == name:
                        task.restart(now)
        return failed

    def _replace(self, name: str) -> bool:
        """Leave the lane's thread to what it is doing; False with too many left behind already."""
        self._left = [lane for lane in self._left if lane.busy]
        if len(self._left) >= LEFT_BEHIND:
            return False
        old = self._lanes.pop(name)
        self._left.append(old)
        for task in old.leave():
            if not task.discarded:
                self._lane(name).put(task)
        return True

    def _lane(self, name: str) -> _Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(self._finished, gentle=name == "bulk")
        return lane

    def _finished(self, task: Task) -> None:
        """In the lane's thread."""
        self._done.append(task)
        # A full pipe wakes as well as one byte more.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"x")


class _Lane:
    def __init__(self, finished: Callable[[Task], None], *, gentle: bool) -> None:
        self._finished = finished
        self._gentle = gentle
        self._waiting: deque[Task] = deque()
        self._signal = threading.Semaphore(0)
        self._left = False
        self.busy = False
        before = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._run, daemon=True).start()
        finally:
            threading.stack_size(before)

    def put(self, task: Task) -> None:
        self._waiting.append(task)
        self._signal.release()

    def leave(self) -> list[Task]:
        """End after what is being done now; gives back what has not been begun."""
        self._left = True
        rest = []
        while True:
            try:
                rest.append(self._waiting.popleft())
            except IndexError:
                break
        self._signal.release()
        return rest

    def _run(self) -> None:
        if self._gentle and hasattr(os, "setpriority") and os.uname().sysname == "Linux":
            # There, a thread has a priority of its own.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            self._signal.acquire()
            try:
                task = self._waiting.popleft()
            except IndexError:
                if self._left:
                    return
                continue
            if task.discarded:
                continue
            self.busy = True
            task.began = True
            try:
                task.value = task.work()
            except RequestFault as fault:
                task.fault = fault
            except Exception as error:  # the lane serves others too
                task.fault = RequestFault("server", f"{type(error).__name__}: {error}")
            self.busy = False
            self._finished(task)


def _close(value: Any) -> None:
    close = getattr(value, "close", None)
    if close is not None:
        close()
