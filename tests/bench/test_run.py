"""Whole runs against programs that play llama-server and Ollama: records, checks, report, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import psutil
import pytest

from vllama.bench import report
from vllama.bench.__main__ import EXIT_INVALID, EXIT_MISSED, EXIT_OK, EXIT_USAGE, main
from vllama.bench.checks import failures, judge_all
from vllama.bench.results import Run, read_run
from vllama.bench.systems import InProcess, Unavailable

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
    program = tmp_path / "fake"
    source = (Path(__file__).parent / "fake_server.py").read_text().replace("/usr/bin/env python3", sys.executable)
    program.write_text(source)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_SERVER_BIN", str(program))
    monkeypatch.setenv("OLLAMA_BIN", str(program))

    def not_here(self: InProcess) -> None:
        raise Unavailable("not in this test")

    # There are no weights to load; what needs the raw engine is left out, as where llama_cpp is missing.
    monkeypatch.setattr(InProcess, "find", not_here)
    return folder


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
