"""Prefix cache on disk: decoded sequences that outlive the worker.

A folder for each *identity* (what the saved states depend on: the model's file, the library's build, the number format
and shape of the KV memory), a file for each sequence. Files are written under another name and renamed, and carry a
checksum over all that follows it: a damaged file is removed, never given to the library, which would not survive it.
All identities together take at most `limit` bytes, the least recently used files go first.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hashlib

SUFFIX = ".prefix"

_MAGIC = b"vllamaP1"
_HEAD = struct.Struct("<8s16sIQ")
"""Magic, checksum, number of tokens, bytes of state. Tokens (int32) and state follow."""

MAX_TOKENS = 1 << 24

STALE_S = 3600.0
"""A file that was not finished after so long never will be: its writer was killed."""

_FOLDER = re.compile("[0-9a-f]{32}")
_SCRATCH = re.compile(r"[0-9a-f]{32}\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Saved:
    """A sequence on disk."""

    path: Path
    tokens: list[int]
    size: int

    def read(self) -> bytearray | None:
        """Its state; None, and the file is gone, when it is not what was written. A use counts for its age."""
        try:
            content = bytearray(self.path.read_bytes())
            magic, checksum, count, size = _HEAD.unpack_from(content)
            start = _HEAD.size + 4 * count
            sound = (
                magic == _MAGIC
                and len(content) == start + size
                and _checksum(memoryview(content)[24:]) == checksum
                and content[_HEAD.size : start] == _packed(self.tokens)
            )
        except (OSError, struct.error):
            sound = False
        if not sound:
            _remove(self.path)
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)
        del content[:start]
        return content


class Shelf:
    """The saved sequences of one identity in `root`. Files that cannot be read or written are done without."""

    def __init__(self, root: Path, identity: str, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._folder = root / _name(identity.encode())

    def entries(self) -> list[Saved]:
        """What is there, the least recently used first. Looks at the beginning of each file only."""
        found = []
        _sweep(self._folder)
        for path, _, _ in _files(self._folder):
            saved = _glance(path)
            if saved is None:
                _remove(path)
            else:
                found.append(saved)
        return found

    def holds(self, tokens: Sequence[int]) -> bool:
        """Whether exactly this sequence is there."""
        return self._path(tokens).exists()

    def put(self, tokens: Sequence[int], state: bytes | bytearray | memoryview) -> Saved | None:
        """Save a sequence; None when it cannot be, or is larger than all that may be kept."""
        packed = _packed(tokens)
        size = _HEAD.size + len(packed) + len(state)
        if size > self._limit:
            return None
        path = self._path(tokens)
        # The checksum covers what follows it, counts included.
        counts = struct.pack("<IQ", len(tokens), len(state))
        checksum = _checksum(counts, packed, state)
        scratch = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with scratch.open("wb") as file:
                # Prompts are in it: nobody else's business.
                os.fchmod(file.fileno(), 0o600)
                for part in (_MAGIC, checksum, counts, packed, state):
                    file.write(part)
            scratch.replace(path)
        except OSError:
            _remove(scratch)
            return None
        self._trim()
        return Saved(path, list(tokens), size)

    def _path(self, tokens: Sequence[int]) -> Path:
        return self._folder / (_name(_packed(tokens)) + SUFFIX)

    def _trim(self) -> None:
        files = sorted((file for folder in _folders(self._root) for file in _files(folder)), key=lambda f: f[1])
        total = sum(size for _, _, size in files)
        for path, _, size in files:
            if total <= self._limit:
                return
            _remove(path)
            total -= size


def identity_of(path: str) -> str:
    """What tells a model's file from another: its digest where its name says it, else its size, time and two ends."""
    name = os.path.basename(path)
    if name.startswith("sha256-") and len(name) == 71:
        return name
    status = os.stat(path)
    ends = _hash()
    with open(path, "rb") as file:
        ends.update(file.read(1 << 20))
        file.seek(max(0, status.st_size - (1 << 20)))
        ends.update(file.read())
    return f"{status.st_size} {status.st_mtime_ns} {ends.hexdigest()}"


def _hash() -> hashlib.blake2b:
    # Imported here: few use a cache on disk, and OpenSSL's part would make every start of a worker later.
    from hashlib import blake2b

    return blake2b(digest_size=16)


def _name(data: bytes) -> str:
    digest = _hash()
    digest.update(data)
    return digest.hexdigest()


def _packed(tokens: Sequence[int]) -> bytes:
    ids = array("i", tokens)
    return ids.tobytes()


def _checksum(*parts: bytes | bytearray | memoryview) -> bytes:
    digest = _hash()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _glance(path: Path) -> Saved | None:
    """What the beginning of a file says, where it fits the file's length."""
    try:
        with path.open("rb") as file:
            magic, _, count, size = _HEAD.unpack(file.read(_HEAD.size))
            whole = os.fstat(file.fileno()).st_size
            if magic != _MAGIC or not 0 < count <= MAX_TOKENS or whole != _HEAD.size + 4 * count + size:
                return None
            ids = array("i")
            ids.frombytes(file.read(4 * count))
            return Saved(path, ids.tolist(), whole)
    except (OSError, struct.error):
        return None


def _folders(root: Path) -> Iterator[Path]:
    """Those made here: whatever else lies in `root` is somebody else's."""
    with contextlib.suppress(OSError):
        yield from (path for path in root.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir())


def _files(folder: Path) -> list[tuple[Path, int, int]]:
    """(path, time of last use, bytes) of its files, the oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in folder.glob("*" + SUFFIX):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((path, status.st_mtime_ns, status.st_size))
    return sorted(found, key=lambda file: file[1])


def _sweep(folder: Path) -> None:
    """Remove what writers left that were killed."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _SCRATCH.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_S:
                _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
