"""Work that a client can make large, done in processes apart: reading big bodies, rendering templates, schemas.

A thread would not do: it takes the interpreter from the event loop for up to 5 ms at a time, C functions such as a
JSON parser keep it as long as they like, and a core is taken from the model at full priority. These processes
have a lower priority, a memory limit and a deadline; one that passes it is killed. They are started when there is
first something for them, and end by themselves after a minute without work.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from vllama.errors import BusyError, RequestError, ServerError, VllamaError

PROCESSES = 2
"""At most, so that one hostile request does not keep everybody with a large body waiting."""

WAITING = 64
"""Calls that may wait for a process; one more is answered with 503."""

SECONDS = 20.0
"""What one call may take unless it says otherwise, starting the process included."""

KEPT = 8 << 20
"""Bytes of data after which a process is not used again: its memory has grown."""

TOO_SLOW = "the request takes too long to prepare; use a smaller or simpler one"
TOO_MUCH = "the request takes too much memory to prepare; use a smaller or simpler one"

HEAD = struct.Struct("!QQ")
"""Length of the pickle and of the raw bytes behind it."""

P = ParamSpec("P")
T = TypeVar("T")


class Died(Exception):
    """The process ended before it answered."""


class Apart:
    """The processes. `call` may be used from any event loop; `close` ends them, later calls start new ones."""

    def __init__(self, processes: int = PROCESSES) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._idle: list[_Process] = []
        self._running: set[_Process] = set()
        self._calls = 0

    async def call(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """`function(*arguments)`, which must be a function of a module, with arguments that can be pickled.

        What it raises of `VllamaError` is raised here. Raises `RequestError` when it takes too long or too much memory.
        """
        return await self._submit(function, (arguments, named), None, SECONDS)

    async def read(self, function: Callable[[bytes], T], parts: Sequence[bytes], seconds: float = SECONDS) -> T:
        """`function` of the bytes that the parts make together; they are not joined here. Raises like `call`."""
        return await self._submit(function, ((), {}), parts, seconds)

    async def _submit(
        self,
        function: Callable[..., T],
        arguments: tuple[tuple[object, ...], dict[str, object]],
        data: Sequence[bytes] | None,
        seconds: float,
    ) -> T:
        with self._lock:
            if self._calls >= self._processes + WAITING:
                raise BusyError()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._processes, thread_name_prefix="apart")
            pool = self._pool
            self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, self._run, function, arguments, data, seconds)
        finally:
            with self._lock:
                self._calls -= 1

    def _run(
        self,
        function: Callable[..., T],
        arguments: tuple[tuple[object, ...], dict[str, object]],
        data: Sequence[bytes] | None,
        seconds: float,
    ) -> T:
        """In a thread of the pool, which waits most of the time."""
        due = time.monotonic() + seconds
        head = pickle.dumps((function, *arguments, data is not None), 5)
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
                used = process is not None
                process = process or _Process()
                self._running.add(process)
            try:
                answer = process.ask(head, data or (), due)
            except TimeoutError:
                process.kill()
                raise RequestError(TOO_SLOW) from None
            except (Died, OSError):
                process.kill()
                if process.closed:
                    raise BusyError("the server is shutting down") from None
                if used:
                    continue  # it had just ended for want of work
                raise RequestError(TOO_MUCH) from None
            except BaseException:
                process.kill()
                raise
            finally:
                with self._lock:
                    self._running.discard(process)
            if sum(map(len, data or ())) > KEPT or len(answer) > KEPT:
                process.kill()
            else:
                with self._lock:
                    self._idle.append(process)
            result: T = _result(answer)
            return result

    def close(self) -> None:
        """End all processes; calls under way fail."""
        with self._lock:
            pool, self._pool = self._pool, None
            processes = [*self._idle, *self._running]
            self._idle.clear()
        for process in processes:
            process.closed = True
            process.kill()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(answer: bytearray) -> Any:
    kind, value = pickle.loads(answer)
    if kind == "value":
        return value
    if kind == "error":
        assert isinstance(value, VllamaError)
        raise value
    if kind == "memory":
        raise RequestError(TOO_MUCH)
    raise ServerError(f"internal error in a helper process: {value}")


class _Process:
    """One process, and our end of its socket."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        watched, self._death = os.pipe()
        self._killed = threading.Lock()
        self.closed = False
        try:
            self._child = subprocess.Popen(
                # Not the working directory's modules: it may be anybody's.
                [sys.executable, "-P", "-m", "vllama.core.apart_child", str(theirs.fileno()), str(watched)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), watched),
                # Ctrl+C is the server's to handle.
                start_new_session=True,
            )
        except BaseException:
            os.close(self._death)
            self._socket.close()
            raise
        finally:
            theirs.close()
            os.close(watched)

    def ask(self, head: bytes, data: Sequence[bytes], due: float) -> bytearray:
        """The pickled answer. Raises `TimeoutError` at `due` (monotonic seconds), `Died`, `OSError`."""
        self._send(HEAD.pack(len(head), sum(map(len, data))) + head, due)
        for part in data:
            self._send(part, due)
        size, _ = HEAD.unpack(self._receive(HEAD.size, due))
        return self._receive(size, due)

    def _send(self, data: bytes, due: float) -> None:
        self._limit(due)
        self._socket.sendall(data)

    def _receive(self, size: int, due: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._limit(due)
            count = self._socket.recv_into(view)
            if not count:
                raise Died
            view = view[count:]
        return data

    def _limit(self, due: float) -> None:
        left = due - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def kill(self) -> None:
        """End it; twice is fine, and from any thread."""
        if not self._killed.acquire(blocking=False):
            return
        self._child.kill()
        self._child.wait()
        self._socket.close()
        os.close(self._death)
