"""Whole runs against programs that play llama-server and Ollama: records, checks, report, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from vllama.bench import report
from vllama.bench.__main__ import EXIT_INTERRUPTED, EXIT_INVALID, EXIT_MISSED, EXIT_OK, EXIT_USAGE, main
from vllama.bench.checks import failures, judge_all
from vllama.bench.live import Lines
from vllama.bench.measure import METRICS
from vllama.bench.observer import Nobody, Outline, Ratio
from vllama.bench.plan import Cell, read_plan
from vllama.bench.results import Run, Sample, Slot, Writer, read_run
from vllama.bench.run import run
from vllama.bench.systems import InProcess, Unavailable
from vllama.bench.systems.base import free_port
from vllama.bench.systems.llama_server import LlamaServerTwin
from vllama.bench.taking import Taking

PROFILE = """
[tiny]
title = "fakes"
scenarios = ["sequential", "concurrent"]
systems = ["ollama", "llama-server", "llama-server-twin"]
control = "llama-server"
pairs = 2
seed = 1
ctx = 256
parallel = 2
threads = 1
timeout = 20.0
warmup_tokens = 2
"""

SCENARIO = """
title = "t"
stream = {stream}
concurrency = {concurrency}
requests = {requests}
n_out = 12
prompts = "passages"
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, with scenarios, a pretended model, and the fake as both programs."""
    folder = tmp_path / "clone"
    (folder / "scenarios" / "prompts").mkdir(parents=True)
    model = folder / "model.gguf"
    model.write_bytes(b"GGUF pretended")
    profile = PROFILE + f'\n[tiny.model]\npath = "{model}"\n'
    (folder / "scenarios" / "profiles.toml").write_text(profile)
    for name, stream, concurrency, requests in (
        ("sequential", "false", [1], [2]),
        ("concurrent", "true", [1, 2], [2, 4]),
    ):
        text = SCENARIO.format(stream=stream, concurrency=concurrency, requests=requests)
        (folder / "scenarios" / f"{name}.toml").write_text(text)
    (folder / "scenarios" / "prompts" / "passages.txt").write_text("One two three.\n\nFour five\nsix.\n")
    (folder / "scenarios" / "prompts" / "warmup.txt").write_text("Seven eight.\n")
    use_fakes(folder, monkeypatch)
    return folder


def use_fakes(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake plays llama-server and Ollama; there is no raw engine."""
    program = clone / "fake"
    source = (Path(__file__).parent / "fake_server.py").read_text().replace("/usr/bin/env python3", sys.executable)
    program.write_text(source)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_SERVER_BIN", str(program))
    monkeypatch.setenv("OLLAMA_BIN", str(program))

    def not_here(self: InProcess) -> None:
        raise Unavailable("not in this test")

    # There are no weights to load; what needs the raw engine is left out, as where llama_cpp is missing.
    monkeypatch.setattr(InProcess, "find", not_here)


def run_tiny(clone: Path, *more: str) -> int:
    return main(["--root", str(clone), "run", "--profile", "tiny", *more])


def only_run(clone: Path) -> Run:
    (folder,) = (clone / "results").iterdir()
    return read_run(folder)


def children() -> list[str]:
    return [child.name() for child in psutil.Process().children(recursive=True)]


def test_a_run_keeps_every_request_and_writes_a_valid_report(clone: Path) -> None:
    before = children()
    assert run_tiny(clone) in (EXIT_OK, EXIT_INVALID)
    assert children() == before
    run = only_run(clone)
    assert run.environment["state"] == "complete"
    assert run.systems == ["ollama", "llama-server", "llama-server-twin"]
    assert len(run.slots) == 3 * 3 * 2
    assert sum(len(samples) for samples in run.samples.values()) == 3 * 2 * (2 + 2 + 4)
    assert all(sample.ok and sample.n_out == 12 for samples in run.samples.values() for sample in samples)
    assert all(slot.pss > 0 and slot.cpu_s > 0 for slot in run.slots)
    # What the machine did meanwhile (drift, the client's delay) is not this test's matter.
    unexpected = [bad for bad in failures(judge_all(run)) if not bad.startswith(("E1", "E2", "K1", "T2"))]
    assert unexpected == []
    page = (clone / "reports" / f"{run.name}.md").read_text()
    assert "llama-server (control)" in page
    assert "vLLama was not measured." in page
    argv = run.environment["systems"]["llama-server"]["argv"]
    assert argv[-2:] == ["0", "--no-ui"]
    assert str(clone) not in json.dumps(run.environment)


def test_blocks_have_every_system_and_the_same_prompts(clone: Path) -> None:
    run_tiny(clone)
    run = only_run(clone)
    for cell in run.cells:
        for block in (0, 1):
            slots = [run.of(cell, system)[block] for system in run.systems]
            assert sorted(slot.place for slot in slots) == [0, 1, 2]
            prompts = {tuple(sample.prompt_sha for sample in run.samples[slot.index]) for slot in slots}
            assert len(prompts) == 1


def test_the_report_is_a_function_of_the_records(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(clone)
    run = only_run(clone)
    folder = str(clone / "results" / run.name)
    command = ["--root", str(clone), "report", folder]
    assert main([*command, "--check"]) == EXIT_OK
    page = clone / "reports" / f"{run.name}.md"
    page.write_text(page.read_text().replace("pairs", "pears", 1))
    assert main([*command, "--check"]) == EXIT_MISSED
    assert "not current" in capsys.readouterr().out
    assert main(command) == EXIT_OK
    assert main([*command, "--check"]) == EXIT_OK


def test_failed_requests_are_kept_and_withdraw_the_headline(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "1")
    assert run_tiny(clone, "--systems", "llama-server,llama-server-twin", "--pairs", "1") == EXIT_INVALID
    run = only_run(clone)
    errors = {sample.error for samples in run.samples.values() for sample in samples}
    assert errors == {"planned failure"}
    assert "A2 (llama-server)" in failures(judge_all(run))
    assert "No headline" in report.render(run)


def test_a_server_that_dies_is_started_once_more(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Completions before the first slot: the golden one, and 1 + 1 + 2 to warm the three cells; then 1 before the slot.
    monkeypatch.setenv("FAKE_DIE_AFTER", "7")
    assert run_tiny(clone, "--systems", "llama-server,llama-server-twin", "--scenarios", "sequential,concurrent") in (
        EXIT_INVALID,
        EXIT_USAGE,
    )
    run = only_run(clone)
    assert any("closed in the middle" in slot.error for slot in run.slots)
    assert any(not sample.ok for samples in run.samples.values() for sample in samples)
    assert not children()


def test_a_missing_control_is_an_error_with_the_way_out(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLAMA_SERVER_BIN")
    monkeypatch.setenv("PATH", "")
    assert run_tiny(clone) == EXIT_USAGE
    assert "nox -s build_llama_server" in capsys.readouterr().err
    assert not (clone / "results").exists()


def test_a_missing_rival_is_named_and_the_others_are_measured(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_BIN")
    monkeypatch.setenv("PATH", "")
    run_tiny(clone)
    run = only_run(clone)
    assert run.systems == ["llama-server", "llama-server-twin"]
    assert "no `ollama` on PATH" in run.environment["missing"]["ollama"]
    assert "no `ollama` on PATH" in report.render(run)


def test_another_model_file_than_the_plan_wants_is_refused(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = clone / "scenarios" / "profiles.toml"
    profiles.write_text(profiles.read_text() + f'sha256 = "{"0" * 64}"\n')
    assert run_tiny(clone) == EXIT_USAGE
    assert "the plan wants 0000" in capsys.readouterr().err


def test_results_of_another_schema_are_refused(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_tiny(clone, "--pairs", "1", "--systems", "llama-server,llama-server-twin")
    (folder,) = (clone / "results").iterdir()
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "schema": 99}))
    assert main(["--root", str(clone), "report", str(folder)]) == EXIT_USAGE
    assert "schema 99" in capsys.readouterr().err
    shutil.rmtree(folder)
    assert main(["--root", str(clone), "report", str(folder)]) == EXIT_USAGE


def folder_of(clone: Path) -> Path:
    (folder,) = (clone / "results").iterdir()
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As at a terminal: programs that a shell started in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def after_slots(monkeypatch: pytest.MonkeyPatch, count: int, happen: Callable[[Writer], None]) -> None:
    """Let something happen when that many slots are on the disk."""
    real = Writer.add
    seen: list[int] = []

    def add(self: Writer, slot: Slot, samples: list[Sample]) -> None:
        real(self, slot, samples)
        seen.append(slot.index)
        if len(seen) == count:
            happen(self)

    monkeypatch.setattr(Writer, "add", add)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_was_measured_and_resume_finishes_it(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after_slots(monkeypatch, 5, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert run_tiny(clone) == EXIT_INTERRUPTED
    monkeypatch.undo()
    assert "run --resume" in capsys.readouterr().out
    assert not children()
    run = only_run(clone)
    assert run.environment["state"] == "interrupted"
    assert len(run.slots) == 5
    with (folder_of(clone) / "requests.jsonl").open("a") as file:
        file.write('{"slot":5,"ind')  # as a kill in the middle of a line leaves it
    use_fakes(clone, monkeypatch)
    command = ["--root", str(clone), "run", "--resume", str(folder_of(clone))]
    assert main([*command, "--seed", "5"]) == EXIT_USAGE
    assert "--seed cannot change" in capsys.readouterr().err
    assert main(command) in (EXIT_OK, EXIT_INVALID)
    whole = only_run(clone)
    assert whole.environment["state"] == "complete"
    assert whole.environment["resumed"] == [{"slots": 5}]
    assert [slot.index for slot in whole.slots[:5]] == [slot.index for slot in run.slots]
    keys = [(slot.block, slot.cell, slot.system) for slot in whole.slots]
    assert len(keys) == len(set(keys)) == 18
    assert "A1" not in str(failures(judge_all(whole)))
    # There is nothing left to do, and doing it again changes nothing.
    assert main(command) in (EXIT_OK, EXIT_INVALID)
    assert len(only_run(clone).slots) == 18


@pytest.mark.usefixtures("interruptible")
def test_a_resumed_run_needs_what_it_began_with(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after_slots(monkeypatch, 2, lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert run_tiny(clone) == EXIT_INTERRUPTED
    monkeypatch.undo()
    use_fakes(clone, monkeypatch)
    command = ["--root", str(clone), "run", "--resume", str(folder_of(clone))]
    environment = json.loads((folder_of(clone) / "environment.json").read_text())
    environment["systems"]["ollama"]["version"] = "0.0.1"
    (folder_of(clone) / "environment.json").write_text(json.dumps(environment))
    capsys.readouterr()
    if any(slot.system == "ollama" for slot in only_run(clone).slots):
        assert main(command) == EXIT_USAGE
        assert "ollama 0.0.1; here is 9.9.9" in capsys.readouterr().err
    (clone / "model.gguf").write_bytes(b"GGUF another")
    assert main(command) == EXIT_USAGE
    assert "another model file" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_run_and_leaves_what_was_written(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(writer: Writer) -> None:
        writer._requests.close()
        writer._requests = Path("/dev/full").open("w")  # noqa: SIM115

    after_slots(monkeypatch, 4, fill)
    assert run_tiny(clone) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "what was written before is kept" in said
    run = only_run(clone)
    assert len(run.slots) == 4
    assert run.environment["state"] == "failed"
    assert not children()


def test_a_taken_port_costs_one_system_and_the_exit_status(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = iter([holder.getsockname()[1]])
        monkeypatch.setattr("vllama.bench.systems.http.free_port", lambda: next(ports, 0) or free_port())
        assert run_tiny(clone, "--pairs", "1") == EXIT_USAGE
    run = only_run(clone)
    assert run.systems == ["llama-server", "llama-server-twin"]
    assert run.environment["state"] == "complete"
    assert run.environment["missing"]["ollama"].startswith("did not start")
    assert "problem: ollama: did not start" in capsys.readouterr().out


def test_a_missing_program_that_was_asked_for_is_an_error_behind_the_results(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OLLAMA_BIN", "/nowhere/ollama")
    named = ("--systems", "ollama,llama-server,llama-server-twin", "--pairs", "1")
    assert run_tiny(clone, *named) == EXIT_USAGE
    assert "OLLAMA_BIN=/nowhere/ollama is not a program" in capsys.readouterr().out
    assert len(only_run(clone).slots) == 6


def test_an_unknown_key_stops_before_anything_is_started(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = clone / "scenarios" / "sequential.toml"
    path.write_text(path.read_text() + "consurrency = [3]\n")
    assert run_tiny(clone) == EXIT_USAGE
    assert "sequential.toml: unknown key 'consurrency'" in capsys.readouterr().err
    assert not (clone / "results").exists()


def test_a_cell_without_a_valid_slot_is_named(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "1")
    assert run_tiny(clone, "--systems", "llama-server,llama-server-twin", "--pairs", "1") == EXIT_INVALID
    assert "no valid slot: llama-server in sequential/c1: planned failure" in capsys.readouterr().out


def test_what_a_system_cannot_do_is_a_cell_and_no_error(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clone / "scenarios" / "sequential.toml"
    path.write_text(path.read_text() + 'lanes = ["matched"]\n')

    def cut(self: LlamaServerTwin, cell: Cell) -> str | None:
        return "3 of 3 streams were cut" if cell.concurrency > 1 else None

    monkeypatch.setattr(LlamaServerTwin, "impossible", cut)
    assert run_tiny(clone, "--pairs", "1") in (EXIT_OK, EXIT_INVALID)
    run = only_run(clone)
    assert run.not_measured["sequential/c1"]["ollama"]["verdict"] == "not applicable"
    assert run.not_measured["concurrent/c2"]["llama-server-twin"] == {
        "verdict": "fails by design",
        "reason": "",
        "evidence": "3 of 3 streams were cut",
    }
    measured = {(slot.cell, slot.system) for slot in run.slots}
    assert ("sequential/c1", "ollama") not in measured
    assert ("concurrent/c2", "llama-server-twin") not in measured
    assert len(measured) == 7
    assert run.environment["problems"] == []
    assert {slot.lane for slot in run.slots if slot.system == "ollama"} == {"defaults"}


@pytest.mark.parametrize("asleep", ["paused", "stopped"])
def test_systems_sleep_while_others_are_measured(clone: Path, monkeypatch: pytest.MonkeyPatch, asleep: str) -> None:
    seen: list[set[str]] = []

    def look(self: Nobody, cell: str, block: int, system: str) -> None:
        seen.append({child.status() for child in psutil.Process().children(recursive=True)})

    monkeypatch.setattr(Lines, "slot_started", look)
    more = ("--asleep", asleep, "--pairs", "1", "--systems", "llama-server,llama-server-twin", "--plain")
    assert run_tiny(clone, *more) in (EXIT_OK, EXIT_INVALID)
    run = only_run(clone)
    assert run.environment["systems"]["llama-server"]["asleep"] == asleep
    assert run.environment["problems"] == []
    assert all(not slot.error for slot in run.slots)
    assert all((psutil.STATUS_STOPPED in states) == (asleep == "paused") for states in seen)
    assert not children()


def test_a_dry_run_starts_and_writes_nothing(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tiny(clone, "--dry-run") == EXIT_OK
    said = capsys.readouterr().out
    assert "concurrent/c2: t; 4 requests, 12 tokens, kind closed" in said
    assert "systems: ollama, llama-server, llama-server-twin" in said
    assert "2 pairs are too few for an interval" in said
    assert run_tiny(clone, "--dry-run", "--pairs", "10") == EXIT_OK
    assert "detectable at 90% power: +5.9%, if two equal systems differ by 5%" in capsys.readouterr().out
    assert not (clone / "results").exists()


def test_an_earlier_run_says_how_long_it_takes_and_what_it_could_show(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tiny(clone, "--pairs", "8", "--scenarios", "sequential")
    capsys.readouterr()
    assert run_tiny(clone, "--pairs", "8", "--scenarios", "sequential", "--dry-run") == EXIT_OK
    said = capsys.readouterr().out
    assert "100% of the slots are known" in said
    assert "detectable at 90% power: sequential/c1 e2e +" in said


def test_a_budget_decides_the_pairs_before_anything_is_measured(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tiny(clone, "--budget", "1s") == EXIT_USAGE
    assert "not one pair fits" in capsys.readouterr().err
    assert run_tiny(clone, "--budget", "soon") == EXIT_USAGE
    assert "--budget soon" in capsys.readouterr().err
    assert run_tiny(clone, "--budget", "3m", "--pairs", "1000", "--dry-run") == EXIT_OK
    said = capsys.readouterr().out
    assert "of 1000 pairs fit into 3 minutes" in said


def test_a_run_that_is_out_of_time_can_be_resumed(clone: Path) -> None:
    plan = read_plan(clone / "scenarios", "tiny", {"pairs": 1})
    said: list[str] = []
    folder = asyncio.run(run(plan, clone, clone / "results", said.append, budget=0.001))
    assert read_run(folder).environment["state"] == "out of time"
    assert read_run(folder).slots == []
    assert any("out of time after 0 of 1 pairs" in line for line in said)
    assert asyncio.run(run(plan, clone, clone / "results", said.append, resume=folder)) == folder
    assert read_run(folder).environment["state"] == "complete"
    assert len(read_run(folder).slots) == 9


def test_who_watches_is_told_everything(clone: Path) -> None:
    class Notes(Nobody):
        def __init__(self) -> None:
            self.calls: list[str] = []
            self.outline: Outline | None = None
            self.found: dict[tuple[str, str], Sequence[Ratio]] = {}

        def outlined(self, outline: Outline) -> None:
            self.outline = outline

        def slot_started(self, cell: str, block: int, system: str) -> None:
            self.calls.append(f"start {cell} {block} {system}")

        def slot_finished(self, slot: Slot, samples: Sequence[Sample]) -> None:
            self.calls.append(f"end {slot.cell} {slot.block} {slot.system}")

        def ratios(self, cell: str, system: str, ratios: Sequence[Ratio]) -> None:
            self.found[cell, system] = ratios

        def finished(self, state: str) -> None:
            self.calls.append(state)

    notes = Notes()
    plan = read_plan(clone / "scenarios", "tiny")
    asyncio.run(run(plan, clone, clone / "results", lambda text: None, observer=notes))
    assert notes.outline is not None
    assert notes.outline.slots == 18
    order = notes.outline.order
    planned = [f"{cell} {block} {key}" for block in (0, 1) for cell in order for key in order[cell][block]]
    assert notes.calls == [f"{what} {one}" for one in planned for what in ("start", "end")] + ["complete"]
    assert {ratio.metric for ratio in notes.found["concurrent/c2", "ollama"]} >= {"ttft", "aggregate", "e2e"}
    assert {ratio.n for ratio in notes.found["sequential/c1", "ollama"]} == {2}


def test_who_takes_turns_is_paused_from_its_warm_up_to_its_first_part(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that polls for a while after an answer would else spin through its neighbour's first part."""
    text = SCENARIO.format(stream="true", concurrency="[1]", requests="[4]") + "rounds = 4\n"
    (clone / "scenarios" / "sequential.toml").write_text(text)
    others: list[list[str]] = []
    part = Taking.part

    async def look(self: Taking, number: int) -> None:
        others.append([psutil.Process(pid).status() for other in self._others for pid in other.pids()])
        await part(self, number)

    monkeypatch.setattr(Taking, "part", look)
    more = ("--asleep", "paused", "--pairs", "1", "--systems", "llama-server,llama-server-twin", "--plain")
    assert run_tiny(clone, *more, "--scenarios", "sequential") in (EXIT_OK, EXIT_INVALID)
    assert len(others) == 2 * 4
    assert all(states and set(states) == {psutil.STATUS_STOPPED} for states in others)


def test_slots_in_rounds_are_measured_in_turns(clone: Path) -> None:
    text = SCENARIO.format(stream="true", concurrency="[1]", requests="[4]") + "rounds = 4\n"
    (clone / "scenarios" / "sequential.toml").write_text(text)
    assert run_tiny(clone, "--scenarios", "sequential") in (EXIT_OK, EXIT_INVALID)
    run = only_run(clone)
    assert len(run.slots) == 3 * 2
    for block in range(2):
        slots = [slot for slot in run.slots if slot.block == block]
        sent = sorted((slot.t_start + s.t_sent, slot.system) for slot in slots for s in run.samples[slot.index])
        rounds = [[key for _, key in sent[start : start + 3]] for start in range(0, 12, 3)]
        # Every system once in each round, every other round in the opposite order.
        assert all(len(set(found)) == 3 for found in rounds)
        assert rounds[1] == rounds[0][::-1] == rounds[3]
        assert rounds[2] == rounds[0]
    for slot in run.slots:
        samples = run.samples[slot.index]
        assert [s.index for s in samples] == [0, 1, 2, 3]
        assert len({s.prompt_sha for s in samples}) == 4
        took = sum(s.t_end - s.t_sent for s in samples)
        assert took <= slot.wall_ns < samples[-1].t_end - samples[0].t_sent
        rate = METRICS["aggregate"].of(slot, samples)
        assert rate == pytest.approx(48 / (took / 1e9))
        assert METRICS["steady"].of(slot, samples) is None
