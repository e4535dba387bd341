"""A model from a registry into the store, with Ollama's statuses. Until the manifest is there, only blobs change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from vllama.errors import ServerError
from vllama.models.manifest import MAX_MANIFEST, MEDIA_TYPE, Layer, Manifest, ManifestError
from vllama.models.names import Name
from vllama.models.registry.download import DigestMismatchError, Download, file_digest, has_size
from vllama.models.registry.failures import RegistryError, StatusError
from vllama.models.registry.limits import Limits
from vllama.models.registry.parts import Partial
from vllama.models.registry.session import Access, Session, read_small
from vllama.models.store import Store

Status = dict[str, Any]
Share = Callable[[Access, str, int], AbstractAsyncContextManager[Download]]
"""The download of a blob, begun or joined; it ends when its last user leaves."""
_ACCEPT = f"{MEDIA_TYPE}, application/vnd.oci.image.manifest.v1+json"


async def pull(store: Store, name: Name, access: Access, share: Share, *, prune: bool) -> AsyncGenerator[Status, None]:
    """Brings the model into the store; yields the status lines. Raises `ServerError` at any of them."""
    name = await asyncio.to_thread(store.existing_name, name)
    before = await asyncio.to_thread(store.manifest, name)
    yield {"status": "pulling manifest"}
    try:
        raw, manifest = await _manifest(access)
    except ServerError as error:
        raise ServerError(f"pull model manifest: {error.text}") from error
    layers = list({layer.digest: layer for layer in (*manifest.layers, manifest.config)}.values())
    with store.holding(manifest.digests):
        async with AsyncExitStack() as stack:
            fetched: list[Download] = []
            present: list[Layer] = []
            for layer in layers:
                if await asyncio.to_thread(has_size, store.blob_path(layer.digest), layer.size):
                    present.append(layer)
                    partial = Partial(store.blob_path(layer.digest), layer.size, access.limits)
                    await asyncio.to_thread(partial.forget_leftovers)
                    yield progress("pulling", layer, layer.size)
                    continue
                download = await stack.enter_async_context(_shared(share, access, layer))
                fetched.append(download)
                async for status in _followed(download, layer, access.limits):
                    yield status
            yield {"status": "verifying sha256 digest"}
            await _verified(fetched)
            broken = [layer for layer in present if not await _intact(store, layer)]
            for layer in broken:  # the store's own blob was damaged: now it is mended
                download = await stack.enter_async_context(_shared(share, access, layer))
                async for status in _followed(download, layer, access.limits):
                    yield status
                yield {"status": "verifying sha256 digest"}
                await download.verified()
        yield {"status": "writing manifest"}
        await asyncio.to_thread(_write, store, name, raw, layers)
    if before is not None and prune and (unused := before.digests - manifest.digests):
        yield {"status": "removing unused layers"}
        await asyncio.to_thread(store.remove_unreferenced, unused)
    yield {"status": "success"}


def progress(verb: str, layer: Layer, completed: int) -> Status:
    """A line about a blob; what is 0 is left out, as Ollama's encoder does."""
    status: Status = {"status": f"{verb} {layer.digest[7:19]}", "digest": layer.digest}
    return status | {key: n for key, n in (("total", layer.size), ("completed", completed)) if n}


async def _manifest(access: Access) -> tuple[bytes, Manifest]:
    limits = access.limits
    url = access.url("manifests", access.name.tag)
    for attempt in range(limits.retries):
        try:
            async with (
                asyncio.timeout(limits.small_s),
                Session(access) as session,
                session.open("GET", url, {"Accept": _ACCEPT}) as response,
            ):
                raw = await read_small(response, MAX_MANIFEST)
            return raw, _checked(raw, limits)
        except TimeoutError as error:
            raise RegistryError("the registry is too slow") from error
        except RegistryError as error:
            # Who cannot be reached is said at once: the name may be wrong. A registry that asks for patience gets it.
            if not error.again or not isinstance(error, StatusError) or attempt + 1 == limits.retries:
                raise
            await asyncio.sleep(limits.backoff_s * 2**attempt)
    raise AssertionError("unreachable")


def _checked(raw: bytes, limits: Limits) -> Manifest:
    manifest = Manifest.parse(raw)
    sizes: dict[str, int] = {}
    if len(manifest.layers) > limits.layers:
        raise ManifestError(f"the manifest has more than {limits.layers} layers")
    for layer in (*manifest.layers, manifest.config):
        if layer.size > limits.layer_size:
            raise ManifestError(f"the manifest has a layer of {layer.size} bytes")
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise ManifestError("the manifest gives one layer two sizes")
        if layer.digest != layer.digest.lower():
            raise ManifestError("a layer has no valid digest")
    return manifest


def _shared(share: Share, access: Access, layer: Layer) -> AbstractAsyncContextManager[Download]:
    return share(access, layer.digest, layer.size)


async def _followed(download: Download, layer: Layer, limits: Limits) -> AsyncGenerator[Status, None]:
    """A line at once, then one each tick, and one when all is there."""
    yield progress("pulling", layer, download.completed)
    while not await download.fetched(limits.tick_s):
        yield progress("pulling", layer, download.completed)
    yield progress("pulling", layer, layer.size)


async def _verified(downloads: list[Download]) -> None:
    """Checks all: what is right stays, whatever another one is."""
    wrong: ServerError | None = None
    for download in downloads:
        try:
            await download.verified()
        except DigestMismatchError as error:
            wrong = wrong or error
    if wrong is not None:
        raise wrong


async def _intact(store: Store, layer: Layer) -> bool:
    path = store.blob_path(layer.digest)
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(file_digest, path, cancelled.is_set) == layer.digest
    except asyncio.CancelledError:
        cancelled.set()
        raise
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ServerError(f"cannot read {path.name} in the model store: {error.strerror}") from error


def _write(store: Store, name: Name, raw: bytes, layers: list[Layer]) -> None:
    with store.lock:
        for layer in layers:
            if not has_size(store.blob_path(layer.digest), layer.size):
                raise ServerError(f"{layer.digest} went away while the model was pulled; pull it again")
        store.write_manifest(name, raw)
