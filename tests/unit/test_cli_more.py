"""Tables as Ollama's, Markdown, completion and logs of the command line."""

from __future__ import annotations

import io
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama.cli import completion, logs
from vllama.cli.main import main
from vllama.cli.markdown import MarkdownPrinter
from vllama.cli.ollama_table import table, wrapped
from vllama.cli.show import sections
from vllama.config import Settings

# -- tables -----------------------------------------------------------------------------------------------


def test_a_long_cell_is_broken_into_even_lines() -> None:
    assert wrapped("short", 30) == ["short"]
    assert wrapped("aaaa bbbb cccc dddd", 10) == ["aaaa bbbb", "cccc dddd"]
    assert wrapped("two  blanks stay here", 12) == ["two  blanks", "stay here"]
    assert wrapped("incomprehensibilities are long", 10) == ["incomprehensibilities", "are long"]
    # On the second line of a broken cell two blanks stand for every other cell, even for the empty one in front.
    assert table([("k", "aaaa bbbb cccc")], indented=True, cell_width=10) == [
        "    " + "k    " + "aaaa bbbb     ",
        "      " + "      " + "cccc          ",
    ]


def test_columns_are_padded_to_the_end() -> None:
    lines = table([("a", "1"), ("long", "22")], ("NAME", "ID"))
    assert lines == ["NAME    ID ", "a       1     ", "long    22    "]


def test_numbers_of_the_metadata_are_gos() -> None:
    facts = {
        "a.array": ["one", "two", "three"],
        "b.flag": True,
        "c.large": 134515008,
        "d.million": 1_000_000,
        "e.small": 49152,
        "f.tiny": 1e-05,
        "g.none": None,
        "h.negative": -2500000,
    }
    rows = {
        line.split()[0]: " ".join(line.split()[1:])
        for line in sections({"model_info": facts}, verbose=True)
        if "." in line
    }
    assert rows == {
        "a.array": "[one two ...+1 more]",
        "b.flag": "true",
        "c.large": "1.34515008e+08",
        "d.million": "1e+06",
        "e.small": "49152",
        "f.tiny": "1e-05",
        "g.none": "<nil>",
        "h.negative": "-2.5e+06",
    }


# -- Markdown ---------------------------------------------------------------------------------------------


def test_markdown_is_printed_block_by_block() -> None:
    out = io.StringIO()
    printer = MarkdownPrinter(out, columns=40)
    printer.write("# Tides\n\nThe **mo")
    assert "Tides" in out.getvalue()
    assert "#" not in out.getvalue()
    assert "The" not in out.getvalue()
    printer.write("on** pulls.\n\n```python\nx = 1\n\ny = 2\n")
    assert "The moon pulls." in out.getvalue()
    assert "x = 1" not in out.getvalue()  # a blank line does not end a block of code
    printer.write("```\n")
    printer.write("- one\n- two")
    printer.close()
    text = out.getvalue()
    assert "x = 1" in text
    assert "y = 2" in text
    assert "• two" in text
    assert "\x1b" not in text  # no terminal, no colours
    printer.close()
    assert out.getvalue() == text


# -- completion -------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, as far as names go."""
    for name in ("library/tide/v1", "library/tide/v2", "me/moon/latest"):
        path = tmp_path / "manifests" / "registry.ollama.ai" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    monkeypatch.setenv("VLLAMA_PACKAGED_MODELS", "false")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["pul"], ["pull"]),
        (["run", "TI"], ["tide:v1", "tide:v2"]),
        (["run", "--verbose", "me/"], ["me/moon:latest"]),
        (["run", "--format", "js"], []),
        (["run", "tide:v1", "t"], []),
        (["rm", "tide:v1", "tide:v"], ["tide:v1", "tide:v2"]),
        (["list", "--j"], ["--json"]),
        (["completion", "f"], ["fish"]),
        (["nosuch", "x"], []),
        (["serve", "t"], []),
    ],
)
def test_candidates(store: Path, words: list[str], found: list[str]) -> None:
    assert [value for value, _ in completion.candidates(words)] == found


def test_hidden_commands_are_not_offered(store: Path) -> None:
    names = [value for value, _ in completion.candidates([""])]
    assert "run" in names
    assert "logs" in names
    assert not {"complete", "start", "ls"} & set(names)


def test_bash_completes_names_with_colons(store: Path, tmp_path: Path) -> None:
    """The script in a real bash: the word is cut at the colon there, and nothing may be typed twice."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "vllama"
    fake.write_text("#!/bin/sh\n[ \"$1 $2 $3\" = 'complete -- run' ] && printf '%s\\t\\n' tide:v1 tide:v2\n")
    fake.chmod(0o755)
    script = completion.BASH + (
        '\nCOMP_LINE="vllama run tide:v"; COMP_POINT=${#COMP_LINE}; _vllama_completion'
        '; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["v1", "v2"], "")


def test_a_shell_without_completion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "bash, zsh and fish" in capsys.readouterr().err


# -- logs -------------------------------------------------------------------------------------------------


@pytest.fixture
def log_settings(tmp_path: Path) -> Iterator[Settings]:
    before = list(logging.getLogger().handlers)
    yield Settings(log_dir=str(tmp_path / "log"))
    for logger in (logging.getLogger(), logging.getLogger("vllama.log_file")):
        for handler in list(logger.handlers):
            if handler not in before:
                logger.removeHandler(handler)
                handler.close()


def test_the_log_is_kept_bounded_and_private(
    log_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    path = logs.log_file(log_settings)
    assert path is not None
    for port in range(logs.MAX_FILES + 5):
        path.parent.mkdir(exist_ok=True)
        old = path.with_name(f"serve-{port + 1}.log")
        old.write_text("old")
        os.utime(old, (port, port))
    logs.keep_log(log_settings)
    assert len(list(path.parent.glob("serve-*.log"))) == logs.MAX_FILES
    for number in range(100):
        logging.getLogger("vllama.test").warning("line %d", number)
    assert sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) <= 2 * 2000
    assert path.stat().st_mode & 0o77 == 0
    logs.print_log(log_settings, 3, follow=False)
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()] == ["97", "98", "99"]


def test_following_goes_on_in_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0.001)
    path = tmp_path / "serve.log"
    path.write_text("one\n")
    _, position = logs._last(path, 10)
    pieces = logs.following(path, position)
    with path.open("a") as file:
        file.write("two\nhal")
    assert next(pieces) == "two\n"
    with path.open("a") as file:
        file.write("f\nthree\n")
    path.rename(path.with_name("serve.log.1"))
    path.write_text("four\n")
    assert next(pieces) == "half\nthree\n"
    assert next(pieces) == "four\n"


def test_no_log_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, why in ((str(tmp_path), "no server has run on port"), ("off", "log_dir is off")):
        with pytest.raises(SystemExit):
            main(["logs", "--set", f"log_dir={given}"])
        assert why in capsys.readouterr().err
