"""A model from Hugging Face into the library, with the statuses that Ollama's pull has."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from vllama.errors import VllamaError
from vllama.models.hub.client import Hub, Repository, Watch, remove, verified
from vllama.models.hub.failures import HubError
from vllama.models.hub.files import RepoFile
from vllama.models.hub.lookup import Chosen, choose
from vllama.models.hub.records import Held, Record, Records, canonical
from vllama.models.hub.weights import config_of
from vllama.models.names import Name

T = TypeVar("T")
Status = dict[str, Any]
TICK_S = 0.1
"""Between two progress lines."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`name` is what the model will be called here, `repo` and `tag` say what it is, `prefer` the engine's format."""

    name: Name
    repo: str
    tag: str
    prefer: str = "gguf"


async def pull(hub: Hub, records: Records, wanted: Wanted, *, prune: bool = True) -> AsyncGenerator[Status, None]:
    """Brings the files into the hub's cache and writes the record; yields the status lines. Raises `VllamaError`.

    Closing the iterator ends the download; files that were finished stay. A model that was there stays until the new
    one is whole.
    """
    yield {"status": "pulling manifest"}
    watch = Watch()
    try:
        chosen = await _in_thread(lambda: choose(hub, wanted.repo, wanted.tag, prefer=wanted.prefer))
        if chosen.repository.repo != wanted.repo:
            yield {"status": f"{wanted.repo} has no GGUF, taking {chosen.repository.repo}"}
        fetched: list[tuple[RepoFile, Path, bool]] = []
        for file in chosen.files:
            was_there = await _in_thread(partial(hub.cached, chosen.repository, file))
            async for line in _fetched(hub, chosen.repository, file, watch, was_there is not None):
                yield line
            path = await _in_thread(partial(hub.download, chosen.repository, file, watch))
            fetched.append((file, path, was_there is None or records.brought(was_there)))
        yield {"status": "verifying sha256 digest"}
        for index, (file, path, _) in enumerate(fetched):
            if await _in_thread(partial(verified, path, file, watch)):
                continue
            await _in_thread(partial(remove, path))
            async for line in _fetched(hub, chosen.repository, file, watch, False):
                yield line
            path = await _in_thread(partial(hub.download, chosen.repository, file, watch))
            if not await _in_thread(partial(verified, path, file, watch)):
                await _in_thread(partial(remove, path))
                wrong = f"{file.path} of {chosen.repository.repo} is not what the hub says"
                raise HubError(f"digest mismatch: {wrong}; it was removed, pull again")
            fetched[index] = (file, path, True)
    finally:
        watch.cancelled.set()
    yield {"status": "writing manifest"}
    before = await _in_thread(lambda: records.record(wanted.name))
    record = await _in_thread(lambda: _record(wanted, chosen, fetched))
    await _in_thread(lambda: records.add(record))
    if before is not None and prune and _gone(before, record):
        yield {"status": "removing unused layers"}
        await _in_thread(lambda: records.release(before))
    yield {"status": "success"}


async def _fetched(
    hub: Hub, repository: Repository, file: RepoFile, watch: Watch, there: bool
) -> AsyncGenerator[Status, None]:
    """The lines of one file until it is in the cache. Small ones, which git keeps, have no digest to name them by."""
    watch.completed = 0
    if there:
        yield _line(file, file.size)
        return
    yield _line(file, 0)
    task = asyncio.ensure_future(_in_thread(lambda: hub.download(repository, file, watch)))
    try:
        while not (await asyncio.wait({task}, timeout=TICK_S))[0]:
            if file.sha256:
                yield _line(file, min(watch.completed, file.size))
        await task
    finally:
        if not task.done():
            watch.cancelled.set()
            task.cancel()
    if file.sha256:
        yield _line(file, file.size)


def _line(file: RepoFile, completed: int) -> Status:
    if not file.sha256:
        return {"status": f"pulling {file.path}"}
    status: Status = {"status": f"pulling {file.sha256[:12]}", "digest": f"sha256:{file.sha256}"}
    return status | {key: count for key, count in (("total", file.size), ("completed", completed)) if count}


def _record(wanted: Wanted, chosen: Chosen, fetched: list[tuple[RepoFile, Path, bool]]) -> Record:
    paths = {file.path: path for file, path, _ in fetched}
    first = chosen.weights[0]
    # the snapshot's folder: a file's path without its own part below it
    folder = paths[first.path].parents[first.path.count("/")]
    texts = {file.path: paths[file.path].read_text("utf-8", "replace") for file in chosen.texts}
    return Record(
        name=canonical(wanted.name),
        repo=chosen.repository.repo,
        revision=chosen.repository.revision,
        folder=folder,
        format=chosen.format,
        files=tuple(Held(file.path, file.size, file.sha256, ours) for file, _, ours in fetched),
        weights=tuple(file.path for file in chosen.weights),
        config=config_of(folder, chosen.format, [file.path for file in chosen.weights]),
        template=texts.get("template"),
        system=texts.get("system", ""),
        params=_params(texts.get("params")),
    )


def _params(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise HubError(f"the repository's params file is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _gone(before: Record, after: Record) -> bool:
    kept = {after.folder / file.path for file in after.files}
    return any(file.ours and before.folder / file.path not in kept for file in before.files)


async def _in_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, but in a daemon: a server that ends does not wait for the rest of a download."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only if T allows it

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except VllamaError as error:
            failure = error
        except OSError as error:
            failure = HubError(f"the Hugging Face cache cannot be used: {error.strerror or error}")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # who asked has gone, and the loop with it
            return

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await future
