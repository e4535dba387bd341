"""Waiting for a thread from an event loop, where the thread may wait long: no place in the loop's own pool is taken."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def started(work: Callable[[], T], *, name: str, unwanted: Callable[[T], None] | None = None) -> asyncio.Future[T]:
    """Runs `work` in a thread of its own, which does not keep the process alive.

    Cancelling the future does not end the thread: a result that nobody waits for any more goes to `unwanted`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def refuse(result: T) -> None:
        if unwanted is not None:
            unwanted(result)

    def succeed(result: T) -> None:
        if future.cancelled():
            refuse(result)
        else:
            future.set_result(result)

    def fail(error: BaseException) -> None:
        if not future.cancelled():
            future.set_exception(error)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(succeed, result)
        except RuntimeError:
            refuse(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def finished(future: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """The thread's result. Who is cancelled calls `stop`, which must make the thread end soon, and waits for that."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        while not future.done():
            # Whatever is cancelled again meanwhile: the thread still uses what the caller is about to close.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait((future,))
        if not future.cancelled():
            future.exception()  # has been looked at
        raise
