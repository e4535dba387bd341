"""Uploads into the store's blobs: written and hashed piece by piece, visible only when the digest is right."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

from vllama.errors import RequestError
from vllama.goquote import quote
from vllama.models.manifest import DIGEST
from vllama.models.store import Store, writing

_PREFIX = ".vllama-"
_CHUNK = 1 << 20


def has_blob(store: Store, digest: str) -> bool:
    """Whether the blob is there. Raises `RequestError` for a malformed digest."""
    return checked_blob_path(store, digest).is_file()


def checked_blob_path(store: Store, digest: str) -> Path:
    """Where a blob is or will be. Raises `RequestError` for a malformed digest."""
    if not DIGEST.fullmatch(digest):
        raise RequestError("invalid digest format")
    return store.blob_path(digest)


class BlobWriter:
    """One upload. `write` pieces as they come, then `commit`, or `abort`; not for use by two threads at once.

        with BlobWriter(store) as writer:
            writer.write(chunk)
            writer.commit("sha256:...")

    Leaving the block without `commit` removes what was written. All methods raise `ServerError` when the
    disk refuses.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hash = hashlib.sha256()
        self.size = 0
        with writing(store.blobs):
            store.blobs.mkdir(parents=True, exist_ok=True)
            handle, self._path = tempfile.mkstemp(dir=store.blobs, prefix=_PREFIX)
            self._file = os.fdopen(handle, "wb", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Appends bytes."""
        self._hash.update(chunk)
        view = memoryview(chunk)
        with writing(self._store.blobs):
            while view:
                view = view[self._file.write(view) or 0 :]
        self.size += len(chunk)

    def commit(self, expected: str | None = None) -> str:
        """Makes the blob visible and returns its digest. Raises `RequestError` if it is not `expected`."""
        digest = "sha256:" + self._hash.hexdigest()
        if expected is not None and expected.replace("-", ":", 1) != digest:
            self.abort()
            raise RequestError(f"digest mismatch, expected {quote(expected.replace('-', ':', 1))}, got {quote(digest)}")
        with writing(self._store.blobs):
            os.fsync(self._file.fileno())
            self._file.close()
            os.chmod(self._path, 0o644)
            os.replace(self._path, self._store.blob_path(digest))
        return digest

    def abort(self) -> None:
        """Throws away what was written. Twice, or after `commit`, is fine."""
        self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def import_file(store: Store, path: Path) -> tuple[str, int, bool]:
    """Copies a file into the blobs; returns digest, size in bytes, and whether it is new there."""
    with path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    if has_blob(store, digest):
        return digest, size, False
    with BlobWriter(store) as writer, path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            writer.write(chunk)
        writer.commit(digest)
    return digest, size, True


def remove_leftovers(store: Store, older_than: float = 3600.0) -> None:
    """Removes our own temporary files that a crash left, if not touched for so many seconds. A store that cannot be
    written stays as it is."""
    limit = time.time() - older_than
    for root, pattern in ((store.blobs, f"{_PREFIX}*"), (store.manifests, f"*/*/*/{_PREFIX}*")):
        with contextlib.suppress(OSError):
            for path in root.glob(pattern):
                with contextlib.suppress(OSError):
                    _remove_older(path, limit)


def _remove_older(path: Path, limit: float) -> None:
    if path.is_dir() and not path.is_symlink():  # quantising has a directory
        for inside in path.iterdir():
            _remove_older(inside, limit)
        if not any(path.iterdir()):
            path.rmdir()
    elif path.lstat().st_mtime < limit:
        path.unlink()
