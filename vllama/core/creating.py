"""Creating models: the store's part joined with what templates know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vllama.config import Settings
from vllama.engines.quantizing import quantize
from vllama.hardware import facts
from vllama.models.create import CreateRequest, CreateTools, DetectedTemplate, Status, create
from vllama.models.library import Library
from vllama.models.names import Name
from vllama.prompts.autodetect import autodetect
from vllama.prompts.gotemplate import parse


def create_model(
    request: CreateRequest,
    library: Library,
    settings: Settings,
    pull: Callable[[Name], Iterator[Status]] | None = None,
) -> Iterator[Status]:
    """The status lines of /api/create; blocks while it works. Raises VllamaError at any step.

    `pull` fetches a base model that is not there.
    """

    def quantized(source: Path, target: Path, wanted: str) -> None:
        quantize(source, target, wanted, settings.num_thread or facts().physical_cores)

    tools = CreateTools(
        autodetect=_detect, check_template=_check, quantize=quantized, pull=pull, prune=not settings.noprune
    )
    return create(request, library, tools)


def _detect(chat_template: str) -> DetectedTemplate | None:
    found = autodetect(chat_template)
    return None if found is None else DetectedTemplate(found.name, found.template, found.params)


def _check(template: str) -> None:
    parse(template)
