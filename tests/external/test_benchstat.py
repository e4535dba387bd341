"""The exported text in the real benchstat: it reads all of it, and its medians and verdicts fit ours."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from pathlib import Path
from statistics import median

import pytest

from tests.external import programs
from vllama.bench import export
from vllama.bench.measure import METRICS
from vllama.bench.pairing import values
from vllama.bench.results import Run, read_run

pytestmark = [pytest.mark.external, pytest.mark.timeout(900)]

ROOT = Path(__file__).parent.parent.parent
MODULE = "golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da"


@pytest.fixture(scope="module")
def benchstat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built by Go for this test alone."""
    go = programs.need("go")
    folder = tmp_path_factory.mktemp("go")
    env = {name: value for name, value in os.environ.items() if name not in ("GOBIN", "GOFLAGS")}
    env |= {"GOBIN": str(folder), "GOFLAGS": "-modcacherw"}
    built = subprocess.run([go, "install", MODULE], env=env, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    return folder / "benchstat"


@pytest.fixture(scope="module")
def real() -> Run:
    folder = next(folder for folder in sorted((ROOT / "results").iterdir()) if (folder / "slots.jsonl").exists())
    return read_run(folder)


def tables(benchstat: Path, run: Run, folder: Path) -> list[list[str]]:
    """benchstat's own CSV, systems side by side."""
    text = folder / "results.txt"
    text.write_text(export.benchstat(run))
    done = subprocess.run(
        [str(benchstat), "-col", "system", "-format", "csv", str(text)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # Warnings say B1: that a summary needs values above 0, or more samples; none may be about the text itself.
    assert "parse" not in done.stderr.lower(), done.stderr
    return list(csv.reader(io.StringIO(done.stdout)))


def test_medians_of_every_cell_metric_and_system(benchstat: Path, real: Run, tmp_path: Path) -> None:
    found: dict[tuple[str, str, str], float] = {}
    systems: list[str] = []
    columns: list[int] = []
    unit = ""
    for row in tables(benchstat, real, tmp_path):
        if len(row) > 1 and row[0] == "" and any(cell in real.systems for cell in row):
            columns = [number for number, cell in enumerate(row) if cell in real.systems]
            systems = [row[number] for number in columns]
        elif len(row) > 1 and row[0] == "" and row[1]:
            unit = row[1]
        elif len(row) > 1 and "/c=" in row[0]:
            for system, column in zip(systems, columns, strict=True):
                if column < len(row) and row[column]:  # empty cells at the end are left out
                    found[system, row[0], unit] = float(row[column])
    wanted = {
        (system, export._name(cell), export.unit(metric)): median(ours.values())
        for metric in METRICS.values()
        for cell in real.cells
        for system in real.systems
        if (ours := values(real, cell, system, metric))
    }
    assert set(found) == set(wanted)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_control_is_the_base_and_a_certain_difference_is_one(benchstat: Path, real: Run, tmp_path: Path) -> None:
    rows = tables(benchstat, real, tmp_path)
    head = next(row for row in rows if len(row) > 1 and row[0] == "" and row[1] in real.systems)
    assert head[1] == real.plan["control"]
    assert any(cell.startswith(("+", "-")) and cell.endswith("%") for row in rows for cell in row)
