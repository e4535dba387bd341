"""Whether two GGUF files hold the same weights, though their bytes are in another order.

Ollama stores a copy of an imported file with metadata and tensors rearranged, so its digest is another. What a
comparison needs is that every tensor has the same name, type, shape and bytes; that is what `digest` stands for.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from vllama.errors import ConfigError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _STRING, _ARRAY = 4, 8, 9
_MOST_TENSORS = 100_000


@dataclass(frozen=True, slots=True)
class Weights:
    """`digest` in hex, of the `count` tensors in the order of their names."""

    digest: str
    count: int


def read_weights(path: Path) -> Weights:
    """Reads the whole file. Raises `ConfigError` if it is no GGUF file or is cut off."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).weights()
    except (OSError, ValueError, struct.error, KeyError) as error:
        raise ConfigError(f"{path.name}: not a whole GGUF file: {error}") from error


class _Reader:
    """Walks a mapped file; every read beyond its end raises `ValueError` or `struct.error`."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = 0
        self._alignment = 32

    def weights(self) -> Weights:
        """All tensors' bytes. Between the end of one and the next is padding: zeros, whose number may vary."""
        if self._data[:4] != b"GGUF":
            raise ValueError("no GGUF mark")
        self._place = 8
        n_tensors, n_keys = self._number("<Q"), self._number("<Q")
        if n_tensors > _MOST_TENSORS:
            raise ValueError(f"{n_tensors} tensors")
        for _ in range(n_keys):
            self._key()
        tensors = []
        for _ in range(n_tensors):
            name = self._string()
            shape = tuple(self._number("<Q") for _ in range(self._number("<I")))
            kind, offset = self._number("<I"), self._number("<Q")
            tensors.append((offset, name, kind, shape))
        start = -(-self._place // self._alignment) * self._alignment
        ends = [*sorted(offset for offset, *_ in tensors)[1:], len(self._data) - start]
        parts = []
        for (offset, name, kind, shape), end in zip(sorted(tensors), ends, strict=True):
            if not 0 <= offset <= end <= len(self._data) - start:
                raise ValueError(f"tensor {name!r} lies outside of the file")
            content = self._data[start + offset : start + end].rstrip(b"\0")
            parts.append((name, kind, shape, hashlib.sha256(content).hexdigest()))
        return Weights(hashlib.sha256(repr(sorted(parts)).encode()).hexdigest(), len(parts))

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._place)
        self._place += struct.calcsize(form)
        return int(value)

    def _string(self) -> str:
        length = self._number("<Q")
        self._skip(length)
        return self._data[self._place - length : self._place].decode("utf-8", "replace")

    def _key(self) -> None:
        name, kind = self._string(), self._number("<I")
        if name == "general.alignment" and kind == _U32:
            self._alignment = max(1, self._number("<I"))
        else:
            self._value(kind)

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip(self._number("<Q"))
        elif kind == _ARRAY:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in _SIZES:
                self._skip(_SIZES[inner] * count)
            else:
                for _ in range(count):
                    self._value(inner)
        else:
            self._skip(_SIZES[kind])

    def _skip(self, length: int) -> None:
        self._place += length
        if self._place > len(self._data):
            raise ValueError("cut off")
