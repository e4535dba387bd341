"""The interactive prompt in a pseudo-terminal, through every command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.integration.conftest import MODEL, free_port

pytestmark = pytest.mark.model

STEPS = (
    ("/?", 'Use """ to begin a multi-line message.'),
    ("/? shortcuts", "Ctrl + a, Ctrl + e"),
    ("/? /show", "/show license"),
    ("/help set", "/set nohistory"),
    ("/set", "/set parameter ..."),
    ("/set nosuch", "Unknown command '/set nosuch'. Type /? for help"),
    ("/set parameter", "Available Parameters:"),
    ("/set parameter temperature 0.5", "Set parameter 'temperature' to '0.5'"),
    ("/set parameter stop AAA BBB", "Set parameter 'stop' to 'AAA, BBB'"),
    ("/set parameter nosuch 1", "Couldn't set parameter: \"unknown parameter 'nosuch'\""),
    ("/show", "/show parameters"),
    ("/show nosuch", "Unknown command '/show nosuch'. Type /? for help"),
    ("/show parameters", "User defined parameters:"),
    ("/show system", "No system message was specified for this model."),
    ("/set system Be brief.", "Set system message."),
    ("/show system", "Be brief."),
    ("/show info", "134.52M"),
    ("/show license", "Apache-2.0"),
    ("/show modelfile", "FROM /"),
    ("/show template", "add_generation_prompt"),
    ("/set format", "Invalid or missing format."),
    ("/set format json", "Set format to 'json' mode."),
    ("/set noformat", "Disabled format."),
    ("/set think", "Set 'think' mode."),
    ("/set think high", "Set 'think' mode to 'high'."),
    ("/set nothink", "Set 'nothink' mode."),
    ("/set verbose", "Set 'verbose' mode."),
    ("Hello", "eval rate:"),
    ("/set quiet", "Set 'quiet' mode."),
    ("/set markdown", "Set 'markdown' mode."),
    ("/set nomarkdown", "Set 'nomarkdown' mode."),
    ("/set nowordwrap", "Set 'nowordwrap' mode."),
    ("/set wordwrap", "Set 'wordwrap' mode."),
    ("/set nohistory", ""),
    ("/set history", ""),
    ("What is ./picture.png?", "Error: smollm2:135m has no vision: it cannot take picture.png. Nothing was sent"),
    ("/save twin", "Created new model 'twin'"),
    ("/load", "/load <modelname>"),
    ("/load nosuch", "Couldn't find model 'nosuch'"),
    ("/load twin", ">>> Hello"),
    ("/list", "twin:latest"),
    ("/clear", "Cleared session context"),
    ("/nosuch", "Unknown command '/nosuch'"),
)


@contextlib.contextmanager
def prompt(home: Path, **env: str) -> Iterator[pexpect.spawn]:
    """`vllama run` of the scripted engine in a terminal of 40 lines and 100 columns."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_", "XDG_"))}
    clean |= {"HOME": str(home), "OLLAMA_HOST": f"127.0.0.1:{free_port()}", "TERM": "xterm"}
    clean |= {"PROMPT_TOOLKIT_NO_CPR": "1"} | env
    command = ["-m", "vllama", "run", "--engine", "scripted", MODEL]
    terminal = pexpect.spawn(
        sys.executable, command, env=clean, cwd=str(home), dimensions=(40, 100), timeout=60, encoding="utf-8"
    )
    if folder := os.environ.get("VLLAMA_TEST_CAPTURES"):  # to look at what a person would see
        terminal.logfile_read = (Path(folder) / f"{home.name}.txt").open("w")
    try:
        terminal.expect_exact(">>> ")
        yield terminal
    finally:
        terminal.close(force=True)


def test_every_command(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
    with prompt(tmp_path, VLLAMA_SCRIPTED_LENGTH="8") as terminal:
        for typed, shown in STEPS:
            terminal.send(f"{typed}\r")
            terminal.expect_exact(typed)
            terminal.expect_exact(shown)
            terminal.expect_exact(">>> ")
        terminal.send('"""one\r')
        terminal.expect_exact("... ")
        terminal.send('two"""\r')
        terminal.expect_exact(">>> ")
        terminal.send('/set system """one\r')
        terminal.expect_exact("... ")
        terminal.send('two"""\r')
        terminal.expect_exact("Set system message.")
        terminal.expect_exact(">>> ")
        terminal.send("dropped")
        terminal.expect_exact("dropped")
        terminal.sendcontrol("c")
        terminal.expect_exact("Send a message")  # the next prompt, not the old one drawn for the last time
        terminal.sendcontrol("c")
        terminal.expect_exact("Use Ctrl + d or /bye to exit.")
        terminal.expect_exact(">>> ")
        terminal.sendcontrol("d")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0
    history = (tmp_path / ".local" / "share" / "vllama" / "history").read_text()
    assert "+/set verbose" in history
    assert "+/set history" not in history  # it was typed while nothing was kept
    assert "+dropped" not in history


def test_ctrl_c_stops_the_answer_and_nothing_else(tmp_path: Path) -> None:
    with prompt(tmp_path, VLLAMA_SCRIPTED_LENGTH="100000", VLLAMA_SCRIPTED_STEP_US="20000") as terminal:
        terminal.send("Tell me a tale\r")
        terminal.expect_exact("Tell me a tale")
        terminal.expect(r"[a-z]{3}")
        terminal.sendcontrol("c")
        terminal.expect_exact(">>> ")
        terminal.send("/save kept\r")
        terminal.expect_exact("Created new model 'kept'")
        terminal.send("/bye\r")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0


def test_ctrl_g_writes_the_message_in_an_editor(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho '/show license' > \"$1\"\n")
    editor.chmod(0o755)
    with prompt(tmp_path, OLLAMA_EDITOR=str(editor)) as terminal:
        terminal.sendcontrol("g")
        terminal.expect_exact("/show license")
        terminal.send("\r")
        terminal.expect_exact("Apache-2.0")
