"""Damaged GGUF files: headers of real shape, changed at random, and files that lie on purpose."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tools.gguf import gguf_bytes, header
from vllama.models.gguf import GGUFArray, read_metadata

NUMBERS = (0, 1, 7, 8, 9, 31, 32, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63)
"""What counts, lengths and offsets are made: round the limits of types, and far beyond any file."""
EDGES = tuple(n & 2**64 - 1 for number in NUMBERS for n in (number, number + 1, -number))


@dataclass(frozen=True)
class Seed:
    """A header that can be read, and how many bytes the whole file has: the weights are a hole in it."""

    head: bytes
    size: int

    def write(self, path: Path, head: bytes | bytearray, size: int | None = None) -> None:
        """A file with another header, sparse behind it."""
        path.write_bytes(head)
        os.truncate(path, self.size if size is None else size)


def seed_of(path: Path, elements: int) -> Seed:
    """The metadata and tensors of a real file, its arrays cut to so many elements."""
    found = read_metadata(path)
    kv: dict[str, Any] = {
        key: value.values()[:elements] if isinstance(value, GGUFArray) else value for key, value in found.kv.items()
    }
    ends = [t.offset for t in found.tensors[1:]] + [path.stat().st_size - found.data_offset]
    infos = [(t.name, t.shape, t.type, end - t.offset) for t, end in zip(found.tensors, ends, strict=True)]
    head = header(kv, infos)
    return Seed(head, len(head) + ends[-1])


def whole(path: Path) -> Seed:
    """The header of a real file as it is, vocabulary and all."""
    with path.open("rb") as file:
        return Seed(file.read(read_metadata(path).data_offset), path.stat().st_size)


def made(metadata: Mapping[str, Any]) -> Seed:
    """A small file of our own."""
    raw = gguf_bytes(metadata)
    return Seed(raw, len(raw))


def _flip(rng: random.Random, head: bytearray) -> None:
    for _ in range(rng.randint(1, 8)):
        head[rng.randrange(len(head))] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, head: bytearray) -> None:
    """Some place becomes a number that may be a count, a length, a type or an offset."""
    wide = rng.random() < 0.7
    raw = struct.pack("<Q", rng.choice(EDGES))[: 8 if wide else 4]
    # Half of them in the first bytes, where the counts of everything else are.
    end = min(len(head), 200) if rng.random() < 0.5 else len(head)
    at = rng.randrange(max(1, end - len(raw)))
    head[at : at + len(raw)] = raw


def _length(rng: random.Random, head: bytearray) -> None:
    """A length or count that is there already becomes another one: eight bytes of which the upper five are 0."""
    zeros = bytes(5)
    at = head.find(zeros, rng.randrange(len(head)))
    if at >= 3:
        head[at - 3 : at + 5] = struct.pack("<Q", rng.choice((*EDGES, len(head), rng.randrange(1 << 20))))


def _cut(rng: random.Random, head: bytearray) -> None:
    at = rng.randrange(len(head))
    del head[at : at + rng.choice((1, 4, 8, 64, len(head)))]


def _repeat(rng: random.Random, head: bytearray) -> None:
    at, length = rng.randrange(len(head)), rng.choice((1, 4, 8, 64, 512))
    head[at:at] = head[at : at + length] * rng.choice((1, 2, 64))


def _noise(rng: random.Random, head: bytearray) -> None:
    at, length = rng.randrange(len(head)), rng.choice((1, 4, 16, 256))
    head[at : at + length] = rng.randbytes(length)


CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (_flip, _number, _length, _cut, _repeat, _noise)


def damaged(rng: random.Random, seed: Seed) -> tuple[bytearray, int]:
    """A header with one to four changes, and the size of its file: now and then cut short."""
    head = bytearray(seed.head)
    for _ in range(rng.randint(1, 4)):
        if not head:
            break
        rng.choice(CHANGES)(rng, head)
    size = rng.choice((seed.size, seed.size, seed.size, len(head), rng.randrange(len(head) + 1), 1 << 40))
    return head, size
