"""Deployments that others run, kept in sight: their models become the library's, their absence a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from vllama.config import Settings
from vllama.config.values import address
from vllama.engines.upstream.catalog import Listed, catalog
from vllama.errors import ConfigError, VllamaError
from vllama.models.library import Library
from vllama.models.model import Model
from vllama.models.names import Name
from vllama.models.remote import CAPABILITIES, Place, name_of, remote_model

log = logging.getLogger("vllama.upstreams")

EVERY_S = 30.0
"""Seconds between two looks at a deployment that answers."""

AGAIN_S = 2.0
"""Seconds until the next look at one that does not."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A model that vllama.toml gives a name here and a place there."""

    name: Name
    place: Place
    capabilities: tuple[str, ...]

    def model(self) -> Model:
        """As the library has it."""
        return remote_model(self.name, self.place, capabilities=self.capabilities)


def pinned(settings: Settings, environ: Mapping[str, str] = os.environ) -> tuple[Pinned, ...]:
    """The models with an `upstream` of their own. Raises `ConfigError` for an address or a key that cannot be used."""
    found = []
    for text, own in settings.models.items():
        if not own.upstream:
            continue
        name = Name.parse(text)
        if not name.valid:
            raise ConfigError(f"vllama.toml: {text!r} is no name that a model may have")
        try:
            url = address(own.upstream)
        except ValueError as error:
            raise ConfigError(f"vllama.toml: models.{text}.upstream {error}") from None
        place = Place(
            url, own.upstream_model or text, _key(settings, own.upstream_key_env, url, environ), seconds(settings)
        )
        found.append(Pinned(name, place, own.capabilities or CAPABILITIES))
    return tuple(found)


def _key(settings: Settings, variable: str, url: str, environ: Mapping[str, str]) -> str:
    """The named variable's, else the general one where it is the same deployment: keys are for one host only."""
    if variable:
        if variable not in environ:
            raise ConfigError(f"vllama.toml: upstream_key_env names {variable}, which is not set")
        return environ[variable]
    return settings.upstream_key if url == settings.upstream else ""


def seconds(settings: Settings) -> float:
    """How long a deployment may be silent."""
    return settings.upstream_timeout / 1e9


class Upstreams:
    """Asks the deployment of `settings.upstream` for its models as long as the server runs. One event loop."""

    def __init__(self, settings: Settings, library: Library) -> None:
        self._settings = settings
        self._library = library
        self._pinned = pinned(settings)
        self._task: asyncio.Task[None] | None = None
        self._hidden: set[Name] = set()
        self.failure = ""
        self._library.remote.replace(one.model() for one in self._pinned)

    async def start(self) -> None:
        """The first look, then others beside the server's work. A deployment that is away is no reason not to start."""
        if not self._settings.upstream:
            return
        await self.refresh()
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """No further looks. Twice is fine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def refresh(self) -> None:
        """Ask once. What was known stays known while the deployment is away."""
        url = self._settings.upstream
        try:
            rows = await catalog(url, self._settings.upstream_key)
        except VllamaError as error:
            if self.failure != error.text:
                log.warning("the upstream %s: %s", url, error.text)
            self.failure = error.text
            return
        if self.failure:
            log.info("the upstream %s answers again", url)
        self.failure = ""
        models = [one.model() for one in self._pinned] + [self._model(row) for row in rows]
        self._library.remote.replace(models, self._hide)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S if self.failure else EVERY_S)
            await self.refresh()

    def _model(self, row: Listed) -> Model:
        settings = self._settings
        place = Place(settings.upstream, row.id, settings.upstream_key, seconds(settings), row.context, row.vllm)
        name = name_of(row.id)
        own = next((one for text, one in settings.models.items() if Name.parse(text).key == name.key), None)
        skills = own.capabilities if own is not None and own.capabilities else CAPABILITIES
        return remote_model(name, place, created=row.created, capabilities=skills)

    def _hide(self, name: Name) -> None:
        if name not in self._hidden:
            self._hidden.add(name)
            log.warning("the upstream has several models that would be called %s: the first counts", name.shortest)
