"""Where a model is that another server has, and the `Model` that stands for it here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vllama.models.model import Inspect, Model, ModelConfig
from vllama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Name

CAPABILITIES = ("completion", "tools")
"""What a model is taken to do whose server does not say: nothing is refused that it may well do."""


@dataclass(frozen=True, slots=True)
class Place:
    """An OpenAI-compatible server (address without /v1), the model's name there, the secret key, seconds of silence
    that are borne, the model's context in tokens (0: unknown), and whether vLLM serves it."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout_s: float = 600.0
    context: int = 0
    vllm: bool = False


def remote_model(
    name: Name,
    place: Place,
    *,
    created: int = 0,
    capabilities: Sequence[str] = CAPABILITIES,
) -> Model:
    """The model as lists show it; its digest stands for the place. `created` in seconds since 1970."""
    digest = hashlib.sha256(f"upstream:{place.url}:{place.model}".encode()).hexdigest()
    skills = tuple(capabilities)
    return Model(
        name=name,
        digest=digest,
        size=0,
        modified_at=datetime.fromtimestamp(created, UTC),
        config=ModelConfig(format="", capabilities=skills, context_length=place.context),
        origin="upstream",
        remote=place,
        inspect=_fixed(skills),
    )


def _fixed(skills: tuple[str, ...]) -> Inspect:
    def inspect(_: Model) -> tuple[str, ...]:
        return skills

    return inspect


def name_of(text: str) -> Name:
    """Ollama's name for a model that somebody else has named: as it is where that is a name, else with "-" in it."""
    name = Name.parse(text)
    if name.valid:
        return name
    last = text.rstrip("/").rpartition("/")[2]
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in last)
    return Name(DEFAULT_HOST, DEFAULT_NAMESPACE, clean.lstrip(".-")[:80] or "model", DEFAULT_TAG, "https")


class RemoteModels:
    """What others serve, as far as it is known. Replaced as a whole; safe to read from any thread."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}
        self.listing: list[Model] = []

    def replace(self, models: Iterable[Model], hidden: Callable[[Name], None] | None = None) -> None:
        """Makes these the models; of two with one name the first counts, and `hidden` is told the name."""
        found: dict[str, Model] = {}
        for model in models:
            if found.setdefault(model.name.key, model) is not model and hidden is not None:
                hidden(model.name)
        if found != self._models:
            self._models, self.listing = found, list(found.values())

    def find(self, name: Name) -> Model | None:
        """The model of that name; one whose tag is the default tag is found without a tag."""
        return self._models.get(name.key)
