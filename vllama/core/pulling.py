"""Where a model is pulled from: the registry that its name says, or Hugging Face when asked for or when all else fails.

What is Ollama's stays Ollama's: a name of its library comes from elsewhere only on request, and a status line says so.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from vllama.config import Settings
from vllama.core.choosing import prefers_safetensors
from vllama.errors import NotFoundError, RequestError, ServerError, VllamaError
from vllama.goquote import quote
from vllama.models import catalog
from vllama.models.hub.files import SAFETENSORS
from vllama.models.hub.records import HOST, HOSTS
from vllama.models.library import Library, looks_like_path
from vllama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, Name, parse_reference

if TYPE_CHECKING:
    from vllama.models.hub.client import Hub
    from vllama.models.hub.pull import Wanted
    from vllama.models.registry.transfers import Transfers

Status = dict[str, Any]
SOURCES = ("", "ollama", "hf")


class Puller(Protocol):
    """What of the service a pull needs."""

    settings: Settings
    library: Library

    @property
    def transfers(self) -> Transfers:
        """The registry client."""


async def pull(
    service: Puller, name: Name, *, insecure: bool = False, source: str = "", hub: Hub | None = None
) -> AsyncGenerator[Status, None]:
    """Ollama's status lines of a pull. `source`: "" by the name, "hf" Hugging Face, "ollama" the registry alone.

    Raises `VllamaError` at any of them, with the next step.
    """
    if source not in SOURCES:
        raise RequestError(f"from {quote(source)} is unknown: use hf or ollama")
    lines = _pull(service, name, insecure, source, hub)
    async with aclosing(lines):
        async for line in lines:
            yield line


def elsewhere(text: str) -> bool:
    """Whether a name says where its model is from, beyond Ollama's library: `org/name`, `hf.co/org/name`."""
    if looks_like_path(text):
        return False
    name = Name.parse(text)
    return name.valid and (name.namespace.lower() != DEFAULT_NAMESPACE or name.host.lower() != DEFAULT_HOST)


async def fetch(service: Puller, text: str, say: Callable[[str], None]) -> None:
    """Pull a model by the text of its name, saying each new status. Raises `VllamaError`."""
    said = ""
    async with aclosing(pull(service, Name.parse(parse_reference(text).pull_name))) as lines:
        async for line in lines:
            status = str(line.get("status", ""))
            if status and status != said:
                say(status)
                said = status


async def _pull(
    service: Puller, name: Name, insecure: bool, source: str, hub: Hub | None
) -> AsyncGenerator[Status, None]:
    on_hub = name.host.lower() in HOSTS
    # Ollama's registry has no such tag
    tensors = name.tag.lower() == SAFETENSORS and name.host.lower() == DEFAULT_HOST
    tensors = tensors and name.namespace.lower() != DEFAULT_NAMESPACE
    known = service.library.store.find(name) is not None
    if source == "hf" or (source == "" and not known and (tensors or (on_hub and _at_once(service, name)))):
        if known:
            raise RequestError(
                f"model '{name.shortest}' is here from {name.host}: remove it first (vllama rm {name.shortest}), "
                f"or pull the repository under its own name ({HOST}/ORG/REPO)"
            )
        async for line in _from_hub(service, name, hub):
            yield line
        return
    try:
        async with aclosing(service.transfers.pull(name, insecure=insecure)) as lines:
            async for line in lines:
                yield line
        return
    except ServerError as error:
        refused = error
    if source == "ollama" or not _may_be_on_hub(name, refused, known):
        raise _hinted(refused, name)
    reason = "not a model of its own" if _missing(refused) else refused.text.removeprefix("pull model manifest: ")
    yield {"status": f"{name.host}: {reason[:200]}; looking at Hugging Face"}
    try:
        async for line in _from_hub(service, name, hub):
            yield line
    except NotFoundError as error:
        if on_hub:
            raise
        raise NotFoundError(f"{refused.text} at {name.host}; Hugging Face: {error.text}") from error


async def _from_hub(service: Puller, name: Name, hub: Hub | None) -> AsyncGenerator[Status, None]:
    try:
        import huggingface_hub  # noqa: F401  # slow to import, and not wanted for Ollama's own registry
    except ImportError as error:
        raise ServerError("huggingface_hub is not installed: pip install huggingface_hub") from error
    from vllama.models.hub.client import Hub
    from vllama.models.hub.pull import pull as pull_from_hub

    wanted = _wanted(name, preferred(service.settings))
    if name.namespace.lower() == DEFAULT_NAMESPACE and name.host.lower() == DEFAULT_HOST:
        yield {"status": f"taking {wanted.repo} from Hugging Face"}
    lines = pull_from_hub(hub or Hub(), service.library.hub, wanted, prune=not service.settings.noprune)
    async with aclosing(lines):
        async for line in lines:
            yield line


def _wanted(name: Name, prefer: str) -> Wanted:
    from vllama.models.hub.pull import Wanted

    if name.host.lower() in HOSTS:
        return Wanted(name, name.namespace_model, name.tag, prefer)
    if name.host.lower() != DEFAULT_HOST:
        raise RequestError(
            f"{name.host} is a registry of its own: only hf.co/ORG/REPO, ORG/REPO and names of the catalog come "
            "from Hugging Face"
        )
    if name.namespace.lower() == DEFAULT_NAMESPACE:
        found = catalog.place(name, prefer)
        return Wanted(name, found.repo, found.tag, prefer)
    return Wanted(replace(name, host=HOST), name.namespace_model, name.tag, prefer)


def preferred(settings: Settings) -> str:
    """The format that the engine in use wants: "gguf", or "safetensors" for vLLM (named, or by the machine) and MAX."""
    return SAFETENSORS if prefers_safetensors(settings) else "gguf"


def _directly(name: Name, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether hf.co's registry need not be asked: another hub or none is set, or what it does not have is wanted."""
    return bool(environ.get("HF_ENDPOINT") or environ.get("HF_HUB_OFFLINE")) or name.tag.lower() == SAFETENSORS


def _at_once(service: Puller, name: Name) -> bool:
    return _directly(name) or service.library.hub.find(name) is not None


def _missing(error: VllamaError) -> bool:
    from vllama.models.registry.failures import FileMissingError

    return isinstance(error.__cause__, FileMissingError)


def _may_be_on_hub(name: Name, error: VllamaError, known: bool) -> bool:
    """hf.co's registry refuses pieces, other formats and tokens; `org/repo` is Hugging Face's if nobody else has it."""
    from vllama.models.registry.failures import RegistryError, StatusError, UnauthorizedError

    cause = error.__cause__
    if known or not isinstance(cause, RegistryError):
        return False
    if name.host.lower() in HOSTS:
        return isinstance(cause, StatusError | UnauthorizedError) or _missing(error)
    return name.host.lower() == DEFAULT_HOST and name.namespace.lower() != DEFAULT_NAMESPACE and _missing(error)


def _hinted(error: ServerError, name: Name) -> VllamaError:
    """The registry's error; where Hugging Face may have the model, with how to ask for it."""
    from vllama.models.registry.failures import RegistryError

    unreachable = isinstance(error.__cause__, RegistryError) and error.__cause__.again
    if name.host.lower() != DEFAULT_HOST or not unreachable:
        return error
    if name.namespace.lower() == DEFAULT_NAMESPACE and not catalog.knows(name):
        return error
    return ServerError(f"{error.text}; Hugging Face may have it: vllama pull {name.shortest} --from hf")
