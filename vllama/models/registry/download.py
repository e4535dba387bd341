"""One blob on its way into the store: parts in parallel, resumed after a crash, checked, and only then visible."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from vllama.errors import ServerError
from vllama.models.registry.body import Body
from vllama.models.registry.failures import RegistryError, disk
from vllama.models.registry.parts import Part, Partial
from vllama.models.registry.prefix import PrefixDigest
from vllama.models.registry.session import Access, Session
from vllama.models.registry.threads import finished, started

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_ASK_AGAIN_S = 0.2
_HASH_PIECE = 4 << 20
_SYNC_EVERY = 128 << 20


class _NoRangesError(Exception):
    """The registry sends the whole blob whatever is asked for."""


class DigestMismatchError(ServerError):
    """What came is not what the manifest promised."""

    def __init__(self, want: str, got: str) -> None:
        super().__init__(f"digest mismatch, file must be downloaded again: want {want}, got {got}")


class Download:
    """A blob that one or more pulls wait for. Made and used in one event loop."""

    def __init__(self, access: Access, digest: str, size: int, blob: Path) -> None:
        self.access = access
        self.digest = digest
        self.size = size
        self.waiters = 0
        self._blob = blob
        self._before = _stamp(blob)  # a damaged blob is there as well: another process's is a new one
        self._partial = Partial(blob, size, access.limits)
        self._others = 0
        self._there = False
        self._closing = False
        self._fetch = asyncio.create_task(self._run())
        self._check: asyncio.Task[None] | None = None
        self._digest = PrefixDigest(-1, size)
        self._hashing: asyncio.Future[bool] | None = None
        self._synced = 0
        self._syncing = threading.Lock()

    @property
    def completed(self) -> int:
        """Bytes that are there."""
        return self.size if self._there else self._partial.completed or self._others

    @property
    def failed(self) -> bool:
        """Whether it has ended, and not well."""
        tasks = (self._fetch, self._check)
        return any(task is not None and task.done() and (task.cancelled() or task.exception()) for task in tasks)

    async def fetched(self, seconds: float) -> bool:
        """Waits a while for all bytes to be there. Raises `ServerError` when that failed."""
        done, _ = await asyncio.wait((self._fetch,), timeout=seconds)
        if done:
            self._fetch.result()
        return bool(done)

    async def verified(self) -> None:
        """Checks the digest and makes the blob visible. Raises `DigestMismatchError`; nothing is left then."""
        if self._check is None:
            self._check = asyncio.create_task(self._verify())
        await asyncio.shield(self._check)

    async def close(self) -> None:
        """Ends it. What came so far stays for the next attempt."""
        self._closing = True
        self._fetch.cancel()
        await asyncio.gather(self._fetch, return_exceptions=True)
        await self._end_digest()
        if self._check is not None:  # not cancelled: it may be about to rename
            await asyncio.gather(self._check, return_exceptions=True)
        self._partial.release()

    async def _run(self) -> None:
        try:
            while not await asyncio.to_thread(self._begin):
                # Another process is at it: nothing to do but to look how it fares.
                self._others = await asyncio.to_thread(self._partial.noted)
                await asyncio.sleep(_ASK_AGAIN_S)
            if self._there:
                return
            _check_room(self._blob.parent, self.size - self._partial.completed)
            await self._begin_digest()
            async with Session(self.access) as session:
                try:
                    await self._parts(session)
                except _NoRangesError:
                    await asyncio.to_thread(self._partial.restart)
                    await self._begin_digest()
                    await self._parts(session)
        except OSError as error:
            raise disk(error) from error
        except ServerError:
            # Of a blob that was refused nothing stays, not even an empty file of the size that was claimed.
            if self._partial.handle >= 0 and not self._partial.completed:
                await asyncio.to_thread(self._partial.discard)
            raise

    async def _begin_digest(self) -> None:
        """Hashes from the beginning, now or again, while the rest arrives: little is left to do at the end."""
        await self._end_digest()
        self._digest = PrefixDigest(self._partial.handle, self.size)
        self._digest.grow(self._partial.prefix)
        self._hashing = started(self._digest.follow, name="registry digest")

    async def _end_digest(self) -> None:
        """Nobody reads the file any more."""
        self._digest.stop()
        if self._hashing is not None:
            await asyncio.wait((self._hashing,))
            if not self._hashing.cancelled():
                self._hashing.exception()  # has been looked at

    def _begin(self) -> bool:
        """True if it is ours to download, or if another process has just done it (`_there`)."""
        ours = self._partial.acquire()
        self._there = has_size(self._blob, self.size) and _stamp(self._blob) != self._before
        if ours and self._there:
            self._partial.discard()
        return ours or self._there

    async def _parts(self, session: Session) -> None:
        slots = asyncio.Semaphore(self.access.limits.streams)

        async def fetch(part: Part) -> None:
            async with slots:
                await self._part(session, part)

        tasks = [asyncio.create_task(fetch(part)) for part in self._partial.parts if not part.done]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _part(self, session: Session, part: Part) -> None:
        """Tries until the part is there. Only tries that bring nothing new count."""
        limits = self.access.limits
        failures, best = 0, part.completed
        while not part.done:
            try:
                await self._range(session, part)
            except RegistryError as error:
                if not error.again:
                    raise
                failures = 1 if part.completed > best else failures + 1
                best = max(best, part.completed)
                if failures >= limits.retries:
                    raise RegistryError(f"max retries exceeded: {error.text}") from error
                await asyncio.sleep(limits.backoff_s * 2 ** (failures - 1))
            finally:
                if part.completed > part.saved:
                    self._partial.save(part)

    async def _range(self, session: Session, part: Part) -> None:
        start, end = part.offset + part.completed, part.offset + part.size - 1
        url = self.access.url("blobs", self.digest)
        async with session.open("GET", url, {"Range": f"bytes={start}-{end}"}, blob=True) as response:
            if response.status_code == 206:
                self._check_range(response.headers.get("content-range", ""), start)
            elif len(self._partial.parts) > 1:
                raise _NoRangesError
            else:
                self._check_length(response.headers.get("content-length"))
                part.completed = 0
                part.saved = -1
                await self._begin_digest()
            source = response.stream
            assert isinstance(source, Body)
            await finished(started(lambda: self._receive(source, part), name="registry part"), source.abort)
        if not part.done:
            raise RegistryError("unexpected EOF", again=True)

    def _receive(self, source: Body, part: Part) -> None:
        """Writes the body in pieces of some size. For a thread; raises OSError of the disk, else `httpx.HTTPError`."""
        limits = self.access.limits
        buffer = memoryview(bytearray(min(limits.piece, limits.save_step(part.size))))
        left = part.size - part.completed
        while left:
            piece, filled = buffer[:left], 0
            try:
                while filled < len(piece):
                    count = source.readinto(piece[filled:], limits.stall_s)
                    if not count:
                        return
                    filled += count
            finally:
                # Also of a connection that broke, and of a pull that was cancelled.
                if filled:
                    self._partial.write(part, piece[:filled])
                    self._grew()
            left -= filled

    def _grew(self) -> None:
        """Goes on hashing, and has what came sent to the disk, so that little is left of that, too, at the end."""
        self._digest.grow(self._partial.prefix)
        if self._partial.completed - self._synced >= _SYNC_EVERY and self._syncing.acquire(blocking=False):
            self._synced = self._partial.completed
            threading.Thread(target=self._sync, name="registry sync", daemon=True).start()

    def _sync(self) -> None:
        try:
            with contextlib.suppress(OSError):  # the last one, which counts, will say it
                self._partial.sync()
        finally:
            self._syncing.release()

    def _check_range(self, header: str, start: int) -> None:
        match = _CONTENT_RANGE.fullmatch(header.strip())
        if match is None or int(match[1]) != start:
            raise RegistryError("the registry sent another range than the one that was asked for")
        if match[3] != "*":
            self._check_length(match[3])

    def _check_length(self, said: str | None) -> None:
        if said is not None and said.isdecimal() and int(said) != self.size:
            raise RegistryError(f"{self.digest} has {said} bytes in the registry, but {self.size} in the manifest")

    async def _verify(self) -> None:
        await asyncio.shield(self._fetch)
        if self._there:
            got = await asyncio.to_thread(file_digest, self._blob, self._stopped)
            if got != self.digest:
                raise DigestMismatchError(self.digest, got)
            return
        try:
            assert self._hashing is not None
            whole, _ = await asyncio.gather(asyncio.shield(self._hashing), asyncio.to_thread(self._partial.sync))
            if not whole:
                raise ServerError("the pull was cancelled")
            got = self._digest.digest()
            if got != self.digest:
                await asyncio.to_thread(self._partial.discard)
                raise DigestMismatchError(self.digest, got)
            await asyncio.to_thread(self._partial.commit)
        except EOFError as error:
            raise ServerError(f"{self._partial.path.name} was cut by another program; pull the model again") from error
        except OSError as error:
            raise disk(error) from error

    def _stopped(self) -> bool:
        return self._closing


def file_digest(path: Path, stopped: Callable[[], bool]) -> str:
    """`sha256:` and the hash of a file; reads it all. Raises OSError, or `ServerError` once `stopped()` is true."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASH_PIECE):
            found.update(piece)
            if stopped():
                raise ServerError("the pull was cancelled")
    return "sha256:" + found.hexdigest()


def has_size(path: Path, size: int) -> bool:
    """Whether a blob is there and as long as it should be."""
    with contextlib.suppress(OSError):
        return path.is_file() and path.stat().st_size == size
    return False


def _stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ServerError(f"not enough space for the model: {needed} bytes needed, {free} free")
