"""Two systems of a run, and two runs of a plan, on hand-made records."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.test_measure import make_run
from vllama.bench import compare
from vllama.bench.results import Run
from vllama.errors import ConfigError


def day(run: Run, factor: float, name: str = "other") -> Run:
    """The same run on a machine that takes `factor` times as long for everything."""
    samples = {
        index: [replace(s, texts=[round(t * factor) for t in s.texts], t_end=round(s.t_end * factor)) for s in of_slot]
        for index, of_slot in run.samples.items()
    }
    return replace(run, name=name, samples=samples)


def line(lines: list[compare.Line], metric: str) -> compare.Line:
    return next(found for found in lines if found.metric.key == metric)


def test_two_systems_of_one_run() -> None:
    found = line(compare.within(make_run(ours=1.25), "vllama", "llama-server"), "ttft")
    assert found.ratio.value == pytest.approx(1.25, abs=0.002)
    assert found.second / found.first == pytest.approx(1.25, abs=0.002)
    assert found.word == "worse"
    assert line(compare.within(make_run(ours=0.8), "vllama", "llama-server"), "decode").word == "better"


def test_two_runs_differ_by_what_changed_and_not_by_the_day() -> None:
    lines = compare.across(make_run(ours=1.0), day(make_run(ours=1.5), 3.0))
    assert {found.system for found in lines} == {"vllama"}
    assert line(lines, "ttft").ratio.value == pytest.approx(1.5, abs=0.003)
    assert line(lines, "decode").ratio.value == pytest.approx(1 / 1.5, abs=0.003)
    assert line(compare.across(make_run(), day(make_run(), 3.0)), "ttft").word == "~"


def test_few_pairs_say_so() -> None:
    assert line(compare.within(make_run(pairs=3), "vllama", "llama-server"), "ttft").word == "n too small"


def test_other_questions_models_and_threads_are_not_compared() -> None:
    a = make_run()
    other = replace(a, plan={**a.plan, "id": "1" * 10, "ctx": 1})
    assert compare.mismatch(a, other) == "their plans differ in ctx"
    with pytest.raises(ConfigError, match="not comparable: their plans differ in ctx"):
        compare.across(a, other)
    assert compare.mismatch(a, replace(a, environment={**a.environment, "threads": 9})) == "another threads"
    assert compare.mismatch(a, a) == ""


def test_a_system_that_was_not_measured_is_named() -> None:
    with pytest.raises(ConfigError, match="did not measure ollama; it has vllama, llama-server"):
        compare.within(make_run(), "vllama", "ollama")


def test_what_differs_between_the_machines_is_told() -> None:
    a, b = make_run(), make_run()
    b.environment["machine"] = {**b.environment["machine"], "cpu": "another"}
    b.environment["systems"]["vllama"]["version"] = "2"
    assert compare.machines(a, b) == ["cpu: c / another", "vllama: 1 / 2"]


def ask(monkeypatch: pytest.MonkeyPatch, runs: dict[str, Run], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(compare, "read_run", lambda folder: runs[folder.name])
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    said: list[str] = []
    return compare.main(parser.parse_args(words), Path(), said.append), "\n".join(said)


def test_the_command_prints_a_table_and_refuses_invalid_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": make_run(), "b": day(make_run(ours=1.5), 2.0), "c": make_run()}
    runs["c"].environment["systems"]["vllama"]["model_sha256"] = "bb"
    runs["d"] = replace(runs["a"], plan={**runs["a"].plan, "id": "2" * 10, "seed": 2})
    status, said = ask(monkeypatch, runs, "a", "b")
    assert status == 0
    assert "| streaming/c1 | first text | vllama | 1.000 | 1.500 | 1.500 [" in said
    status, said = ask(monkeypatch, runs, "a")
    assert status == 0
    assert "vllama against llama-server" in said
    status, said = ask(monkeypatch, runs, "c")
    assert status == 4
    assert "W1 (vllama)" in said
    status, said = ask(monkeypatch, runs, "a", "d")
    assert status == 4
    assert "differ in seed" in said
