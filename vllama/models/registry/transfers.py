"""All pulls and pushes of a server, in an event loop of their own: unpacking TLS never delays an answer's tokens.

A blob that two pulls need is downloaded once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from vllama.errors import BusyError, ServerError, VllamaError
from vllama.models.names import Name
from vllama.models.registry import addresses
from vllama.models.registry.download import Download
from vllama.models.registry.limits import Limits
from vllama.models.registry.pull import Status, pull
from vllama.models.registry.push import push
from vllama.models.registry.session import Access
from vllama.models.store import Store

log = logging.getLogger(__name__)

_Item = Status | BaseException | None
"""A status, the error that ended it, or None for its good end."""
_Work = Callable[[], AsyncGenerator[Status, None]]


class Transfers:
    """Safe to use from any thread and event loop. The loop starts with the first transfer and ends with `close`."""

    def __init__(
        self,
        store: Store,
        *,
        prune: bool = True,
        limits: Limits | None = None,
        key_path: Path | None = None,
        resolve: addresses.Resolve = addresses.resolve,
    ) -> None:
        """`prune` removes what a replaced model alone had. `key_path` is Ollama's own by default."""
        self._store = store
        self._prune = prune
        self._limits = limits or Limits()
        self._key_path = key_path
        self._resolve = resolve
        self._downloads: dict[str, Download] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def pull(self, name: Name, *, insecure: bool = False) -> AsyncGenerator[Status, None]:
        """Ollama's status lines while the model comes. Closing the iterator ends the pull; what came stays.

        Raises `ServerError` with Ollama's text. `insecure` means http.
        """
        return self._events(lambda: self._pull(name, insecure))

    def pull_blocking(self, name: Name, *, insecure: bool = False) -> Iterator[Status]:
        """The same for a thread that may wait."""
        items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        future = self._submit(lambda: self._pull(name, insecure), items.put)
        try:
            while (item := items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def push(self, name: Name, *, insecure: bool = False) -> AsyncGenerator[Status, None]:
        """The status lines of a push, without "retrieving manifest". Raises `ServerError`."""
        return self._events(lambda: push(self._store, name, self._access(name, insecure)))

    def close(self) -> None:
        """Ends all transfers with an error that says so. What came stays for the next attempt."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _pull(self, name: Name, insecure: bool) -> AsyncGenerator[Status, None]:
        return pull(self._store, name, self._access(name, insecure), self._shared, prune=self._prune)

    def _access(self, name: Name, insecure: bool) -> Access:
        return Access(name, insecure=insecure, limits=self._limits, key_path=self._key_path, resolve=self._resolve)

    @contextlib.asynccontextmanager
    async def _shared(self, access: Access, digest: str, size: int) -> AsyncIterator[Download]:
        download = self._downloads.get(digest)
        if download is None or download.failed or download.size != size:
            download = Download(access, digest, size, self._store.blob_path(digest))
            self._downloads[digest] = download
        download.waiters += 1
        try:
            yield download
        finally:
            download.waiters -= 1
            if not download.waiters:
                if self._downloads.get(digest) is download:
                    del self._downloads[digest]
                await download.close()

    async def _events(self, work: _Work) -> AsyncGenerator[Status, None]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[_Item] = asyncio.Queue()

        def emit(item: _Item) -> None:
            with contextlib.suppress(RuntimeError):  # who asked has gone, and the loop with it
                loop.call_soon_threadsafe(items.put_nowait, item)

        future = self._submit(work, emit)
        try:
            while (item := await items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            future.cancel()

    def _submit(self, work: _Work, emit: Callable[[_Item], None]) -> Future[None]:
        loop = self._running()
        return asyncio.run_coroutine_threadsafe(_run(work, emit), loop)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise BusyError("the server is going down")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="registry", daemon=True)
                self._thread.start()
            return self._loop


async def _run(work: _Work, emit: Callable[[_Item], None]) -> None:
    """One transfer; says what becomes of it in any case."""
    end: _Item = ServerError("internal error, see the server's log")
    try:
        async with contextlib.aclosing(work()) as events:
            async for status in events:
                emit(status)
        end = None
    except asyncio.CancelledError:
        end = BusyError("the server is going down")
        raise
    except VllamaError as error:
        end = error
    except Exception:
        log.exception("a transfer failed")
    finally:
        emit(end)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
