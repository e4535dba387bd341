"""The hub through huggingface_hub, which is imported at the first call: its cache, token, HF_ENDPOINT, offline mode."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vllama.errors import VllamaError
from vllama.models.hub.failures import CancelledDownloadError, HubError, offline, told
from vllama.models.hub.files import RepoFile

MAX_FILES = 20_000
TIMEOUT_S = 30.0
"""For one answer of the hub's API."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    repo: str
    revision: str
    files: tuple[RepoFile, ...]
    base_models: frozenset[str] = frozenset()
    """Lower-case names of the models that this one says to be a quantisation of."""


class Watch:
    """How far a download is, and the wish that it end. One thread downloads, another one looks."""

    def __init__(self) -> None:
        self.completed = 0
        self.cancelled = threading.Event()


class Hub:
    """Every method blocks and raises `VllamaError` with the next step. None means what the library's settings say."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
        token: str | bool | None = None,
        offline: bool | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._cache_dir = cache_dir
        self._token = token
        self._offline = offline

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        if self._endpoint:
            return self._endpoint
        from huggingface_hub import constants

        return str(constants.ENDPOINT)

    @property
    def offline(self) -> bool:
        """Whether only the cache may be used."""
        if self._offline is not None:
            return self._offline
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    def repository(self, repo: str) -> Repository:
        """What is in the repository now."""
        if self.offline:
            return self._cached(repo)
        from huggingface_hub import HfApi

        try:
            api = HfApi(endpoint=self._endpoint, token=self._token, library_name="vllama")
            info = api.model_info(repo, files_metadata=True, timeout=TIMEOUT_S)
        except Exception as error:
            raise self._told(error, repo) from error
        siblings = info.siblings or []
        if len(siblings) > MAX_FILES or not info.sha:
            raise HubError(f"{self.endpoint} sent no usable list of the files of {repo}")
        files = tuple(RepoFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "") for s in siblings)
        prefix = "base_model:"
        bases = (tag.rpartition(":")[2].lower() for tag in info.tags or () if tag.startswith(prefix))
        return Repository(repo, info.sha, files, frozenset(bases))

    def _cached(self, repo: str) -> Repository:
        from huggingface_hub import constants

        cache = self._cache_dir or Path(constants.HF_HUB_CACHE)
        snapshots = cache / f"models--{repo.replace('/', '--')}" / "snapshots"
        # not refs/main: files that were asked for by their commit, as ours, set none
        found = sorted(snapshots.glob("*/"), key=lambda path: path.stat().st_mtime_ns)
        if not found:
            raise offline(repo)
        folder = found[-1]
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = (RepoFile(path.relative_to(folder).as_posix(), path.stat().st_size, _linked(path)) for path in paths)
        return Repository(repo, folder.name, tuple(files))

    def cached(self, repository: Repository, file: RepoFile) -> Path | None:
        """Where the file is in the cache, None when it is not there."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            repository.repo, file.path, cache_dir=self._cache_dir, revision=repository.revision
        )
        return Path(found) if isinstance(found, str) else None

    def download(self, repository: Repository, file: RepoFile, watch: Watch) -> Path:
        """Brings the file into the cache, if it is not there; its path, which stays as long as the cache has it."""
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                repository.repo,
                file.path,
                revision=repository.revision,
                cache_dir=self._cache_dir,
                token=self._token,
                endpoint=self._endpoint,
                local_files_only=self.offline,
                library_name="vllama",
                tqdm_class=cast(Any, _bar(watch)),
            )
        except VllamaError:
            raise
        except Exception as error:
            if watch.cancelled.is_set():
                raise CancelledDownloadError from error
            raise self._told(error, repository.repo) from error
        return Path(path)

    def _told(self, error: Exception, repo: str) -> VllamaError:
        from huggingface_hub import get_token

        token = isinstance(self._token, str) or (self._token is not False and get_token() is not None)
        return told(error, repo, self.endpoint, token=token)


def verified(path: Path, file: RepoFile, watch: Watch) -> bool:
    """Whether the file has the size and, where the hub says one, the sha256 that it should. Reads all of it."""
    try:
        if path.stat().st_size != file.size:
            return False
        if not file.sha256:
            return True
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
                if watch.cancelled.is_set():
                    raise CancelledDownloadError
    except OSError as error:
        raise HubError(f"cannot read {path.name} in the Hugging Face cache: {error.strerror}") from error
    return digest.hexdigest() == file.sha256.lower()


def remove(path: Path) -> None:
    """Takes a file out of the cache, its blob too unless another revision has it. Empty folders of a snapshot go."""
    with contextlib.suppress(OSError):
        blob = path.resolve(strict=True) if path.is_symlink() else None
        snapshots = next((parent.parent for parent in path.parents if parent.parent.name == "snapshots"), None)
        path.unlink()
        if blob is not None and blob.parent.name == "blobs" and not _shared(blob, snapshots):
            blob.unlink()
        parent = path.parent
        while snapshots is not None and parent != snapshots:
            parent.rmdir()
            parent = parent.parent


def _shared(blob: Path, snapshots: Path | None) -> bool:
    if snapshots is None:
        return True
    return any(link.is_symlink() and os.path.realpath(link) == str(blob) for link in snapshots.rglob("*"))


def _linked(path: Path) -> str:
    """The sha256 that the cache calls a large file's blob by, "" for others."""
    name = os.path.basename(os.path.realpath(path)) if path.is_symlink() else ""
    return name if len(name) == 64 else ""


def _bar(watch: Watch) -> Callable[..., object]:
    """A progress bar, as huggingface_hub wants one, that draws nothing and counts into `watch`."""

    class Bar:
        """As much of tqdm as a download touches. Raises in the middle of one that nobody wants any more."""

        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.total = total
            self.n = initial
            self.update(0)

        def update(self, count: float | None = 1) -> None:
            if watch.cancelled.is_set():
                raise CancelledDownloadError
            self.n += int(count or 0)
            watch.completed = max(0, self.n)

        def update_transfer(self, count: float | None = 1) -> None:
            """Bytes on the way: what counts is what has arrived on the disk."""

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            """Nothing is drawn."""

        set_transfer_postfix_str = set_description = refresh = reset = set_postfix_str

        def close(self) -> None:
            """Nothing is open."""

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    return Bar
