"""Ollama's own store: manifests/<host>/<namespace>/<model>/<tag> and blobs/sha256-<hex>.

A store may be shared with a running Ollama, may belong to another user and be read-only, and may hold
damaged files: reading never writes, and what cannot be read is skipped with a log line.
Writes go to a temporary file in the same directory and are renamed, so a reader sees all or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama.errors import ServerError
from vllama.models.manifest import DIGEST, MAX_MANIFEST, Layer, Manifest, ManifestError, digest_of
from vllama.models.model import Inspect, Model, ModelConfig
from vllama.models.names import Name
from vllama.models.tree import ManifestTree, name_of

log = logging.getLogger(__name__)

MAX_TEXT_LAYER = 16 << 20
"""Bytes of a template, system, params, messages, license or config blob that is still read."""
_RESCAN_AFTER = 1.0
"""Seconds for which a fruitless look through the whole store is believed."""


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    stamp: tuple[int, int, int]
    model: Model | None
    manifest: Manifest | None


class Store:
    """Models on disk, indexed in memory. Safe to use from many threads; all methods do file I/O."""

    def __init__(self, root: Path, inspect: Inspect | None = None) -> None:
        self.root = root
        self.inspect = inspect
        self.manifests = root / "manifests"
        self.blobs = root / "blobs"
        self.lock = threading.RLock()
        self._tree = ManifestTree(self.manifests)
        self._entries: dict[str, _Entry] = {}
        self._scanned_at = float("-inf")
        self._scanned: list[tuple[str, Path, Name]] | None = None
        self._stamps: list[tuple[str, int, int, int]] = []
        self._models: list[Model] = []
        self._held: Counter[str] = Counter()

    def blob_path(self, digest: str) -> Path:
        """Where the blob of a checked digest is, whether it exists or not. Raises `ManifestError`."""
        match = DIGEST.fullmatch(digest)
        if not match:
            raise ManifestError("invalid digest format")
        return self.blobs / f"sha256-{match[1]}"

    def manifest_path(self, name: Name) -> Path:
        """Where the manifest of a valid name is, in exactly this spelling."""
        if not name.valid:
            raise ManifestError("invalid model name")
        return self.manifests / name.host / name.namespace / name.model / name.tag

    def find(self, name: Name) -> Model | None:
        """The model of that name in any spelling, None when there is none that can be read.

        A known model costs one stat; an unknown one a look through the directories, at most once a second.
        """
        if not name.valid:
            return None
        with self.lock:
            entry = self._entries.get(name.key)
            # A name that is not in the store is asked for with every request for a package's model: no Path for it.
            text = f"{self.manifests}/{name.filepath}"
            path = entry.path if entry else Path(text) if os.path.exists(text) else None
            model = self._load(path, name) if path else None
            if model is None and time.monotonic() - self._scanned_at > _RESCAN_AFTER:
                self.scan()
                entry = self._entries.get(name.key)
                model = entry.model if entry else None
            return model

    def existing_name(self, name: Name) -> Name:
        """The spelling under which the model is stored already, or the name itself."""
        with self.lock:
            self.scan()
            entry = self._entries.get(name.key)
            return name_of(entry.path) if entry else name

    def scan(self) -> list[Model]:
        """All models that can be read; only what is new is parsed. While nothing changes, the same list."""
        with self.lock:
            files = self._tree.files()
            if files is self._scanned and self._as_scanned():
                self._scanned_at = time.monotonic()
                return self._models
            seen: set[str] = set()
            for text, path, name in files:
                if name.key in seen:
                    continue
                seen.add(name.key)
                self._load(path, name, text)
            for key in self._entries.keys() - seen:
                del self._entries[key]
            self._scanned_at = time.monotonic()
            self._models = [entry.model for entry in self._entries.values() if entry.model]
            whole = len(self._models) == len(self._entries)  # what could not be read is tried again
            self._stamps = [(str(entry.path), *entry.stamp) for entry in self._entries.values()] if whole else []
            self._scanned = files
            return self._models

    def _as_scanned(self) -> bool:
        """Whether each manifest is the file that it was; lists of hundreds of models ask again and again."""
        try:
            for path, mtime_ns, size, inode in self._stamps:
                stat = os.stat(path)
                if stat.st_mtime_ns != mtime_ns or stat.st_size != size or stat.st_ino != inode:
                    return False
        except OSError:
            return False
        return bool(self._stamps)

    def _load(self, path: Path, name: Name, text: str = "") -> Model | None:
        try:
            stat = os.stat(text or path)
        except OSError:
            self._entries.pop(name.key, None)
            self._stamps = []
            return None
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        entry = self._entries.get(name.key)
        if entry and (entry.path is path or entry.path == path) and entry.stamp == stamp and entry.model:
            return entry.model
        model, manifest = None, None
        try:
            raw = _read_small(path, MAX_MANIFEST)
            manifest = Manifest.parse(raw)
            model = self._model(name_of(path), raw, manifest, stat.st_mtime_ns)
        except ManifestError as error:
            if not entry or entry.stamp != stamp:  # once per damaged file, not once per request
                log.warning("ignoring the model at %s: %s", path, error.text)
        self._entries[name.key] = _Entry(path, stamp, model, manifest)
        self._stamps = []
        return model

    def _model(self, name: Name, raw: bytes, manifest: Manifest, mtime_ns: int) -> Model:
        config = ModelConfig.from_json(self._json_layer(manifest.config, dict))
        facts: dict[str, Any] = {}
        params: dict[str, Any] = {}
        licenses: list[str] = []
        adapters: list[Path] = []
        for layer in manifest.layers:
            if layer.kind == "model":
                facts["gguf"], facts["parent"] = self.blob_path(layer.digest), layer.origin
            elif layer.kind in ("template", "prompt"):
                facts["template"] = self._text_layer(layer)
            elif layer.kind == "system":
                facts["system"] = self._text_layer(layer)
            elif layer.kind == "params":
                params.update(self._json_layer(layer, dict))
            elif layer.kind == "messages":
                facts["messages"] = tuple(_messages(self._json_layer(layer, list)))
            elif layer.kind == "license":
                licenses.append(self._text_layer(layer))
            elif layer.kind == "adapter":
                adapters.append(self.blob_path(layer.digest))
            elif layer.kind == "projector":
                facts["projector"] = self.blob_path(layer.digest)
        return Model(
            name=name,
            digest=hashlib.sha256(raw).hexdigest(),
            size=manifest.size,
            modified_at=datetime.fromtimestamp(mtime_ns / 1e9, UTC),
            config=config,
            params=params,
            licenses=tuple(licenses),
            adapters=tuple(adapters),
            inspect=self.inspect,
            **facts,
        )

    def _text_layer(self, layer: Layer) -> str:
        return _read_small(self.blob_path(layer.digest), MAX_TEXT_LAYER).decode("utf-8", "replace")

    def _json_layer(self, layer: Layer, shape: type[Any]) -> Any:
        try:
            data = json.loads(_read_small(self.blob_path(layer.digest), MAX_TEXT_LAYER))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the {layer.kind} layer is not JSON: {error}") from error
        if not isinstance(data, shape):
            raise ManifestError(f"the {layer.kind} layer is not what it should be")
        return data

    def read_params(self, layer: Layer) -> dict[str, Any]:
        """The PARAMETERs of a params layer. Raises `ManifestError`."""
        params: dict[str, Any] = self._json_layer(layer, dict)
        return params

    def manifest(self, name: Name) -> Manifest | None:
        """The manifest of a model in any spelling, None when there is none that can be read."""
        with self.lock:
            if self.find(name) is None:
                return None
            return self._entries[name.key].manifest

    def manifest_bytes(self, name: Name) -> bytes:
        """The manifest file as it is. Raises `ManifestError` when it cannot be read."""
        with self.lock:
            entry = self._entries.get(name.key)
            return _read_small(entry.path if entry else self.manifest_path(name), MAX_MANIFEST)

    def write_blob(self, data: bytes) -> tuple[str, bool]:
        """Stores small data; returns its digest and whether it is new. Raises `ServerError`."""
        digest = digest_of(data)
        path = self.blob_path(digest)
        with self.lock:
            if path.exists():
                return digest, False
            write_atomically(path, data)
            return digest, True

    def write_manifest(self, name: Name, raw: bytes) -> None:
        """Makes `name` this manifest. Raises `ServerError`."""
        with self.lock:
            write_atomically(self.manifest_path(name), raw)
            self._load(self.manifest_path(name), name)

    def delete(self, name: Name) -> bool:
        """Removes the manifest, the blobs that nothing else needs and empty directories; False when not there."""
        with self.lock:
            self.scan()
            entry = self._entries.get(name.key)
            if entry is None:
                return False
            with writing(entry.path):
                entry.path.unlink(missing_ok=True)
            self._entries.pop(name.key, None)
            self._stamps = []
            _remove_empty(entry.path.parent, self.manifests)
            if entry.manifest:
                self.remove_unreferenced(entry.manifest.digests)
            return True

    @contextlib.contextmanager
    def holding(self, digests: frozenset[str]) -> Iterator[None]:
        """Keeps blobs of a model that is not there yet from being removed with another one that has them too."""
        with self.lock:
            self._held.update(digests)
        try:
            yield
        finally:
            with self.lock:
                self._held.subtract(digests)
                self._held = +self._held

    def remove_unreferenced(self, digests: frozenset[str]) -> None:
        """Removes those of the blobs that no manifest needs. With an unreadable manifest about, none:
        it may need them."""
        with self.lock:
            self.scan()
            used: set[str] = set()
            for entry in self._entries.values():
                if entry.manifest is None:
                    log.warning("keeping the blobs of a removed model: %s cannot be read", entry.path)
                    return
                used |= entry.manifest.digests
            used.update(self._held)
            for digest in digests - used:
                with contextlib.suppress(OSError):
                    self.blob_path(digest).unlink()


def _messages(items: list[Any]) -> Iterator[tuple[str, str]]:
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("role"), str):
            content = item.get("content")
            yield item["role"], content if isinstance(content, str) else ""


def _read_small(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():
            raise ManifestError(f"{path.name} is missing or not a file")
        if path.stat().st_size > limit:
            raise ManifestError(f"{path.name} is too large")
        return path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path.name} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of a write into a `ServerError` that says what cannot be written and why."""
    try:
        yield
    except OSError as error:
        raise ServerError(f"cannot write {path.name} in the model store: {error.strerror}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that readers see the old one or the whole new one, even after a crash."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".vllama-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes 0600, but an Ollama of another user must be able to read it
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _remove_empty(path: Path, root: Path) -> None:
    with contextlib.suppress(OSError):  # not empty: done
        while path != root:
            path.rmdir()
            path = path.parent
