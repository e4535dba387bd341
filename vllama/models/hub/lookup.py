"""Which repository and files a request means: a quantisation, safetensors, a GGUF that somebody else has made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote as percent_encode

from vllama.errors import NotFoundError
from vllama.models.hub.client import Hub, Repository
from vllama.models.hub.failures import GatedError, RepositoryMissingError
from vllama.models.hub.files import SAFETENSORS, RepoFile, pick, safetensors, variants

QUANTISERS = ("ggml-org", "unsloth", "bartowski", "lmstudio-community", "Qwen", "MaziyarPanahi", "mradermacher")
"""Who publishes GGUFs of other people's models, in the order in which they are asked."""
_TEXTS = ("template", "system", "params")
"""With these a repository may say how its GGUF is to be used; Hugging Face's endpoint for Ollama reads them too."""
_MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Chosen:
    """Files to have. `weights` are those that an engine loads, in order; `texts` are template, system and params."""

    repository: Repository
    format: str
    weights: tuple[RepoFile, ...]
    beside: tuple[RepoFile, ...] = ()
    texts: tuple[RepoFile, ...] = ()

    @property
    def files(self) -> tuple[RepoFile, ...]:
        """All of them, the small ones first: what is wrong with a repository shows early."""
        return (*self.texts, *self.beside, *self.weights)


def choose(hub: Hub, repo: str, tag: str, *, prefer: str) -> Chosen:
    """What `repo:tag` means for an engine that prefers "gguf" or "safetensors". Asks the hub; blocks.

    Raises `VllamaError` that names what there is and the next step.
    """
    repository = hub.repository(repo)
    wants_safetensors = tag.lower() == SAFETENSORS or (tag == "latest" and prefer == SAFETENSORS)
    if wants_safetensors:
        if weights := safetensors(repository.files):
            beside, tensors = _parted(weights)
            return Chosen(repository, SAFETENSORS, tensors, beside)
        if tag != "latest":
            raise NotFoundError(f"{repo} has no safetensors in its main folder; it has {_said(repository)}")
    if not variants(repository.files):
        repository = _elsewhere(hub, repository, tag)
    variant = pick(variants(repository.files), tag, repository.repo)
    texts = tuple(f for f in repository.files if f.path in _TEXTS and f.size <= _MAX_TEXT)
    return Chosen(repository, "gguf", variant.files, (), texts)


def _parted(files: Iterable[RepoFile]) -> tuple[tuple[RepoFile, ...], tuple[RepoFile, ...]]:
    listed = list(files)
    weights = tuple(sorted((f for f in listed if f.path.endswith(".safetensors")), key=lambda f: f.path))
    return tuple(f for f in listed if not f.path.endswith(".safetensors")), weights


def candidates(repo: str) -> list[str]:
    """Where the GGUFs of a repository without any may be: its owner's namespace, then the well-known quantisers'."""
    owner, _, name = repo.partition("/")
    if name.lower().endswith("-gguf"):
        return []
    found = [f"{owner}/{name}-GGUF"]
    for namespace in QUANTISERS:
        found.append(f"{namespace}/{name}-GGUF")
        if namespace == "bartowski":  # since 2025 with the owner in the name
            found.append(f"{namespace}/{owner}_{name}-GGUF")
    return list(dict.fromkeys(found))


def _elsewhere(hub: Hub, original: Repository, tag: str) -> Repository:
    """The first candidate with a GGUF that says it is made from this model (the owner's own need not say)."""
    repo = original.repo
    tried = [] if hub.offline else candidates(repo)
    for other in tried:
        try:
            repository = hub.repository(other)
        except (RepositoryMissingError, GatedError):
            continue
        same_owner = other.partition("/")[0] == repo.partition("/")[0]
        if variants(repository.files) and (same_owner or repo.lower() in repository.base_models):
            return repository
    search = f"{hub.endpoint}/models?library=gguf&search={percent_encode(repo.partition('/')[2])}"
    text = f"{repo} has no GGUF file; it has {_said(original)}."
    if tried:
        text += f" None of {', '.join(tried)} has one that is made from it."
    text += f" Look for one at {search} and pull it by its name"
    if safetensors(original.files):
        text += f"; {repo}:{SAFETENSORS} pulls the weights for vLLM"
    raise NotFoundError(text)


def _said(repository: Repository) -> str:
    endings = sorted({file.path.rpartition(".")[2] for file in repository.files if "." in file.path})
    return ", ".join(f".{ending}" for ending in endings[:12]) or "no files"
