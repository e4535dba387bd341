"""GGUF models in several files: NAME-00001-of-0000N.gguf, loaded by naming the first. Their headers are read as one.

The first file carries the metadata; each carries its share of the tensors and says which one it is (`split.no`).
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import replace
from pathlib import Path

from vllama.errors import ModelLoadError
from vllama.models.gguf import GGUFMetadata, read_metadata

MAX_SHARDS = 1000
_FIRST = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.I)
_COUNT = "split.count"


def shard_paths(first: Path) -> tuple[Path, ...]:
    """All files of the model, by the first one's name; that file alone for a model in one piece."""
    match = _FIRST.fullmatch(first.name)
    if match is None or int(match[2]) != 1 or not 1 < int(match[3]) <= MAX_SHARDS:
        return (first,)
    stem, count = match[1], int(match[3])
    return tuple(first.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))


def weights_size(first: Path) -> int:
    """Bytes of all files. Raises OSError for one that is missing."""
    return sum(os.stat(path).st_size for path in shard_paths(first))


def read_model(path: Path) -> GGUFMetadata:
    """The metadata with the tensors of all pieces; as `read_metadata` for a model in one piece.

    Raises `ModelLoadError` for a piece that is missing, is not the first, or does not belong to the others.
    """
    metadata = read_metadata(path)
    if metadata.kv.get(_COUNT, 0) in (0, 1):
        return metadata
    paths = shard_paths(path)
    if metadata.kv.get(_COUNT) != len(paths):
        raise ModelLoadError(
            f"{path.name} is one piece of {metadata.kv[_COUNT]}: load the first, which is called NAME-00001-of-"
            f"{_padded(metadata.kv[_COUNT])}.gguf, with the others beside it"
        )
    try:
        stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, paths))
    except OSError as error:
        missing = Path(error.filename or path).name
        raise ModelLoadError(f"{missing} is missing beside {path.name}: {error.strerror}") from error
    return _joined(paths, stamps)


def _padded(count: object) -> str:
    return f"{count:05}" if isinstance(count, int) else str(count)


@functools.lru_cache(maxsize=64)
def _joined(paths: tuple[Path, ...], _stamps: tuple[tuple[int, int], ...]) -> GGUFMetadata:
    first = read_metadata(paths[0])
    tensors = list(first.tensors)
    for number, path in enumerate(paths):
        piece = read_metadata(path)
        if piece.kv.get("split.no") != number or piece.kv.get(_COUNT) != len(paths):
            raise ModelLoadError(f"{path.name} is not piece {number + 1} of {len(paths)} of this model")
        if number:
            tensors += piece.tensors
    wanted = first.kv.get("split.tensors.count")
    if isinstance(wanted, int) and wanted != len(tensors):
        raise ModelLoadError(f"{paths[0].name} and its pieces have {len(tensors)} tensors instead of {wanted}")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelLoadError(f"a tensor occurs in two pieces of {paths[0].name}")
    return replace(first, tensors=tuple(tensors))
