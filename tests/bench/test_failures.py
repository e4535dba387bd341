"""What goes wrong in a run, for real: the harness in a process of its own measures the golden server and the gateway on
its scripted engine, and loses one of them, the disk, a port, a program, or its user's patience."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vllama.bench.__main__ import main
from vllama.bench.exits import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_OK, EXIT_USAGE
from vllama.bench.results import CannotWrite, Run, Sample, Slot, Writer, read_run
from vllama.bench.systems.base import free_port

PROFILE = """
[tiny]
title = "golden and scripted"
scenarios = ["streaming"]
systems = ["golden", "scripted"]
control = "{control}"
pairs = {pairs}
seed = 1
ctx = 512
parallel = 2
threads = 1
timeout = {timeout}
warmup_tokens = 2
"""

SCENARIO = """
title = "t"
stream = true
concurrency = [1]
requests = [{requests}]
n_out = {n_out}
prompts = "passages"
"""

WAIT_S = 90.0
"""For a machine in trouble; nothing here takes more than a few seconds."""


class Clone:
    """A folder with scenarios, and the harness in it as a user starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.running: subprocess.Popen[str] | None = None
        (folder / "scenarios" / "prompts").mkdir(parents=True)
        (folder / "scenarios" / "prompts" / "passages.txt").write_text("One two three.\n\nFour five\nsix.\n")
        (folder / "scenarios" / "prompts" / "warmup.txt").write_text("Seven eight.\n")
        self.plan()

    def plan(
        self, *, control: str = "golden", pairs: int = 1, timeout: float = 20.0, requests: int = 2, n_out: int = 6
    ) -> None:
        scenarios = self.folder / "scenarios"
        scenarios.joinpath("profiles.toml").write_text(PROFILE.format(control=control, pairs=pairs, timeout=timeout))
        scenarios.joinpath("streaming.toml").write_text(SCENARIO.format(requests=requests, n_out=n_out))

    def start(self, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "vllama.bench", "--root", str(self.folder), "run", "--plain", *arguments]

        def prepare() -> None:
            # As at a terminal: programs that a shell started in the background ignore SIGINT.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if limit is not None:
                limit()

        self.running = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=prepare,
        )
        return self.running

    def run(self, *arguments: str, limit: Callable[[], None] | None = None) -> tuple[int, str]:
        """(exit status, everything printed)."""
        return self.end(self.start(*arguments, limit=limit))

    def end(self, running: subprocess.Popen[str]) -> tuple[int, str]:
        said, _ = running.communicate(timeout=WAIT_S)
        assert "Traceback" not in said
        return running.returncode, said

    @property
    def result(self) -> Path:
        (folder,) = (self.folder / "results").iterdir()
        return folder

    @property
    def measured(self) -> Run:
        return read_run(self.result)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    made = Clone(tmp_path / "clone")
    yield made
    if made.running is not None and made.running.poll() is None:
        made.running.kill()
        made.running.communicate()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_until(running: subprocess.Popen[str], word: str) -> str:
    """What the harness printed up to the line with that word."""
    assert running.stdout is not None
    said = ""
    for line in running.stdout:
        said += line
        if word in line:
            return said
    raise AssertionError(said)


def servers(running: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    """The processes below the harness whose command line has that word."""
    found = []
    for process in psutil.Process(running.pid).children(recursive=True):
        try:
            argv = process.cmdline()
        except psutil.Error:
            continue
        if word in argv and "keeper.py" not in " ".join(argv):
            found.append(process)
    return found


def is_asked(process: psutil.Process) -> bool:
    """Whether somebody has a connection to it."""
    return any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections(kind="tcp"))


@pytest.mark.skipif(sys.platform != "linux", reason="who is connected can be asked without root on Linux only")
def test_a_system_that_is_killed_in_a_slot_loses_that_slot_and_is_started_once_more(clone: Clone) -> None:
    clone.plan(control="scripted", pairs=4, requests=4, n_out=40)  # a golden slot takes 1.4 s
    running = clone.start("--profile", "tiny")
    said = read_until(running, "pair 1/4")
    (golden,) = servers(running, "vllama.bench.golden")
    until(lambda: is_asked(golden))
    family = [golden, *golden.children(recursive=True)]
    for process in family:
        process.kill()
    status, rest = clone.end(running)
    said += rest
    assert status == EXIT_USAGE
    assert "golden died; starting it once more" in said
    assert "problem: golden died and was started once more" in said
    measured = clone.measured
    assert measured.environment["state"] == "complete"
    assert len(measured.slots) == 8
    assert [bool(slot.error) for slot in measured.slots if slot.system == "scripted"] == [False] * 4
    assert sum(bool(slot.error) for slot in measured.slots if slot.system == "golden") == 1
    assert (clone.folder / "reports" / f"{measured.name}.md").exists()


def test_a_system_that_dies_while_another_is_measured_comes_back_for_its_slots(clone: Clone) -> None:
    clone.plan(pairs=3, requests=4, n_out=40)
    running = clone.start("--profile", "tiny")
    said = read_until(running, "pair 1/3")
    gateway = servers(running, "scripted")[0]
    gateway.kill()
    status, rest = clone.end(running)
    said += rest
    assert status == EXIT_USAGE
    assert "scripted died; starting it once more" in said
    measured = clone.measured
    assert len(measured.slots) == 6
    assert sum(bool(slot.error) for slot in measured.slots) <= 1  # none, unless it was its turn just then
    assert not any(slot.error for slot in measured.slots[-2:])


def test_a_file_that_cannot_grow_ends_the_run_and_keeps_what_was_written(clone: Clone) -> None:
    """A real limit of the kernel's, hit in the middle of a line."""
    clone.plan(pairs=12, requests=4, n_out=2)

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))

    status, said = clone.run("--profile", "tiny", limit=small_files)
    assert status == EXIT_USAGE
    assert "error: cannot write to" in said
    assert "what was written before is kept" in said
    assert "--resume" in said
    measured = clone.measured
    assert 0 < len(measured.slots) < 24
    assert measured.environment["state"] == "failed"
    before = [slot.index for slot in measured.slots]
    status, said = clone.run("--resume", str(clone.result))
    assert status == EXIT_OK, said
    whole = clone.measured
    assert len(whole.slots) == 24
    assert [slot.index for slot in whole.slots[: len(before)]] == before


class FullDisk(io.StringIO):
    """A file on it."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_space_left_is_said_with_the_way_out(tmp_path: Path) -> None:
    """Where there is no small disk to try it on."""
    writer = Writer(tmp_path / "run")
    writer._requests.close()
    writer._requests = FullDisk()
    sample = Sample(0, 0, "", 0, 0, 0, 0, 200, False, 1, 0, 1, "", 0, "")
    slot = Slot(0, 0, 0, "golden", "s", 1, 1, 1, True, 0, 1, 0.0, 0.0, 0.0, 1, [0, 0, 0], 1, 0.0, 0.0, 0.0, True)
    with pytest.raises(CannotWrite, match=r"No space left on device.*kept.*--resume"):
        writer.add(slot, [sample])
    writer.close()
    assert (tmp_path / "run" / "slots.jsonl").read_text() == ""


def test_a_port_that_somebody_takes_first_costs_one_system(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody listens on the port that was free a moment ago. The run is in this process, to say when that is."""
    clone.plan(timeout=8.0)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = iter([free_port(), holder.getsockname()[1]])
        monkeypatch.setattr("vllama.bench.systems.http.free_port", lambda: next(ports, 0) or free_port())
        status = main(["--root", str(clone.folder), "run", "--plain", "--profile", "tiny"])
    said = capsys.readouterr().out
    assert status == EXIT_USAGE
    assert "problem: scripted: did not start: " in said
    # Whether the server notices first or the harness: both say the port, or that it is taken.
    why = clone.measured.environment["missing"]["scripted"]
    assert "somebody took it" in why or "already in use" in why
    measured = clone.measured
    assert measured.environment["state"] == "complete"
    assert measured.systems == ["golden"]
    assert not any(slot.error for slot in measured.slots)


def test_a_missing_program_is_named_with_what_helps_and_the_others_are_measured(clone: Clone) -> None:
    clone.environ |= {"LLAMA_SERVER_BIN": "/nowhere/llama-server"}
    status, said = clone.run("--profile", "tiny", "--systems", "golden,scripted,llama-server")
    assert status == EXIT_USAGE
    assert "LLAMA_SERVER_BIN=/nowhere/llama-server is not a program" in said
    assert clone.measured.systems == ["golden", "scripted"]
    assert not any(slot.error for slot in clone.measured.slots)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("streaming.toml", "consurrency = [3]", "streaming.toml: unknown key 'consurrency'"),
        ("streaming.toml", "[slo]\nttft = 3", "streaming.toml: slo: unknown key 'ttft'; known: ttft_ms"),
        ("profiles.toml", "pears = 3", "profiles.toml [tiny]: unknown key 'pears'; known: profile"),
    ],
)
def test_an_unknown_key_is_refused_before_anything_starts(clone: Clone, name: str, line: str, message: str) -> None:
    path = clone.folder / "scenarios" / name
    path.write_text(path.read_text() + line + "\n")
    status, said = clone.run("--profile", "tiny")
    assert status == EXIT_USAGE
    assert said.startswith("error: ")
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (clone.folder / "results").exists()


def test_a_scenario_without_a_valid_slot_is_named_and_the_others_stand(clone: Clone) -> None:
    """The requests of one scenario take longer than they may; the other one is measured."""
    clone.plan(timeout=1.5)
    profiles = clone.folder / "scenarios" / "profiles.toml"
    profiles.write_text(profiles.read_text().replace('["streaming"]', '["streaming", "endless"]'))
    endless = SCENARIO.format(requests=1, n_out=400)  # golden: 3.2 s
    (clone.folder / "scenarios" / "endless.toml").write_text(endless)
    status, said = clone.run("--profile", "tiny")
    assert status == EXIT_INVALID
    assert "no valid slot: golden in endless/c1: " in said
    assert "no valid slot: scripted" not in said
    measured = clone.measured
    assert [slot.error for slot in measured.slots if slot.scenario == "streaming"] == ["", ""]
    assert measured.environment["state"] == "complete"
    assert (clone.folder / "reports" / f"{measured.name}.md").exists()


def test_ctrl_c_in_a_slot_then_resume(clone: Clone) -> None:
    clone.plan(pairs=3, requests=4, n_out=20)
    running = clone.start("--profile", "tiny")
    read_until(running, "pair 1/3")
    started = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGINT)
    status, said = clone.end(running)
    assert status == EXIT_INTERRUPTED
    command = next(line for line in said.splitlines() if "--resume" in line).split("vllama.bench run ")[1].split()
    assert psutil.wait_procs(started, timeout=WAIT_S)[1] == []
    first = [json.loads(line) for line in (clone.result / "slots.jsonl").read_text().splitlines()]
    assert 2 <= len(first) < 6
    status, said = clone.run(*command)
    assert status == EXIT_OK, said
    measured = clone.measured
    assert measured.environment["state"] == "complete"
    assert [(slot.index, slot.wall_ns) for slot in measured.slots[: len(first)]] == [
        (slot["index"], slot["wall_ns"]) for slot in first
    ]
    assert len({(slot.block, slot.system) for slot in measured.slots}) == len(measured.slots) == 6
    # Both parts' logs, sealed; nothing of this machine's places in any record.
    assert sorted(path.name for path in (clone.result / "server").iterdir()) == ["golden.log.gz", "scripted.log.gz"]
    for path in clone.result.glob("*.json*"):
        assert str(clone.folder) not in path.read_text()


def test_a_result_that_is_not_there_cannot_be_resumed(clone: Clone) -> None:
    status, said = clone.run("--resume", str(clone.folder / "results" / "none"))
    assert status == EXIT_USAGE
    assert said.startswith("error: cannot read the results in")
    assert not (clone.folder / "results").exists()
