"""Hardware facts, on made-up /proc and /sys trees and on the machine itself."""

import os
import sys
from pathlib import Path

import pytest

from vllama.hardware import facts, parse_nvidia_smi

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc and /sys")

GIB = 1 << 30


def write(root: Path, **files: str) -> None:
    """Each key is a path with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four hardware threads on two cores, 8 GiB of memory with 6 available, no limits."""
    for cpu in range(4):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{cpu % 2}\n")
    (tmp_path / "sys/devices/system/cpu/cpufreq").mkdir()
    write(
        tmp_path,
        proc__meminfo=f"MemTotal: {8 * GIB // 1024} kB\nMemFree: 5 kB\nMemAvailable: {6 * GIB // 1024} kB\n",
        proc__self__cgroup="0::/a/b\n",
    )
    return tmp_path


def test_without_limits(root: Path) -> None:
    machine = facts(root)
    assert (machine.physical_cores, machine.logical_cores) == (2, 4)
    assert (machine.memory_total, machine.memory_available) == (8 * GIB, 6 * GIB)
    assert machine.gpus == ()


def test_the_tightest_group_counts(root: Path) -> None:
    write(
        root,
        **{
            "sys__fs__cgroup__a__cpu.max": "150000 100000\n",
            "sys__fs__cgroup__a__b__cpu.max": "max 100000\n",
            "sys__fs__cgroup__a__memory.max": "max\n",
            "sys__fs__cgroup__a__b__memory.max": str(4 * GIB),
            "sys__fs__cgroup__a__b__memory.current": str(3 * GIB),
            "sys__fs__cgroup__a__b__memory.stat": f"anon 1\ninactive_file {GIB}\n",
        },
    )
    machine = facts(root)
    assert (machine.physical_cores, machine.logical_cores) == (2, 2)
    assert (machine.memory_total, machine.memory_available) == (4 * GIB, 2 * GIB)


def test_less_than_one_cpu_is_one(root: Path) -> None:
    write(root, **{"sys__fs__cgroup__cpu.max": "20000 100000\n"})
    machine = facts(root)
    assert (machine.physical_cores, machine.logical_cores) == (1, 1)


def test_the_older_kind_of_groups(root: Path) -> None:
    write(
        root,
        proc__self__cgroup="4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
        **{
            "sys__fs__cgroup__cpu,cpuacct__cpu.cfs_quota_us": "100000\n",
            "sys__fs__cgroup__cpu,cpuacct__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__memory__memory.limit_in_bytes": str(2 * GIB),
            "sys__fs__cgroup__memory__memory.usage_in_bytes": str(GIB),
            "sys__fs__cgroup__memory__docker__x__memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    machine = facts(root)
    assert machine.logical_cores == 1
    assert (machine.memory_total, machine.memory_available) == (2 * GIB, GIB)


def test_a_driver_without_nvidia_smi(root: Path) -> None:
    write(root, **{"proc__driver__nvidia__gpus__0000:01__information": "Model: \t NVIDIA H100\nIRQ: 3\n"})
    (gpu,) = facts(root).gpus
    assert (gpu.name, gpu.vendor, gpu.memory_total) == ("NVIDIA H100", "nvidia", 0)


def test_nvidia_smi_output() -> None:
    first, second = parse_nvidia_smi("NVIDIA H100, 81559, 81000, 570.1\nNVIDIA GB10, [N/A], [N/A], 580.2\n\n")
    assert (first.name, first.memory_total, first.memory_free) == ("NVIDIA H100", 81559 << 20, 81000 << 20)
    assert (second.driver, second.memory_total) == ("580.2", 0)


def test_this_machine() -> None:
    machine = facts()
    assert machine.os == "linux"
    assert 1 <= machine.physical_cores <= machine.logical_cores <= len(os.sched_getaffinity(0))
    assert 0 < machine.memory_available <= machine.memory_total
