"""One generation as its reader sees it: an async iterator of events with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from vllama.engines.base import Event
from vllama.errors import VllamaError

HIGH = 256
"""Events that wait to be read before the worker is told to pause this generation."""

LOW = 64
"""Events left when it is told to go on."""


class Stream:
    """Filled by `push`, `end` and `fail`; read by one task with `async for`.

    `close` is called once when the reader leaves before the end, `pause(True)` when it falls behind and `pause(False)`
    when it has caught up. A cancelled or dropped reader counts as one that left, as with an async generator.
    """

    __slots__ = ("_close", "_done", "_error", "_events", "_loop", "_pause", "_paused", "_waiter")

    def __init__(self, close: Callable[[], None], pause: Callable[[bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: VllamaError | None = None
        self._done = False
        self._paused = False
        self._close: Callable[[], None] | None = close
        self._pause = pause

    def push(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)
        if len(self._events) > HIGH and not self._paused:
            self._paused = True
            self._pause(True)
        self._wake()

    def end(self) -> None:
        """The event pushed last was the last one."""
        self._done = True
        self._close = None
        self._wake()

    def fail(self, error: VllamaError) -> None:
        """Raise this after what was pushed so far."""
        self._error = error
        self.end()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        events = self._events
        while not events:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._done:
                raise StopAsyncIteration
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            except asyncio.CancelledError:
                self._leave()
                raise
            finally:
                self._waiter = None
        event = events.popleft()
        if self._paused and len(events) <= LOW:
            self._paused = False
            if not self._done:
                self._pause(False)
        return event

    async def aclose(self) -> None:
        """The reader wants no more; twice is fine."""
        self._leave()
        self._events.clear()
        self._error = None

    def _leave(self) -> None:
        self._done = True
        close, self._close = self._close, None
        if close is not None:
            close()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __del__(self) -> None:
        # The collector runs in any thread.
        if self._close is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close)
