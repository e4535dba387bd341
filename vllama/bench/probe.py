"""What the machine says: memory and CPU time of process trees, steal, a fixed piece of work, facts for the record."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_LINUX = platform.system() == "Linux"
_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = bytes(range(256)) * 4096


def tree(root: int) -> list[int]:
    """The process and all its living descendants; empty if it is gone."""
    try:
        process = psutil.Process(root)
        return [root, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def descendants(root: int) -> list[int]:
    """All living descendants of a process, without itself."""
    return tree(root)[1:]


def pss(pids: Iterable[int]) -> int:
    """Proportional set size in bytes: shared pages count once, split among their users. RSS where /proc has no PSS."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            try:
                total += psutil.Process(pid).memory_info().rss
            except psutil.Error:
                continue
        else:
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(found.group(1)) * 1024 if found else 0
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time used so far by living processes, ended threads included."""
    return sum(_cpu(pid) for pid in pids)


def _cpu(pid: int) -> float:
    if _LINUX:
        try:
            # The kernel's own clock of another process has ns resolution; /proc/PID/stat only 10 ms.
            return time.clock_gettime((~pid << 3) | 2)
        except OSError:
            return 0.0
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def major_faults(pids: Iterable[int]) -> int:
    """How often living processes, and their children that ended and were waited for, had to wait for a page from the
    disk; 0 where there is no /proc. The kernel reads ahead, so one wait stands for up to some dozen pages."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[9]) + int(fields[10])
    return total


@dataclass(frozen=True, slots=True)
class _Used:
    """CPU-seconds of one process: its own, and of its children that ended and were waited for."""

    own: float
    reaped: float


class TreeMeter:
    """CPU time and memory of processes that come and go: what a process used is not lost when it ends.

    `pids` gives the living processes. `adopter`, if not 0, is a process outside of the tree that waits for its
    orphans; only what it collected counts, not its own work. The kernel adds a waited-for child to its parent; what
    nobody collected is added from the last time it was seen, so the sum never falls. `commands` are the command
    lines of all processes that were ever seen, in the order of their first sight.
    """

    def __init__(self, pids: Callable[[], list[int]], adopter: Callable[[], int] = lambda: 0) -> None:
        self._pids = pids
        self._adopter = adopter
        self._seen: dict[tuple[int, float], _Used] = {}
        self._lost = 0.0
        self._total = 0.0
        self._settled: set[tuple[int, float]] = set()
        self._faults = 0
        self.commands: dict[tuple[int, float], list[str]] = {}
        self.peak_pss = 0

    def cpu_seconds(self) -> float:
        """CPU-seconds of all processes so far, ended ones included."""
        now: dict[tuple[int, float], _Used] = {}
        for pid in self._pids():
            if (found := _used(pid)) is not None:
                now[found[0]] = found[1]
                self._notice(found[0])
        adopter = self._adopter()
        if adopter and (found := _used(adopter)) is not None:
            now[found[0]] = _Used(0.0, found[1].reaped)
        gone = [used for key, used in self._seen.items() if key not in now]
        if gone:
            collected = sum(used.reaped for used in now.values()) - sum(
                used.reaped for key, used in self._seen.items() if key in now
            )
            missing = sum(used.own + used.reaped for used in gone) - collected
            # The kernel tells collected time in whole ticks, user and system time each.
            if missing > 2 * len(gone) / _TICKS:
                self._lost += missing
        self._seen = now
        total = sum(used.own + used.reaped for used in now.values()) + self._lost
        self._total = max(self._total, total)
        return self._total

    def major_faults(self) -> int:
        """Waits for the disk so far, see `major_faults`; those of a process that nobody waited for are lost."""
        self._faults = max(self._faults, major_faults(self._pids()))
        return self._faults

    def children(self, root: int) -> list[list[str]]:
        """The command lines of all processes seen so far but the root's, oldest first."""
        return [command for (pid, _), command in self.commands.items() if pid != root and command]

    def pss(self) -> int:
        """Memory of the living processes in bytes, see `pss`; the highest value asked for is kept in `peak_pss`."""
        found = pss(self._pids())
        self.peak_pss = max(self.peak_pss, found)
        return found

    def _notice(self, key: tuple[int, float]) -> None:
        # Between fork and exec a child still carries its parent's command line: what it becomes is read next time.
        if key in self._settled:
            return
        if key in self.commands:
            self._settled.add(key)
        try:
            self.commands[key] = psutil.Process(key[0]).cmdline() or self.commands.get(key, [])
        except psutil.Error:
            self.commands.setdefault(key, [])


def _used(pid: int) -> tuple[tuple[int, float], _Used] | None:
    """((pid, start time), CPU-seconds); None if the process is gone."""
    if _LINUX:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (pid, float(fields[19])), _Used(_cpu(pid), (int(fields[13]) + int(fields[14])) / _TICKS)
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return (pid, process.create_time()), _Used(times.user + times.system, 0.0)
    except psutil.Error:
        return None


@dataclass(frozen=True, slots=True)
class Ticks:
    """CPU time of the whole machine since boot, in ticks of `hz`: working, taken by the hypervisor, and altogether."""

    busy: int
    stolen: int
    total: int

    @classmethod
    def now(cls) -> Ticks | None:
        """None where the system does not say."""
        try:
            first = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, idle, iowait, irq, softirq, stolen = (int(x) for x in first)
        busy = user + nice + system + irq + softirq
        return cls(busy, stolen, busy + idle + iowait + stolen)

    @classmethod
    def spent(cls, parts: Sequence[tuple[Ticks | None, Ticks | None]]) -> tuple[Ticks | None, Ticks | None]:
        """Several times, each as (before, after), as if they were one; (None, None) if one is not known."""
        known = [(a, b) for a, b in parts if a is not None and b is not None]
        if len(known) < len(parts):
            return None, None
        sums = [sum(getattr(b, name) - getattr(a, name) for a, b in known) for name in ("busy", "stolen", "total")]
        return cls(0, 0, 0), cls(*sums)


def steal_share(before: Ticks | None, after: Ticks | None) -> float:
    """The share of the machine's time that went to other guests; -1 = unknown."""
    if before is None or after is None or after.total <= before.total:
        return -1.0
    return (after.stolen - before.stolen) / (after.total - before.total)


def foreign_share(before: Ticks | None, after: Ticks | None, known_s: float) -> float:
    """The share of the machine's time that programs outside the benchmark used; -1 = unknown.

    `known_s` are the CPU-seconds of the benchmark's own processes in the same time.
    """
    if before is None or after is None or after.total <= before.total:
        return -1.0
    known = known_s * _TICKS
    return max(0.0, (after.busy - before.busy - known) / (after.total - before.total))


def control_work() -> int:
    """ns for a fixed piece of work that no system under test can influence: shows drift of the machine itself."""
    began = time.perf_counter_ns()
    for _ in range(4):
        hashlib.sha256(_BLOCK).digest()
    return time.perf_counter_ns() - began


def listens(pids: Iterable[int], port: int) -> bool:
    """Whether one of the processes holds a listening TCP socket on `port`."""
    for pid in pids:
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,):
                return True
    return False


def facts() -> dict[str, Any]:
    """The machine and the software, for environment.json: nothing that names a person, a host or a place."""
    packages = {}
    for name in ("vllama", "llama-cpp-python", "uvicorn", "uvloop", "httptools", "fastapi", "orjson", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "os": platform.system(),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "physical_cores": psutil.cpu_count(logical=False) or 0,
        "usable_cores": _usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "swap_used_bytes": psutil.swap_memory().used,
        "python": platform.python_version(),
        "packages": packages,
    }


def physical_threads() -> int:
    """How many threads a compute-bound program should use here."""
    physical = psutil.cpu_count(logical=False) or 1
    return max(1, min(physical, _usable_cores()))


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or "unknown"


def scrub(text: str, root: Path) -> str:
    """Replace the places of this machine in a command line or message by what they are, longest first."""
    named = {
        root: ".",
        Path(sys.prefix): "$VENV",
        Path(sys.base_prefix): "$PYTHON",
        Path(tempfile.gettempdir()): "$TMP",
        Path.home(): "~",
    }
    # A program may print where a link leads.
    places = {str(place.resolve()): name for place, name in named.items()} | {
        str(place): name for place, name in named.items()
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            # Not inside a longer name; a full stop may end a sentence or begin a suffix.
            text = re.sub(re.escape(place) + r"(?![\w-]|\.\w)", places[place], text)
    return text
