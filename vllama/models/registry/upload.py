"""One blob to a registry: not at all if it is there, by a mount if another repository has it, else in chunks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from vllama.models.manifest import Layer
from vllama.models.names import Name
from vllama.models.registry.failures import FileMissingError, RegistryError
from vllama.models.registry.parts import Part, split
from vllama.models.registry.session import Content, Session

_READ = 1 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_BYTES = "application/octet-stream"


class Upload:
    """`run` does it; `sent` says how many bytes have left, meanwhile."""

    def __init__(self, session: Session, layer: Layer, blob: Path) -> None:
        self.sent = 0
        self._session = session
        self._access = session.access
        self._layer = layer
        self._blob = blob
        self._hashes: list[bytes] = []

    async def run(self) -> None:
        """Raises `RegistryError`, or OSError when the blob cannot be read."""
        if await self._is_there():
            self.sent = self._layer.size
            return
        failures = 0
        while True:
            try:
                await self._whole()
                return
            except RegistryError as error:
                failures += 1
                if not error.again:
                    raise
                if failures >= self._access.limits.retries:
                    raise RegistryError(f"max retries exceeded: {error.text}") from error
                await asyncio.sleep(self._access.limits.backoff_s * 2 ** (failures - 1))

    async def _is_there(self) -> bool:
        try:
            async with self._session.open("HEAD", self._access.url("blobs", self._layer.digest)):
                return True
        except FileMissingError:
            return False

    async def _whole(self) -> None:
        """One upload from its beginning to its end."""
        self.sent, self._hashes = 0, []
        url = await self._start()
        if url is None:
            self.sent = self._layer.size
            return
        size = await asyncio.to_thread(lambda: self._blob.stat().st_size)
        if size != self._layer.size:
            raise RegistryError(f"{self._layer.digest} is damaged in the model store: pull or create the model again")
        handle = os.open(self._blob, os.O_RDONLY)
        try:
            for part in split(size, self._access.limits):
                url = await self._chunk(handle, part, url)
        finally:
            os.close(handle)
        etag = f"{hashlib.md5(b''.join(self._hashes), usedforsecurity=False).hexdigest()}-{len(self._hashes)}"
        url = url.copy_merge_params({"digest": self._layer.digest, "etag": etag})
        headers = {"Content-Type": _BYTES, "Content-Length": "0"}
        async with self._session.open("PUT", url, headers, follow=False):
            pass

    async def _start(self) -> httpx.URL | None:
        """Where to send to; None if the registry took the blob from another repository of its own."""
        url = self._access.url("blobs", "uploads", "")
        if self._layer.origin:
            origin = Name.parse(self._layer.origin)
            if origin.valid and origin.host.lower() == self._access.name.host.lower():
                url = url.copy_merge_params({"mount": self._layer.digest, "from": origin.namespace_model})
        async with self._session.open("POST", url, {"Content-Length": "0"}, follow=False) as response:
            return None if response.status_code == 201 else self._next(response, url)

    def _next(self, response: httpx.Response, url: httpx.URL, *, required: bool = True) -> httpx.URL:
        location = response.headers.get("docker-upload-location") or response.headers.get("location")
        if not location:
            if required:
                raise RegistryError("the registry does not say where to upload to")
            return url
        return self._session.joined(url, location)

    async def _chunk(self, handle: int, part: Part, url: httpx.URL) -> httpx.URL:
        """Sends a part; tries again from where the registry says that it is. Returns where the next one goes."""
        limits = self._access.limits
        failures, done = 0, 0
        while True:
            try:
                return await self._patch(handle, part, done, url)
            except RegistryError as error:
                failures += 1
                if not error.again:
                    raise
                if failures >= limits.retries:
                    raise RegistryError(f"max retries exceeded: {error.text}") from error
                await asyncio.sleep(limits.backoff_s * 2 ** (failures - 1))
                url, had = await self._had(url)
                done = had - part.offset
                if not 0 <= done <= part.size:
                    raise RegistryError("the registry lost a part of the upload", again=True) from error
                if done == part.size:
                    self._hashes.append(await asyncio.to_thread(_md5, handle, part))
                    return url

    async def _had(self, url: httpx.URL) -> tuple[httpx.URL, int]:
        """How many bytes of the upload the registry has, and where to go on."""
        async with self._session.open("GET", url, follow=False) as response:
            match = _RANGE.fullmatch(response.headers.get("range", ""))
            # "0-0" is what registries say of nothing, too: one byte more is sent again then.
            count = int(match[1]) + 1 if match and match[1] != "0" else 0
            return self._next(response, url, required=False), count

    async def _patch(self, handle: int, part: Part, done: int, url: httpx.URL) -> httpx.URL:
        start, size = part.offset + done, part.size - done
        headers = {
            "Content-Type": _BYTES,
            "Content-Length": str(size),
            "Content-Range": f"{start}-{start + size - 1}",
            "X-Redirect-Uploads": "1",
        }
        body = self._body(handle, start, size)
        async with self._session.open("PATCH", url, headers, body, follow=False, bulk=True) as response:
            following = self._next(response, url, required=False)
            elsewhere = response.headers.get("location") if response.status_code == 307 else None
        if elsewhere:
            target = self._session.joined(url, elsewhere)
            headers = {"Content-Type": _BYTES, "Content-Length": str(size)}
            async with self._session.open("PUT", target, headers, body, follow=False, bulk=True):
                pass
        self._hashes.append(await asyncio.to_thread(_md5, handle, part))
        return following

    def _body(self, handle: int, start: int, size: int) -> Content:
        async def pieces() -> AsyncIterator[bytes]:
            self.sent = start
            at, end = start, start + size
            while at < end:
                piece = await asyncio.to_thread(os.pread, handle, min(_READ, end - at), at)
                if not piece:
                    raise RegistryError(f"{self._layer.digest} is damaged in the model store")
                at += len(piece)
                yield piece
                self.sent = at

        return pieces


def one_body(data: bytes) -> Content:
    """A body that is in memory."""

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    return pieces


def _md5(handle: int, part: Part) -> bytes:
    """The part's MD5: stores behind registries check it. It protects nothing."""
    found = hashlib.md5(usedforsecurity=False)
    for at in range(part.offset, part.offset + part.size, _READ):
        found.update(os.pread(handle, min(_READ, part.offset + part.size - at), at))
    return found.digest()
