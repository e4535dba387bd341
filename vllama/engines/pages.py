"""Where a model's weights live: mapped from their file, or copied into memory that the kernel backs with huge pages.

Every token reads all weights once. In pages of 4 KiB, which is what a mapped file gets, the processor spends a good
part of that time on looking up addresses; see docs/decisions/0004 for the measurement.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from vllama.hardware import memory

SHARE = 0.5
"""Weights up to this share of the free memory are copied."""

RESERVE = 0.1
"""Share of the free memory that is left to others when a KV memory grows."""

TUNABLES = {"glibc.malloc.hugetlb": "1", "glibc.malloc.mmap_threshold": str(1 << 20)}
"""For the C library's allocator: huge pages for the asking, and buffers from 1 MiB on in mappings of their own.

Left alone, glibc takes ever larger buffers from its heap once one has been freed; parked sequences of all sizes then
leave holes there that are never given back (the soak's memory grew by 9.9 % in ten minutes; docs/batching.md).
"""

_SHARDED = re.compile(r"(.+)-00001-of-(\d{5})(\.gguf)", re.I | re.S)


def huge_pages(root: Path = Path("/")) -> bool:
    """Whether a process can have transparent huge pages for the asking."""
    try:
        mode = (root / "sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return False
    return "[madvise]" in mode or "[always]" in mode


def copies(path: str, *, offloads: bool, root: Path = Path("/"), system: str = sys.platform) -> bool:
    """Whether the weights in this file should be copied into memory, when nobody has said.

    Not where a GPU takes them, nor when they would fill the machine: mapped pages give way to others and come back.
    """
    if system != "linux" or offloads or not huge_pages(root):
        return False
    _, available = memory(root)
    return _size(path) <= SHARE * available


def _size(path: str) -> int:
    """Bytes of the weights: of all files, where this is the first of several."""
    match = _SHARDED.fullmatch(path)
    if match is None:
        return os.path.getsize(path)
    count = int(match[2])
    paths = (f"{match[1]}-{number:05}-of-{count:05}{match[3]}" for number in range(1, count + 1))
    return sum(os.path.getsize(piece) for piece in paths if os.path.exists(piece))


def affordable(size: int, root: Path = Path("/")) -> bool:
    """Whether so many more bytes may be taken now. Yes where the system does not say what is free."""
    _, available = memory(root)
    return not available or size <= (1 - RESERVE) * available


def environment(variables: dict[str, str]) -> dict[str, str]:
    """With `TUNABLES` for the C library; a user's own choices stay. Others than glibc ignore them."""
    chosen = variables.get("GLIBC_TUNABLES", "")
    ours = [f"{name}={value}" for name, value in TUNABLES.items() if name not in chosen]
    return {**variables, "GLIBC_TUNABLES": ":".join(filter(None, (chosen, *ours)))}
