"""GET /api/tags: the models that can be used, newest first."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from vllama.api.http import Endpoint, Receive, Scope, Send, dumps, send_json
from vllama.models.library import Library
from vllama.models.model import Model
from vllama.models.show import tags_entry
from vllama.models.tree import SETTLED_NS

if TYPE_CHECKING:
    from vllama.core.service import Service


class TagsList:
    """The body of /api/tags. What was written of a model is kept while the model and its weights are the same."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._written: dict[str, tuple[Model, int, bytes]] = {}
        self._models: tuple[Model, ...] = ()
        self._body = b""
        self._blobs = 0

    def body(self) -> bytes:
        """Does file I/O; for any thread. Two at once may write the same twice, which does no harm."""
        before = self._written
        blobs = changed_at(self._library.store.blobs)
        # Weights come and go by renaming and removing, which changes their directory.
        same = blobs == self._blobs != 0 and blobs < time.time_ns() - SETTLED_NS
        self._blobs = blobs
        models = self._library.listing()
        if same and models is self._models:
            return self._body
        written, entries = {}, []
        for model in models:
            key = model.name.key
            known = before.get(key)
            if known is None or known[0] is not model or not (same or known[1] == changed_at(model.gguf)):
                known = (model, changed_at(model.gguf), dumps(tags_entry(model, model.capabilities)))
            written[key] = known
            entries.append(known[2])
        self._written = written
        self._models, self._body = models, b'{"models":[' + b",".join(entries) + b"]}"
        return self._body


def changed_at(path: Path | None) -> int:
    """When a file or directory last changed, in ns; 0 when it is not there."""
    try:
        return os.stat(path).st_mtime_ns if path is not None else 0
    except OSError:
        return 0


def tags_endpoint(service: Service) -> Endpoint:
    """GET and HEAD /api/tags."""
    tags_list = TagsList(service.library)

    async def tags(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, await asyncio.to_thread(tags_list.body))

    return tags
