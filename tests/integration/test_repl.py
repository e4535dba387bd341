"""The interactive prompt in a pseudo-terminal, through every command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pexpect
import pytest

from tests.integration.conftest import MODEL, free_port

pytestmark = pytest.mark.model

STEPS = (
    ("/?", "Available commands:"),
    ("/? shortcuts", "Ctrl + a, Ctrl + e"),
    ("/set", "/set parameter NAME VALUE..."),
    ("/show", "/show info|license"),
    ("/set parameter temperature 0.5", "Set parameter 'temperature' to '0.5'"),
    ("/set parameter nosuch 1", "Error: unknown parameter 'nosuch'"),
    ("/show parameters", "Set in this session:"),
    ("/set system Be brief.", "Set system message."),
    ("/show info", "134.52M"),
    ("/show license", "Apache-2.0"),
    ("/show modelfile", "FROM /"),
    ("/show template", "add_generation_prompt"),
    ("/set format json", "Set format."),
    ("/set noformat", "Disabled format."),
    ("/set think", "Set thinking to true."),
    ("/set nothink", "Set thinking to false."),
    ("/set verbose", "Set 'verbose' mode."),
    ("/set quiet", "Set 'quiet' mode."),
    ("/set nowordwrap", "Set 'nowordwrap' mode."),
    ("/set wordwrap", "Set 'wordwrap' mode."),
    ("/set nohistory", ""),
    ("/set history", ""),
    ("/save twin", "Created new model 'twin'"),
    ("/load twin", ""),
    ("/list", "twin:latest"),
    ("/clear", "Cleared session context"),
    ("/nosuch", "Unknown command '/nosuch'"),
)


def test_every_command(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_", "XDG_"))}
    env |= {"HOME": str(tmp_path), "OLLAMA_HOST": f"127.0.0.1:{free_port()}", "TERM": "xterm"}
    env |= {"VLLAMA_SCRIPTED_LENGTH": "8", "PROMPT_TOOLKIT_NO_CPR": "1"}
    command = ["-m", "vllama", "run", "--engine", "scripted", MODEL]
    terminal = pexpect.spawn(
        sys.executable, command, env=env, cwd=str(tmp_path), dimensions=(40, 100), timeout=60, encoding="utf-8"
    )
    try:
        terminal.expect_exact(">>> ")
        for typed, shown in STEPS:
            terminal.send(f"{typed}\r")
            terminal.expect_exact(typed)
            terminal.expect_exact(shown)
            terminal.expect_exact(">>> ")
        terminal.send('"""one\r')
        terminal.expect_exact("... ")
        terminal.send('two"""\r')
        terminal.expect_exact(">>> ")
        terminal.sendcontrol("c")
        terminal.expect_exact("Use Ctrl + d or /bye to exit.")
        terminal.expect_exact(">>> ")
        terminal.sendcontrol("d")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0
    finally:
        terminal.close(force=True)
    history = (tmp_path / ".local" / "share" / "vllama" / "history").read_text()
    assert "+/set verbose" in history
    assert "+/set history" not in history  # it was typed while nothing was kept
