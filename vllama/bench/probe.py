"""What the machine says: memory and CPU time of process trees, steal, a fixed piece of work, facts for the record."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_LINUX = platform.system() == "Linux"
_BLOCK = bytes(range(256)) * 4096


def tree(root: int) -> list[int]:
    """The process and all its living descendants; empty if it is gone."""
    try:
        process = psutil.Process(root)
        return [root, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


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
    known = known_s * os.sysconf("SC_CLK_TCK")
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
    places = {
        str(root): ".",
        sys.prefix: "$VENV",
        sys.base_prefix: "$PYTHON",
        tempfile.gettempdir(): "$TMP",
        str(Path.home()): "~",
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = re.sub(re.escape(place) + r"(?=/|$|[\s\"',:=])", places[place], text)
    return text
