"""All models that can be served: of Ollama's store, of installed packages, of the Hugging Face cache, of upstreams,
and files and directories that the server was started with."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from vllama.errors import ModelLoadError, ModelNotFound, RequestError
from vllama.models.hub.records import Records
from vllama.models.model import Inspect, Model, ModelConfig
from vllama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Name, parse_reference
from vllama.models.overlay import CARRIED, Overlay, synthetic_digest
from vllama.models.remote import RemoteModels
from vllama.models.shards import read_model, weights_size
from vllama.models.store import Store
from vllama.models.tree import ManifestTree


class Library:
    """Finds and lists models. Safe to use from many threads; a hit costs one stat, the rest does file I/O.

    `inspect` becomes every model's way to say what it can do; it needs templates, which `core` knows.
    """

    def __init__(self, models_dir: Path, overlay: bool | Overlay = True, inspect: Inspect | None = None) -> None:
        self.store = Store(models_dir, inspect)
        self.overlay = overlay if isinstance(overlay, Overlay) else Overlay(CARRIED if overlay else ())
        self.hub = Records(models_dir, inspect)
        self.remote = RemoteModels()
        self._files: dict[str, Model] = {}
        self.overlay.inspect = self.inspect = inspect
        self._listed: tuple[tuple[list[Model], list[Model]], tuple[Model, ...]] = (([], []), ())

    def resolve(self, name: str, *, allow_path: bool = False) -> Model:
        """The model that `name` means, in any spelling of its letters; `:local` may end it.

        With `allow_path`, a text that looks like a path to a .gguf file is one.
        Raises `RequestError` ("invalid model name", or two endings) and `ModelNotFound`.
        """
        if allow_path and looks_like_path(name):
            return model_from_file(name, self.inspect)
        if not name.strip():
            raise ModelNotFound(f"model '{name}' not found")
        # a tag that is really called "cloud" or "local" exists: copies may be named so
        literal = Name.parse(name)
        if literal.valid and (model := self.find(literal)):
            return model
        base = Name.parse(parse_reference(name).base)
        if not base.valid:
            raise RequestError("invalid model name")
        if base != literal and (model := self.find(base)):
            return model
        raise ModelNotFound(f"model '{name}' not found")

    def resolve_for_show(self, name: str) -> Model:
        """As `resolve`, with the texts of /api/show: it names the model in its short form."""
        base = Name.parse(parse_reference(name).base)
        try:
            return self.resolve(name)
        except ModelNotFound:
            raise ModelNotFound(f"model '{base.shortest}' not found") from None

    def find(self, name: Name) -> Model | None:
        """The model of a parsed name, None when there is none."""
        found = self.store.find(name) or self.overlay.find(name) or self.hub.find(name) or self.remote.find(name)
        return found or self._files.get(name.key)

    def add_file(self, model: Model) -> None:
        """Lists a model that is a file or a directory, and finds it by its name, as long as this library lives. A
        model of that name from elsewhere hides it; another file of that name takes its place."""
        self._files = {**self._files, model.name.key: model}

    def models(self) -> list[Model]:
        """All models, newest first; one that `find` would not return is hidden by another of its name."""
        return list(self.listing())

    def listing(self) -> tuple[Model, ...]:
        """As `models`; the same object while all models are the same."""
        stored, packaged = self.store.scan(), self.overlay.models()
        names = {model.name.key for model in packaged}
        carried = packaged + [m for m in self.hub.models() if m.name.key not in names]
        if others := self.remote.listing:
            names = {model.name.key for model in carried}
            carried += [m for m in others if m.name.key not in names]
        if self._files:
            names = {model.name.key for model in carried}
            carried += [m for key, m in self._files.items() if key not in names]
        before, listed = self._listed
        if before[0] is stored and before[1] == carried:
            return listed
        known = {model.name.key for model in stored}
        found = stored + [m for m in carried if m.name.key not in known]
        found.sort(key=lambda m: m.name.shortest)
        found.sort(key=lambda m: m.modified_at, reverse=True)
        self._listed = ((stored, carried), tuple(found))
        return self._listed[1]


def names_here(models_dir: Path, *, overlay: bool = True) -> list[str]:
    """Names of all models as lists show them, without opening one: for a shell that completes a word."""
    names = {name.shortest for _, _, name in ManifestTree(models_dir / "manifests").files()}
    names |= {name.shortest for name in Records(models_dir).names()}
    if overlay:
        names |= {name.shortest for name in Overlay().names()}
    return sorted(names)


def looks_like_path(text: str) -> bool:
    """Whether a user means a file: it ends in .gguf and has a directory in front, or exists."""
    if not text.lower().endswith(".gguf"):
        return False
    return text.startswith(("./", "../", "/", "~")) or os.sep in text or Path(text).is_file()


def model_from_file(text: str | Path, inspect: Inspect | None = None) -> Model:
    """A model that is nothing but a GGUF file. Raises `ModelNotFound` or `ModelLoadError`."""
    try:
        path = Path(os.path.abspath(Path(text).expanduser()))
        stat = path.stat()
    except OSError as error:
        raise ModelNotFound(f"cannot open {text}: {error.strerror}") from error
    except (ValueError, RuntimeError) as error:  # a NUL or a lone surrogate in it; ~ of nobody
        raise ModelNotFound(f"cannot open {text}: {error}") from error
    if not path.is_file():
        raise ModelLoadError(f"cannot open {path}: not a regular file")
    try:
        metadata = read_model(path)
        size = weights_size(path)
    except OSError as error:
        raise ModelLoadError(f"unable to load model: {error.filename}: {error.strerror}") from error
    except ModelLoadError as error:
        raise ModelLoadError(f"unable to load model: {path}: {error.text}") from error
    stamp = f"file:{path}:{stat.st_mtime_ns}"
    return Model(
        name=file_name(path),
        digest=synthetic_digest(stamp, size, {}),
        size=size,
        modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        config=ModelConfig.from_metadata(metadata),
        gguf=path,
        origin="file",
        inspect=inspect,
    )


def file_name(path: Path) -> Name:
    """A valid name for a file: its stem, with everything that a name may not have replaced by "-"."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem)
    return Name(DEFAULT_HOST, DEFAULT_NAMESPACE, stem.lstrip(".-")[:80] or "model", DEFAULT_TAG, "https")
