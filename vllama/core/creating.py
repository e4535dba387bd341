"""Creating models: the store's part joined with what templates know."""

from __future__ import annotations

from collections.abc import Iterator

from vllama.config import Settings
from vllama.models.create import CreateRequest, CreateTools, DetectedTemplate, Status, create
from vllama.models.library import Library
from vllama.prompts.autodetect import autodetect
from vllama.prompts.gotemplate import parse


def create_model(request: CreateRequest, library: Library, settings: Settings) -> Iterator[Status]:
    """The status lines of /api/create; blocks while it works. Raises VllamaError at any step."""
    tools = CreateTools(autodetect=_detect, check_template=_check, prune=not settings.noprune)
    return create(request, library, tools)


def _detect(chat_template: str) -> DetectedTemplate | None:
    found = autodetect(chat_template)
    return None if found is None else DetectedTemplate(found.name, found.template, found.params)


def _check(template: str) -> None:
    parse(template)
