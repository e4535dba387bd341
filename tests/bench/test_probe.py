"""What the machine says of processes that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vllama.bench import probe
from vllama.bench.probe import TreeMeter

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
PARENT = """
import subprocess, sys
for line in sys.stdin:
    word, _, code = line.strip().partition(" ")
    if word == "run":
        subprocess.run([sys.executable, "-c", bytes.fromhex(code).decode()])
    print("done", flush=True)
"""


class Parent:
    """A process that runs children on request and waits for them."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(f"run {code.encode().hex()}", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def parent() -> Iterator[Parent]:
    """Ended with the test."""
    running = Parent()
    with running.process:
        yield running
        assert running.process.stdin is not None
        running.process.stdin.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child that nobody saw leaves no trace")
def test_a_child_that_nobody_saw_alive_counts(parent: Parent) -> None:
    meter = TreeMeter(lambda: probe.tree(parent.process.pid))
    before = meter.cpu_seconds()
    parent.run(BURN.format(seconds=0.3))
    assert meter.cpu_seconds() - before > 0.25
    # The plain sum of the living does not know of it.
    assert probe.cpu_seconds(probe.tree(parent.process.pid)) < before + 0.25


TOUCH = """
import mmap
with open({path!r}, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
sum(mapped[::4096])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's /proc counts waits for the disk")
def test_pages_that_come_from_the_disk_are_counted(parent: Parent, tmp_path: Path) -> None:
    meter = TreeMeter(lambda: probe.tree(parent.process.pid))
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(4 << 20))
    parent.run(TOUCH.format(path=str(path)))
    warm = meter.major_faults()
    parent.run(TOUCH.format(path=str(path)))
    assert meter.major_faults() == warm
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    parent.run(TOUCH.format(path=str(path)))
    if in_memory(tmp_path):
        assert meter.major_faults() == warm
    else:
        assert meter.major_faults() > warm


def in_memory(folder: Path) -> bool:
    """Whether files of a folder have no disk behind them."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    holds = [(place, kind) for place, kind in mounts if folder.is_relative_to(place)]
    return max(holds, key=lambda one: len(one[0]))[1] in ("tmpfs", "ramfs")


def test_a_child_counts_once_whether_alive_or_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", BURN.format(seconds=0.3) + "input()"], stdin=subprocess.PIPE)
    meter = TreeMeter(lambda: [os.getpid(), *probe.descendants(os.getpid())])
    before = meter.cpu_seconds()
    until(lambda: probe.cpu_seconds([child.pid]) > 0.3)
    alive = meter.cpu_seconds()
    assert child.pid in {pid for pid, _ in meter.commands}
    with child:
        child.communicate(b"\n")
    after = meter.cpu_seconds()
    assert alive - before > 0.25
    assert 0 <= after - alive < 0.25


def test_what_nobody_collected_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another parent that vanishes between two looks: its last reading stays in the sum."""
    used = {7: (1.0, 0.0), 8: (2.0, 0.5)}
    monkeypatch.setattr(probe, "_used", lambda pid: ((pid, 1.0), probe._Used(*used[pid])) if pid in used else None)
    meter = TreeMeter(lambda: list(used))
    assert meter.cpu_seconds() == 3.5
    del used[8]
    assert meter.cpu_seconds() == 3.5
    used[7] = (1.5, 0.0)
    assert meter.cpu_seconds() == 4.0
    # A parent that did collect: the same seconds, in another place.
    used[9] = (4.0, 0.0)
    assert meter.cpu_seconds() == 8.0
    del used[9]
    used[7] = (1.5, 4.0)
    assert meter.cpu_seconds() == 8.0


def test_the_one_who_adopts_orphans_counts_only_what_it_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {1: (50.0, 0.0), 7: (1.0, 0.0), 8: (2.0, 0.0)}
    monkeypatch.setattr(probe, "_used", lambda pid: ((pid, 1.0), probe._Used(*used[pid])) if pid in used else None)
    meter = TreeMeter(lambda: [pid for pid in used if pid != 1], lambda: 1)
    assert meter.cpu_seconds() == 3.0
    del used[8]
    used[1] = (60.0, 2.25)
    assert meter.cpu_seconds() == 3.25


def test_command_lines_of_all_that_were_seen(parent: Parent) -> None:
    meter = TreeMeter(lambda: probe.tree(parent.process.pid))
    root = parent.process.pid
    assert meter.children(root) == []
    assert parent.process.stdin is not None
    print(f"run {b'input()'.hex()}", file=parent.process.stdin, flush=True)

    def seen() -> bool:
        meter.cpu_seconds()
        return any(command[-1] == "input()" for command in meter.children(root))

    # The child reads its parent's input, where nothing comes until the next line.
    until(seen)
    print("", file=parent.process.stdin, flush=True)
    assert parent.process.stdout is not None
    assert parent.process.stdout.readline() == "done\n"
    assert [command[-1] for command in meter.children(root)] == ["input()"]


def test_the_peak_of_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([5, 9, 3])
    monkeypatch.setattr(probe, "pss", lambda pids: next(sizes))
    meter = TreeMeter(lambda: [1])
    assert [meter.pss(), meter.pss(), meter.pss()] == [5, 9, 3]
    assert meter.peak_pss == 9


def test_a_tree_without_its_root() -> None:
    me = psutil.Process()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with child:
        assert child.pid in probe.descendants(me.pid)
        assert me.pid not in probe.descendants(me.pid)
        child.communicate(b"\n")
    assert probe.descendants(2**22 + 1) == []
