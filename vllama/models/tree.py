"""The files below manifests/ that can be models, without reading directories again that have not changed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllama.models.names import Name

log = logging.getLogger(__name__)

SETTLED_NS = 2_000_000_000
"""A directory changed later than this before it was read may change again without another mtime: clocks of file
systems tick coarsely, those of other machines may differ."""
DEPTH = 3


@dataclass(frozen=True, slots=True)
class _Directory:
    stamp: tuple[int, int]
    children: tuple[str, ...]
    settled: bool


class ManifestTree:
    """manifests/<host>/<namespace>/<model>/<tag>. Not for two threads at once."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._known: dict[str, _Directory] = {}
        self._names: dict[str, tuple[str, Path, Name] | None] = {}
        self._files: list[tuple[str, Path, Name]] = []
        self.reads = 0
        """Directories that were read since the beginning; each costs some ten times what looking at its mtime does."""

    def files(self) -> list[tuple[str, Path, Name]]:
        """Every file where a manifest can be, sorted so that of two spellings always the same comes first. The path
        also as a text: looking at a file by a Path takes twice as long."""
        if self._unchanged():
            return self._files
        known, self._known = self._known, {}
        names, self._names = self._names, {}
        found = []
        for path in self._below(self._root, DEPTH, known):
            entry = names[path] if path in names else _named(path)
            self._names[path] = entry
            if entry is not None:
                found.append(entry)
        self._files = found
        return found

    def _unchanged(self) -> bool:
        """Whether the last answer still holds; it is then the same list again."""
        try:
            for path, known in self._known.items():
                stat = os.stat(path)
                if (stat.st_mtime_ns, stat.st_ino) != known.stamp or not known.settled:
                    return False
        except OSError:
            return False
        return bool(self._known)

    def _below(self, path: str, depth: int, known: dict[str, _Directory]) -> Iterator[str]:
        for child in self._children(path, known.get(path)):
            if depth:
                yield from self._below(child, depth - 1, known)
            else:
                yield child

    def _children(self, path: str, before: _Directory | None) -> tuple[str, ...]:
        try:
            stat = os.stat(path)
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if before is None or before.stamp != stamp or not before.settled:
                self.reads += 1
                settled = stat.st_mtime_ns < time.time_ns() - SETTLED_NS
                with os.scandir(path) as entries:
                    before = _Directory(stamp, tuple(sorted(entry.path for entry in entries)), settled)
        except OSError:  # it went away, may not be read, or is a file
            return ()
        self._known[path] = before
        return before.children


def _named(text: str) -> tuple[str, Path, Name] | None:
    path = Path(text)
    name = name_of(path)
    if name.valid:
        return text, path, name
    if not path.name.startswith("."):
        log.warning("ignoring %s: the path is not a model name", path)
    return None


def name_of(path: Path) -> Name:
    """The name whose manifest is there."""
    host, namespace, model, tag = path.parts[-4:]
    return Name(host, namespace, model, tag, "https")
