"""The numbers for other programs are the ones of the report."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from statistics import median

import pytest

from tests.bench.test_measure import make_run
from vllama.bench import export
from vllama.bench.__main__ import EXIT_OK, EXIT_USAGE, main
from vllama.bench.measure import METRICS
from vllama.bench.pairing import values
from vllama.bench.results import Run, read_run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder() -> Path:
    return next(folder for folder in sorted((ROOT / "results").iterdir()) if (folder / "slots.jsonl").exists())


@pytest.fixture(scope="module")
def real(folder: Path) -> Run:
    return read_run(folder)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_value_once(real: Run) -> None:
    found = rows(export.csv(real))
    keys = [(row["cell"], row["system"], row["block"], row["metric"]) for row in found]
    assert len(keys) == len(set(keys))
    for cell in real.cells:
        for system in real.systems:
            for metric in METRICS.values():
                mine = {
                    int(row["block"]): float(row["value"])
                    for row in found
                    if (row["cell"], row["system"], row["metric"]) == (cell, system, metric.key)
                }
                assert mine == pytest.approx(values(real, cell, system, metric))


def test_csv_of_requests_has_the_failed_ones_too() -> None:
    run = make_run()
    run.samples[0][0].error = 'closed, "early"'
    run.samples[0][0].texts = []
    found = rows(export.requests_csv(run))
    assert len(found) == sum(len(samples) for samples in run.samples.values())
    assert found[0]["error"] == 'closed, "early"'
    assert found[0]["t_first_text"] == "-1"


def parse(text: str) -> tuple[dict[str, str], dict[tuple[str, str, str], list[float]]]:
    """benchstat's text as (unit -> better, (system, name, unit) -> values)."""
    better, found, system = {}, {}, ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith("Unit "):
            better[words[1]] = words[2].removeprefix("better=")
        elif line.startswith("system: "):
            system = words[1]
        elif line.startswith("Benchmark"):
            assert words[1] == "1"
            for number, unit in zip(words[2::2], words[3::2], strict=True):
                found.setdefault((system, words[0], unit), []).append(float(number))
    return better, found


def test_benchstat_text_has_the_same_medians(real: Run) -> None:
    better, found = parse(export.benchstat(real))
    assert better["ttft-ms"] == "lower"
    assert better["decode-tok/s"] == "higher"
    for system in real.systems:
        ours = values(real, "streaming/c1", system, METRICS["decode"])
        assert median(found[system, "BenchmarkStreaming/c=1", "decode-tok/s"]) == pytest.approx(median(ours.values()))


def test_the_control_is_the_first_system(real: Run) -> None:
    _, found = parse(export.benchstat(real))
    assert next(iter(found))[0] == real.plan["control"]


def test_units_and_names_are_single_words() -> None:
    units = [export.unit(metric) for metric in METRICS.values()]
    assert len(units) == len(set(units))
    assert all(unit.isascii() and " " not in unit for unit in units)
    assert export._name("cold-start/c1") == "BenchmarkColdStart/c=1".removeprefix("Benchmark")


def test_the_command_writes_a_file_and_refuses_two_forms(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.txt"
    assert main(["export", str(folder), "--benchstat", "--out", str(out)]) == EXIT_OK
    assert out.read_text() == export.benchstat(read_run(folder))
    with pytest.raises(SystemExit) as refused:
        main(["export", str(folder), "--benchstat", "--csv"])
    assert refused.value.code == EXIT_USAGE


def test_a_run_without_slots_has_nothing_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plan.json", "environment.json"):
        (tmp_path / name).write_text('{"schema": 1}')
    assert main(["export", str(tmp_path), "--csv"]) == EXIT_USAGE
    assert "no finished slot" in capsys.readouterr().err


def test_standard_output_gets_the_text_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(run=folder, csv=True, requests=False, benchstat=False, out=None)
    assert export.main(args, ROOT, print) == EXIT_OK
    assert capsys.readouterr().out == export.csv(read_run(folder))
