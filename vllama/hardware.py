"""What this machine is: facts only, no choices. Nothing is looked at before `facts()` is called.

Cores and memory are what this *process* may use: CPU affinity and control-group limits (containers,
systemd slices) count. Sizes are bytes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63, rounded to pages


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator. `memory_*` in bytes; `unified` where it shares the machine's memory (total is the machine's)."""

    name: str
    vendor: str
    memory_total: int
    memory_free: int
    driver: str = ""
    unified: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """`os` is "linux", "darwin" or "windows"; `arch` is "x86_64", "arm64", ...

    `physical_cores` counts whole cores, `logical_cores` hardware threads; both at least 1 and both capped by the
    CPU quota, rounded up. `performance_cores` leaves efficiency cores out where the two kinds are known.
    """

    os: str
    arch: str
    physical_cores: int
    logical_cores: int
    memory_total: int
    memory_available: int
    gpus: tuple[Gpu, ...] = ()
    performance_cores: int = 0


def facts(root: Path = Path("/")) -> Hardware:
    """Looks at the machine: a few ms, up to some hundred where nvidia-smi has to be asked.

    `root` is where /proc and /sys are looked for (tests give a made-up tree).
    """
    system = {"win32": "windows"}.get(sys.platform, sys.platform)
    if system == "linux":
        return _linux(root)
    return _other(system)


def _arch() -> str:
    import platform

    machine = platform.machine().lower()
    return {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine)


def _linux(root: Path) -> Hardware:
    cpus = sorted(os.sched_getaffinity(0)) if root == Path("/") else _listed_cpus(root)
    logical = max(1, len(cpus))
    physical = _physical_cores(root, cpus) or logical
    quota = _cpu_quota(root)
    if quota is not None:
        logical = min(logical, max(1, math.ceil(quota)))
        physical = min(physical, logical)
    total, available = memory(root)
    return Hardware(
        os="linux",
        arch=_arch(),
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=physical,
        memory_total=total,
        memory_available=available,
        gpus=_nvidia(root),
    )


def _listed_cpus(root: Path) -> list[int]:
    directories = (root / "sys/devices/system/cpu").glob("cpu[0-9]*")
    return sorted(int(path.name[3:]) for path in directories if path.name[3:].isdigit())


def _physical_cores(root: Path, cpus: list[int]) -> int:
    """Distinct (package, core) pairs of the CPUs; 0 if the kernel does not tell."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        package, core = _read(topology / "physical_package_id"), _read(topology / "core_id")
        if not core:
            return 0
        cores.add((package, core))
    return len(cores)


def _cpu_quota(root: Path) -> float | None:
    """CPUs that the tightest control group above this process grants; None without a limit."""
    quotas = []
    for directory in _cgroups(root, "cpu"):
        limit = _read(directory / "cpu.max").split()
        if not limit:
            limit = [_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")]
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]):
            quotas.append(int(limit[0]) / int(limit[1]))
    return min((quota for quota in quotas if quota > 0), default=None)


def memory(root: Path) -> tuple[int, int]:
    """Total and available bytes, the smaller of the machine's and each control group's."""
    info = {}
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        number = value.split()
        if number and number[0].isdigit():
            info[name] = int(number[0]) * 1024
    total = info.get("MemTotal", 0)
    available = info.get("MemAvailable", info.get("MemFree", 0))
    for directory in _cgroups(root, "memory"):
        limit = _number(directory / "memory.max", directory / "memory.limit_in_bytes")
        if limit is None or limit >= _UNLIMITED:
            continue
        used = _number(directory / "memory.current", directory / "memory.usage_in_bytes") or 0
        # The page cache counts as used there, but the kernel gives it back when it is asked for.
        stat = dict(line.split(" ", 1) for line in _read(directory / "memory.stat").splitlines() if " " in line)
        reclaimable = stat.get("inactive_file", stat.get("total_inactive_file", "0"))
        used -= min(used, int(reclaimable) if reclaimable.isdigit() else 0)
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The control-group directories of this process for a controller, from its own up to the root; v2 and v1."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            base = mount
        elif controller in controllers.split(","):
            base = mount / controllers if (mount / controllers).is_dir() else mount / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            directory = base.joinpath(*parts[:depth])
            if directory.is_dir():
                yield directory


def _nvidia(root: Path) -> tuple[Gpu, ...]:
    """NVIDIA's GPUs: asked of nvidia-smi, or by name from the driver where that is not to be had."""
    driver = root / "proc/driver/nvidia"
    if root == Path("/"):
        import shutil

        program = shutil.which("nvidia-smi")
        if program is None and not driver.is_dir():
            return ()
        if program is not None and (listed := _nvidia_smi(program)):
            return listed
    found = []
    for path in sorted(driver.glob("gpus/*/information")):
        lines = dict(line.split(":", 1) for line in _read(path).splitlines() if ":" in line)
        found.append(Gpu(lines.get("Model", "NVIDIA GPU").strip(), "nvidia", 0, 0))
    return tuple(found)


def _nvidia_smi(program: str) -> tuple[Gpu, ...]:
    import subprocess

    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_nvidia_smi(done.stdout) if done.returncode == 0 else ()


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's CSV of name, total MiB, free MiB, driver; sizes it does not tell are 0."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            total, free = (int(field) << 20 if field.isdigit() else 0 for field in fields[1:3])
            found.append(Gpu(fields[0], "nvidia", total, free, fields[3]))
    return tuple(found)


def _other(system: str) -> Hardware:
    """macOS and the rest, through psutil."""
    import psutil

    memory = psutil.virtual_memory()
    logical = os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    arch = _arch()
    gpus: tuple[Gpu, ...] = ()
    performance = physical
    if system == "darwin" and arch == "arm64":
        performance = int(_sysctl("hw.perflevel0.physicalcpu") or physical)
        name = _sysctl("machdep.cpu.brand_string") or "Apple silicon"
        gpus = (Gpu(name, "apple", memory.total, memory.available, unified=True),)
    return Hardware(
        os=system,
        arch=arch,
        physical_cores=physical,
        logical_cores=logical,
        performance_cores=performance,
        memory_total=memory.total,
        memory_available=memory.available,
        gpus=gpus,
    )


def _sysctl(name: str) -> str:
    import subprocess

    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _number(*paths: Path) -> int | None:
    """The number in the first of the files that holds one."""
    for path in paths:
        text = _read(path)
        if text.isdigit():
            return int(text)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
