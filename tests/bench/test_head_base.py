"""Head against base: what is registered, installed and judged. Installing and measuring are doubles here."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.bench.test_gate import gate_run
from vllama.bench import head_base
from vllama.bench.plant import MARK, planted_commit
from vllama.bench.policy import Policy
from vllama.bench.results import Run
from vllama.bench.systems import Setup, make
from vllama.bench.systems.base import Unavailable
from vllama.bench.systems.base_commit import PYTHON
from vllama.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A small clone with two commits and the real scenarios."""
    root = tmp_path / "clone"
    root.mkdir()
    git(root, "init", "-q")
    (root / "scenarios").symlink_to(ROOT / "scenarios")
    (root / ".gitignore").write_text(".cache/\nscenarios\n")
    (root / "code").write_text("old")
    (root / "constraints.txt").write_text("")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    (root / "code").write_text("new")
    git(root, "commit", "-q", "-a", "-m", "two")
    return root


class Doubles:
    """Records what would be installed and measured; `runs` are what the measurements give."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: list[Run]) -> None:
        self.runs = runs
        self.installed: list[list[str]] = []
        self.measured: list[tuple[int, int]] = []
        self.seen = ""
        monkeypatch.setattr(head_base, "_install", self.install)
        monkeypatch.setattr(head_base, "_measure", self.measure)

    def install(self, command: Sequence[str]) -> None:
        self.installed.append(list(command))

    def measure(
        self, root: Path, out: Path, profile: str, policy: Policy, pairs: int, seed: int, pythons: dict[str, Path]
    ) -> Run:
        assert (out / "registration.json").exists(), "measured before it was registered"
        python = pythons[PYTHON]
        self.seen = (python.parent.parent.parent / "tree" / "code").read_text()
        self.measured.append((pairs, seed))
        return self.runs[len(self.measured) - 1]


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    head_base.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Two rules for cells that the made-up runs have, 12 + 12 pairs."""
    path = tmp_path / "gate.toml"
    rules = "".join(
        f'[[gate]]\ncell = "streaming/c1"\nmetric = "{metric}"\ndelta = 0.05\n' for metric in ("ttft", "decode")
    )
    path.write_text(f"pairs = 12\nextend = 12\nsplit = [0.005, 0.005]\n{rules}")
    return path


def test_the_base_is_installed_measured_judged_and_removed(
    clone: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubles = Doubles(monkeypatch, [gate_run(1.0, seed=9)])
    said: list[str] = []
    status = head_base.main(arguments("--base", "HEAD~1", "--policy", str(policy), "--seed", "9"), clone, said.append)
    assert status == 0
    assert doubles.seen == "old"
    assert doubles.measured == [(12, 9)]
    assert [command[1:3] for command in doubles.installed] == [["-m", "venv"], ["-m", "pip"]]
    assert "-c" in doubles.installed[1]
    assert list((clone / ".cache" / "bench" / "base").iterdir()) == []
    assert len(git(clone, "worktree", "list").splitlines()) == 1
    out = clone / ".cache" / "bench" / "gate"
    registered = json.loads((out / "registration.json").read_text())
    assert registered["base"] == git(clone, "rev-parse", "HEAD~1")
    assert (registered["seeds"], registered["pairs"]) == ([9, 10], [12, 12])
    verdict = (out / "verdict.md").read_text()
    assert "PASS: no gated metric" in verdict
    assert "goal goal-decode: holds here; decode at streaming/c1, vllama ÷ llama-server: " in verdict


def test_a_regression_needs_no_extension(clone: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubles = Doubles(monkeypatch, [gate_run(1.2, seed=9)])
    assert head_base.main(arguments("--base", "HEAD~1", "--policy", str(policy), "--seed", "9"), clone, str) == 1
    assert len(doubles.measured) == 1
    assert (clone / ".cache" / "bench" / "gate" / "status").read_text() == "1\n"


@pytest.mark.parametrize(("words", "looks"), [((), 2), (("--no-extension",), 1)])
def test_an_open_verdict_is_extended_once(
    clone: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], looks: int
) -> None:
    doubles = Doubles(monkeypatch, [gate_run(1.045, seed=9), gate_run(1.045, seed=10)])
    policy.write_text(policy.read_text().replace("delta = 0.05", "delta = 0.045"))
    said: list[str] = []
    args = arguments("--base", "HEAD~1", "--policy", str(policy), "--seed", "9", "--strict", *words)
    assert head_base.main(args, clone, said.append) == 5
    assert doubles.measured == [(12, 9), (12, 10)][:looks]


def test_an_unknown_commit_is_named(clone: Path, policy: Path) -> None:
    with pytest.raises(ConfigError, match="no commit 'nowhere'"):
        head_base.main(arguments("--base", "nowhere", "--policy", str(policy)), clone, str)


def test_a_failed_installation_shows_its_last_lines() -> None:
    with pytest.raises(ConfigError, match=r"ended with 3\nwhy"):
        head_base._install([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])


def setup(tmp_path: Path) -> Setup:
    return Setup(
        root=ROOT,
        scratch=tmp_path,
        logs=tmp_path,
        gguf=tmp_path / "m.gguf",
        sha256="0" * 64,
        ctx=64,
        parallel=1,
        threads=1,
        timeout=1.0,
    )


def test_the_base_system_needs_another_vllama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make("vllama@base", setup(tmp_path))
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(Unavailable, match="bench_gate"):
        base.find()
    monkeypatch.setenv(PYTHON, str(tmp_path / "no-python"))
    with pytest.raises(Unavailable, match="has no vllama"):
        base.find()
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho \'["1", "{ROOT / "vllama" / "__init__.py"}"]\'\n')
    fake.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(fake))
    with pytest.raises(Unavailable, match="imports the vllama that runs the benchmark"):
        base.find()
    fake.write_text(f'#!/bin/sh\necho \'["7", "{tmp_path / "vllama" / "__init__.py"}"]\'\n')
    base.find()
    # A commit follows where the temporary folder lies in a clone.
    assert base.described.version.partition(" ")[0] == "7"


def test_the_base_system_differs_in_the_interpreter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv(PYTHON, "/other/python")
    base, head = make("vllama@base", setup(tmp_path)), make("vllama", setup(tmp_path))
    (argv, env), (ours, our_env) = base.command(), head.command()  # type: ignore[attr-defined]
    assert argv == ["/other/python", *ours[1:]]
    homes = {"HOME", "OLLAMA_MODELS"}
    assert {k: v for k, v in env.items() if k not in homes} == {k: v for k, v in our_env.items() if k not in homes}


def test_a_planted_change_is_a_commit_of_its_own_and_is_what_is_judged(
    clone: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "slower.txt"
    planted.write_text("# append to: code\nslower = True\n")
    doubles = Doubles(monkeypatch, [gate_run(1.2, seed=9, system="vllama@planted")])
    before = git(clone, "rev-parse", "HEAD")
    args = arguments("--base", "HEAD", "--plant", str(planted), "--policy", str(policy), "--seed", "9", "--keep")
    assert head_base.main(args, clone, str) == 1
    assert git(clone, "rev-parse", "HEAD") == before
    assert git(clone, "status", "--porcelain", "-uno") == ""
    registered = json.loads((clone / ".cache" / "bench" / "gate" / "registration.json").read_text())
    commit = registered["head"]
    assert registered["base"] == before == git(clone, "rev-parse", f"{commit}^")
    assert git(clone, "diff", "--name-only", before, commit) == "code"
    tree = clone / ".cache" / "bench" / "base" / commit[:12] / "tree"
    assert (tree / "code").read_text().split() == ["new", "slower", "=", "True"]
    assert doubles.seen == "new"


def test_what_cannot_be_planted_is_said(clone: Path, tmp_path: Path) -> None:
    for text, match in (("slower = True\n", "first line"), ("# append to: nowhere\nx = 1\n", "cannot plant")):
        (tmp_path / "p.txt").write_text(text)
        with pytest.raises(ConfigError, match=match):
            planted_commit(clone, "HEAD", tmp_path / "p.txt")
    with pytest.raises(ConfigError, match="cannot read"):
        planted_commit(clone, "HEAD", tmp_path / "missing.txt")


def test_the_slow_down_for_the_proof_slows_every_decode_by_a_tenth() -> None:
    text = (ROOT / "tests" / "bench" / "planted" / "slower-decode.txt").read_text()
    assert (ROOT / text.partition("\n")[0].removeprefix(MARK)).is_file()
    clock = [0.0]

    def tick() -> float:
        clock[0] += 0.001
        return clock[0]

    def decode(context: object, batch: object) -> int:
        clock[0] += 1.0
        return 7

    lib = SimpleNamespace(llama_decode=decode)
    time = ModuleType("time")
    time.perf_counter = tick  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "time", time)
        exec(text, {"lib": lib})
        began = clock[0]
        assert lib.llama_decode(None, None) == 7
    assert clock[0] - began == pytest.approx(1.1, abs=0.01)


def test_a_dry_run_installs_and_writes_nothing(clone: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubles = Doubles(monkeypatch, [])
    said: list[str] = []
    assert head_base.main(arguments("--base", "HEAD", "--policy", str(policy), "--dry-run"), clone, said.append) == 0
    assert doubles.installed == doubles.measured == []
    assert not (clone / ".cache").exists()
    assert any(line.startswith("about ") for line in said)
