"""The commands: each is a module that is read when it is used, and every end has its status."""

from __future__ import annotations

import argparse
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllama.bench import __main__ as bench
from vllama.bench.__main__ import COMMANDS, Command, build_parser, main
from vllama.bench.exits import EXIT_INTERRUPTED, EXIT_MISSED, EXIT_OK, EXIT_USAGE
from vllama.bench.run_command import without_home
from vllama.bench.systems.base import SystemFailed, Unavailable
from vllama.errors import ConfigError, VllamaError

ROOT = Path(__file__).parent.parent.parent
RUN = next(folder for folder in sorted((ROOT / "results").iterdir()) if (folder / "slots.jsonl").exists())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Makes `try` a command whose main is the given function."""

    def install(function: Any) -> None:
        module = types.ModuleType("a_command_of_a_test")
        module.main = function  # type: ignore[attr-defined]
        module.add_arguments = lambda parser: parser.add_argument("--n", type=int)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setattr(bench, "COMMANDS", (Command("try", module.__name__, "a try"),))

    return install


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom vllama.bench.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert {"vllama.bench.__main__", "argparse"} <= loaded
    assert not {"pandas", "matplotlib", "numpy", "psutil", "rich", "vllama.bench.run", "vllama.bench.report"} & loaded
    for one in COMMANDS:
        assert f" {one.name} " in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: one.name)
def test_every_command_is_there_and_explains_itself(one: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([one.name, "--help"])
    assert ended.value.code == 0
    assert f"usage: vllama.bench {one.name}" in capsys.readouterr().out
    assert callable(sys.modules[one.module].main)


def test_only_the_used_command_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Module:
        @staticmethod
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("run", nargs="?")

    def fake_import(name: str) -> Any:
        read.append(name)
        return Module

    monkeypatch.setattr(bench.importlib, "import_module", fake_import)
    build_parser(["report", "x"], "p")
    assert read == ["vllama.bench.report_command"]


def test_arguments_root_and_status_are_passed_on(command: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, Path]] = []

    def run(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
        seen.append((args.n, root))
        return 3

    command(run)
    assert main(["--root", str(tmp_path), "try", "--n", "7"]) == 3
    assert seen == [(7, tmp_path)]


def test_an_async_command_is_run(command: Any) -> None:
    async def run(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
        return 5

    command(run)
    assert main(["try"]) == 5


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("no such profile"), EXIT_USAGE, "error: no such profile"),
        (VllamaError("broken"), EXIT_USAGE, "error: broken"),
        (OSError(28, "No space left on device"), EXIT_USAGE, "No space left on device"),
        (SystemFailed("it died"), EXIT_USAGE, "error: it died"),
        (Unavailable("not here"), EXIT_USAGE, "error: not here"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_on_purpose_are_one_line(
    command: Any, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, text: str
) -> None:
    def run(*_: object) -> int:
        raise error

    command(run)
    assert main(["try"]) == status
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1


def test_a_mistake_of_ours_is_not_hidden(command: Any) -> None:
    def run(*_: object) -> int:
        raise ZeroDivisionError

    command(run)
    with pytest.raises(ZeroDivisionError):
        main(["try"])


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["report"], ["report", "--nope", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_USAGE
    assert "usage: vllama.bench" in capsys.readouterr().err


def test_report_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    arguments = ["report", str(RUN), "--out", str(tmp_path), "--readme", str(readme)]
    assert main([*arguments, "--check"]) == EXIT_MISSED
    assert f"not current: {RUN.name}, README.md" in capsys.readouterr().out
    assert main(arguments) == EXIT_OK
    assert main([*arguments, "--check"]) == EXIT_OK
    assert RUN.name in readme.read_text()


def test_report_of_a_page_without_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    assert main(["report", str(RUN), "--out", str(tmp_path), "--readme", str(readme)]) == EXIT_USAGE
    assert "results:begin" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["", "{", '{"schema": 99}'])
def test_records_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    (tmp_path / "plan.json").write_text(broken)
    (tmp_path / "environment.json").write_text(broken)
    assert main(["report", str(tmp_path)]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("error: ")


def test_the_same_through_the_vllama_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vllama", "bench", "report", "--check", str(RUN / "nothing")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("error: cannot read the results in")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllama.cli import bench as cli

    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs matplotlib, pandas: install the extra `bench`"):
        cli.bench(["report"])


def test_the_home_directory_is_not_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    assert without_home(str(tmp_path / "anna" / "models" / "m.gguf")) == "~/models/m.gguf"
    assert without_home("/elsewhere/m.gguf") == "/elsewhere/m.gguf"
    monkeypatch.chdir(tmp_path)
    assert without_home("anna/m.gguf") == "~/m.gguf"
    assert without_home("m.gguf") == "m.gguf"
    monkeypatch.setenv("HOME", "/")
    assert without_home("/elsewhere/m.gguf") == "/elsewhere/m.gguf"
