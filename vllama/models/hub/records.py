"""Which models of the Hugging Face cache belong to the library: one small JSON file for each, beside Ollama's store.

    <models>/hub/<host>/<namespace>/<model>/<tag>    repository, revision, folder in the cache, files, what list shows

Ollama looks into `manifests` and `blobs` only, so it never sees these. The weights stay where huggingface_hub put them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllama.models.hub.client import remove
from vllama.models.model import Inspect, Model, ModelConfig
from vllama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, Name
from vllama.models.store import write_atomically, writing
from vllama.models.tree import ManifestTree

log = logging.getLogger(__name__)

HOST = "hf.co"
HOSTS = frozenset((HOST, "huggingface.co"))
MAX_RECORD = 4 << 20
_VERSION = 1
_RESCAN_AFTER = 1.0
"""Seconds for which a fruitless look through the records is believed."""


@dataclass(frozen=True, slots=True)
class Held:
    """A file of a record. `ours`: vLLama brought it into the cache, so `rm` takes it out again."""

    path: str
    size: int
    sha256: str = ""
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """A model in the cache. `folder` holds its files; the first of `weights` is what an engine loads of a GGUF."""

    name: Name
    repo: str
    revision: str
    folder: Path
    format: str
    files: tuple[Held, ...]
    weights: tuple[str, ...]
    config: ModelConfig
    template: str | None = None
    system: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """64 hex digits that stand for these files with these parameters."""
        facts = [[f.path, f.size, f.sha256] for f in self.files], self.template, self.system, self.params
        return hashlib.sha256(json.dumps([self.repo, self.revision, *facts], sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """What the file holds."""
        data = {key: getattr(self, key) for key in ("repo", "revision", "format", "template", "system", "params")}
        data |= {"version": _VERSION, "folder": str(self.folder), "weights": list(self.weights)}
        data |= {"files": [asdict(file) for file in self.files], "config": self.config.to_json()}
        return json.dumps(data, indent=1).encode()

    @classmethod
    def parse(cls, name: Name, raw: bytes) -> Record:
        """Raises ValueError, KeyError or TypeError for what is no record."""
        data = json.loads(raw)
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']!r}")
        return cls(
            name,
            str(data["repo"]),
            str(data["revision"]),
            Path(data["folder"]),
            str(data["format"]),
            tuple(Held(str(f["path"]), int(f["size"]), str(f["sha256"]), bool(f["ours"])) for f in data["files"]),
            tuple(str(path) for path in data["weights"]),
            ModelConfig.from_json(data["config"]),
            data["template"] if data["template"] is None else str(data["template"]),
            str(data["system"]),
            dict(data["params"]),
        )

    def model(self, modified_at: datetime, inspect: Inspect | None) -> Model:
        """The record as the library shows it."""
        gguf = self.format == "gguf"
        return Model(
            name=self.name,
            digest=self.digest,
            size=self.size,
            modified_at=modified_at,
            config=self.config,
            template=self.template,
            system=self.system,
            params=self.params,
            gguf=self.folder / self.weights[0] if gguf else None,
            directory=None if gguf else self.folder,
            parent="" if self.name.namespace_model == self.repo else f"{HOST}/{self.repo}",
            origin="hub",
            inspect=inspect,
        )


def canonical(name: Name) -> Name:
    """The name under which a model of the hub is kept: huggingface.co is hf.co."""
    return replace(name, host=HOST) if name.host.lower() in HOSTS else name


def _keys(name: Name) -> Iterator[str]:
    """What a name may be kept under. `org/repo` is hf.co's if nobody else has it."""
    yield canonical(name).key
    if name.host.lower() == DEFAULT_HOST and name.namespace.lower() != DEFAULT_NAMESPACE:
        yield replace(name, host=HOST).key


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    stamp: tuple[int, int, int]
    record: Record
    model: Model


class Records:
    """All records below a models directory, kept in memory. Safe to use from many threads; all methods do file I/O."""

    def __init__(self, models_dir: Path, inspect: Inspect | None = None) -> None:
        self.root = models_dir / "hub"
        self.inspect = inspect
        self._lock = threading.RLock()
        self._tree = ManifestTree(self.root)
        self._entries: dict[str, _Entry] = {}
        self._scanned_at = float("-inf")

    def find(self, name: Name) -> Model | None:
        """The model of that name in any spelling whose files are all there, else None."""
        entry = self._entry(name)
        return entry.model if entry else None

    def record(self, name: Name) -> Record | None:
        """The record behind `find`."""
        entry = self._entry(name)
        return entry.record if entry else None

    def models(self) -> list[Model]:
        """All models whose files are there."""
        with self._lock:
            self._scan()
            return [entry.model for entry in self._entries.values() if _present(entry.record)]

    def names(self) -> list[Name]:
        """Names of all records, whether their files are there or not; no record is read."""
        with self._lock:
            return [name for _, _, name in self._tree.files()]

    def add(self, record: Record) -> None:
        """Makes the record's name this model. Raises `ServerError` when it cannot be written."""
        with self._lock:
            old = self._entries.get(record.name.key)
            path = old.path if old else self.root / record.name.filepath
            write_atomically(path, record.to_json())
            self._load(path)

    def delete(self, name: Name) -> bool:
        """Removes the record and those of its files that only it has and vLLama brought; False when not there."""
        with self._lock:
            self._scan()
            entry = next((self._entries[key] for key in _keys(name) if key in self._entries), None)
            if entry is None:
                return False
            with writing(entry.path):
                entry.path.unlink(missing_ok=True)
            del self._entries[entry.record.name.key]
            parent = entry.path.parent
            while parent != self.root and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent
            self.release(entry.record)
            return True

    def release(self, record: Record) -> None:
        """Removes files of a record that is gone or was replaced, as `delete` does."""
        with self._lock:
            used = {entry.record.folder / file.path for entry in self._entries.values() for file in entry.record.files}
            for file in record.files:
                if file.ours and record.folder / file.path not in used:
                    remove(record.folder / file.path)

    def brought(self, path: Path) -> bool:
        """Whether some record says that vLLama brought this file."""
        with self._lock:
            held = (
                (entry.record.folder / f.path, f.ours) for entry in self._entries.values() for f in entry.record.files
            )
            return any(ours and found == path for found, ours in held)

    def _entry(self, name: Name) -> _Entry | None:
        if not name.valid:
            return None
        # Most users have nothing of the hub, and every request for a model that others serve comes by here.
        if not self._entries and time.monotonic() - self._scanned_at <= _RESCAN_AFTER:
            return None
        with self._lock:
            for again in (False, True):
                for key in _keys(name):
                    entry = self._entries.get(key)
                    entry = self._load(entry.path) if entry else None
                    if entry and _present(entry.record):
                        return entry
                if again or time.monotonic() - self._scanned_at <= _RESCAN_AFTER:
                    return None
                self._scan()
            return None

    def _scan(self) -> None:
        seen = set()
        for _, path, _ in self._tree.files():
            if entry := self._load(path):
                seen.add(entry.record.name.key)
        for key in self._entries.keys() - seen:
            del self._entries[key]
        self._scanned_at = time.monotonic()

    def _load(self, path: Path) -> _Entry | None:
        parts = path.relative_to(self.root).parts
        if len(parts) != 4 or not (name := Name(*parts, "https")).valid:
            return None
        try:
            stat = os.stat(path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            known = self._entries.get(name.key)
            if known and known.stamp == stamp and known.path == path:
                return known
            if stat.st_size > MAX_RECORD:
                raise ValueError("it is too large")
            record = Record.parse(name, path.read_bytes())
        except FileNotFoundError:
            self._entries.pop(name.key, None)
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("ignoring the record %s: %s", path, error)
            self._entries.pop(name.key, None)
            return None
        model = record.model(datetime.fromtimestamp(stat.st_mtime, UTC), self.inspect)
        entry = self._entries[name.key] = _Entry(path, stamp, record, model)
        return entry


def _present(record: Record) -> bool:
    """Whether the cache still has the weights: other programs may empty it."""
    return bool(record.weights) and all(os.path.exists(record.folder / path) for path in record.weights)
