"""How much memory a tree of processes has: the kernel's proportional share, split by what it is for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

_FIELD = re.compile(r"^(Pss|Pss_Anon|AnonHugePages):\s+(\d+) kB", re.M)


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes of one process: `pss` in all, of which `anon` are no file's, of which `huge` lie in huge pages."""

    pss: int
    anon: int = 0
    huge: int = 0


def use(process: psutil.Process) -> Use:
    """Linux asks `smaps_rollup`; elsewhere what belongs to the process alone."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return Use(process.memory_full_info().uss)
    found = {name: int(kib) * 1024 for name, kib in _FIELD.findall(text)}
    return Use(found.get("Pss", 0), found.get("Pss_Anon", 0), found.get("AnonHugePages", 0))


def tree(pid: int) -> dict[int, Use]:
    """The process and all its descendants that are there just now."""
    root = psutil.Process(pid)
    found = {}
    for process in (root, *root.children(recursive=True)):
        try:
            found[process.pid] = use(process)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile
    return found
