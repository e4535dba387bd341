"""A model of the store to a registry: blobs that it lacks, mounted where it has them elsewhere, then the manifest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from vllama.errors import ServerError, VllamaError
from vllama.models.manifest import MEDIA_TYPE, Layer, Manifest
from vllama.models.names import Name
from vllama.models.registry.pull import Status, progress
from vllama.models.registry.session import Access, Session
from vllama.models.registry.upload import Upload, one_body
from vllama.models.store import Store


async def push(store: Store, name: Name, access: Access) -> AsyncGenerator[Status, None]:
    """Sends the model; yields the status lines after "retrieving manifest". Raises `ServerError` at any of them."""
    manifest, raw = await asyncio.to_thread(_stored, store, name)
    async with Session(access) as session:
        for layer in (*manifest.layers, manifest.config):
            async for status in _blob(session, store, layer):
                yield status
        yield {"status": "pushing manifest"}
        headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(raw))}
        async with session.open("PUT", access.url("manifests", name.tag), headers, one_body(raw), follow=False):
            pass
    yield {"status": "success"}


def _stored(store: Store, name: Name) -> tuple[Manifest, bytes]:
    with store.lock:
        manifest = store.manifest(name)
        if manifest is None:
            raise ServerError(f"{name.shortest} is not in the model store: copy it first")
        return manifest, store.manifest_bytes(name)


async def _blob(session: Session, store: Store, layer: Layer) -> AsyncGenerator[Status, None]:
    upload = Upload(session, layer, store.blob_path(layer.digest))
    yield progress("pushing", layer, 0)
    task = asyncio.create_task(upload.run())
    try:
        while not (await asyncio.wait((task,), timeout=session.access.limits.tick_s))[0]:
            yield progress("pushing", layer, upload.sent)
        task.result()
    except OSError as error:
        raise ServerError(f"cannot read {layer.digest} in the model store: {error.strerror}") from error
    except VllamaError:
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    yield progress("pushing", layer, layer.size)
