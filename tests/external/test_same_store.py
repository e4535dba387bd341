"""A real Ollama and vLLama on one store: each lists, shows and serves what the other made, at the same time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.external.conftest import Ollama, clean_environ, started
from tests.integration.conftest import Server, free_port, start_server

pytestmark = [pytest.mark.external, pytest.mark.model]

LONG = "You answer in one word, and you never say anything else, because that is what we all agreed upon, isn't it?"
MODELFILE = f'''FROM {{gguf}}
TEMPLATE {{{{{{{{ .Prompt }}}}}}}}
SYSTEM """{LONG}
A second   line.

A third one."""
PARAMETER temperature 0.25
PARAMETER stop "User said: "
PARAMETER stop <|im_end|>
PARAMETER num_ctx 512
PARAMETER num_predict 4
PARAMETER seed 1
LICENSE """A Licence
Version 2.0, with a line that goes on and on, until it has to be broken around the hundredth column; 漢字漢字 Überlänge
more"""
MESSAGE user hi
MESSAGE assistant hello
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def theirs(ollama_binary: str, home: Path) -> Iterator[Ollama]:
    """A real Ollama on the shared store."""
    url = f"http://127.0.0.1:{free_port()}"
    env = clean_environ() | {"HOME": str(home), "OLLAMA_HOST": url, "OLLAMA_MODELS": str(home / "models")}
    with started([ollama_binary, "serve"], env | {"LLAMA_ARG_THREADS": "1"}, home, f"{url}/api/version"):
        yield Ollama(ollama_binary, url, home)


@pytest.fixture(scope="module")
def beside(theirs: Ollama, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A vLLama on the same store, without models of its own."""
    env = {"OLLAMA_MODELS": str(home / "models"), "VLLAMA_PACKAGED_MODELS": "false", "VLLAMA_NUM_THREAD": "1"}
    running = start_server(tmp_path_factory.mktemp("beside"), env=env)
    yield running
    assert running.stop() == 0


def vllama(url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Our command, pointed at a server, whichever it is."""
    env = clean_environ() | {"HOME": str(home), "OLLAMA_HOST": url}
    command = [sys.executable, "-m", "vllama", *arguments]
    return subprocess.run(
        command, env=env, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def filled(theirs: Ollama, beside: Server, home: Path, gguf: Path) -> tuple[Ollama, Server]:
    """Models that a real Ollama made and copied, and models that vLLama made and copied."""
    theirs.create("Theirs:v1", MODELFILE.format(gguf=gguf))
    _next_second()
    theirs.create("theirs-plain", f"FROM {gguf}\n")
    _next_second()
    assert theirs("cp", "Theirs:v1", "me/their-copy").returncode == 0
    file = home / "Modelfile-ours"
    file.write_text(MODELFILE.format(gguf=gguf))
    for arguments in (
        ("create", "Ours:v1", "-f", str(file), "--host", beside.url),
        ("cp", "Ours:v1", "me/our-copy", "--host", beside.url),
    ):
        _next_second()
        done = vllama(beside.url, home, *arguments)
        assert done.returncode == 0, done.stderr
    return theirs, beside


def _next_second() -> None:
    """Ollama orders lists by whole seconds, and what has the same one anyhow."""
    time.sleep(1.1)


NAMES = ("Theirs:v1", "theirs-plain:latest", "me/their-copy:latest", "Ours:v1", "me/our-copy:latest")


def test_both_list_the_same_models(filled: tuple[Ollama, Server]) -> None:
    theirs, beside = filled
    theirs_found, ours_found = ({m["name"]: m for m in _tags(url)} for url in (theirs.url, beside.url))
    assert set(theirs_found) == set(ours_found) == set(NAMES)
    for name in NAMES:
        # The same moment, written with nine digits and a zone there, with six and a Z here.
        moments = [datetime.fromisoformat(found[name].pop("modified_at")) for found in (theirs_found, ours_found)]
        assert abs(moments[0] - moments[1]) < timedelta(milliseconds=1)
        assert theirs_found[name] == ours_found[name]


def _tags(url: str) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = httpx.get(f"{url}/api/tags").json()["models"]
    return models


COMMANDS = [
    ("list",),
    ("list", "THEIRS"),
    ("list", "nosuch"),
    ("ps",),
    *(("show", name) for name in NAMES),
    *(("show", "-v", name) for name in ("Theirs:v1", "Ours:v1")),
    *(("show", part, "Theirs:v1") for part in ("--license", "--modelfile", "--parameters", "--system", "--template")),
    ("show", "--license", "theirs-plain"),
    ("show", "--system", "theirs-plain"),
    ("show", "nosuch"),
    ("cp", "nosuch", "other"),
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_our_command_prints_what_theirs_prints(
    filled: tuple[Ollama, Server], home: Path, arguments: tuple[str, ...]
) -> None:
    """Both commands asked our server, and each its own: the output is the same to the last blank."""
    theirs, beside = filled
    across = Ollama(theirs.binary, beside.url, home)
    printed = {
        "ours of ours": vllama(beside.url, home, *arguments),
        "theirs of ours": across(*arguments),
        "ours of theirs": vllama(theirs.url, home, *arguments, "--host", theirs.url),
        "theirs of theirs": theirs(*arguments),
    }
    shown = {who: (done.returncode, _comparable(done.stdout), done.stderr) for who, done in printed.items()}
    assert shown["ours of ours"] == shown["theirs of ours"]
    assert shown["ours of theirs"] == shown["theirs of theirs"]
    if "-v" not in arguments:  # keys of the GGUF that each keeps to itself
        assert shown["ours of ours"][:2] == shown["theirs of theirs"][:2]


def _comparable(text: str) -> str:
    """Without the seconds that passed between two commands, and in one order of parameters, which Ollama shuffles."""
    text = re.sub(r"(?m)^(NAME .*MODIFIED) *$", r"\1", text)
    text = re.sub(r"(?m)(Less than a second|\d+ seconds?|About a minute|\d+ minutes) ago *$", "just now", text)
    parameters = ("PARAMETER", "temperature", "stop", "num_ctx", "num_predict", "seed", "    temperature")
    lines = text.splitlines(keepends=True)
    own = sorted(line for line in lines if line.strip().startswith(parameters))
    return "".join(own.pop(0) if line.strip().startswith(parameters) else line for line in lines)


def test_each_serves_what_the_other_made(filled: tuple[Ollama, Server]) -> None:
    theirs, beside = filled
    for url, name in ((beside.url, "Theirs:v1"), (theirs.url, "Ours:v1"), (beside.url, "me/their-copy")):
        body = {"model": name, "prompt": "Hello", "stream": False, "options": {"temperature": 0}}
        answer = httpx.post(f"{url}/api/generate", json=body, timeout=240).raise_for_status().json()
        assert answer["response"]
        assert answer["done_reason"] in ("length", "stop")
        httpx.post(f"{url}/api/generate", json={"model": name, "keep_alive": 0}, timeout=60).raise_for_status()


def test_each_deletes_what_the_other_made(filled: tuple[Ollama, Server], home: Path) -> None:
    theirs, beside = filled
    assert vllama(beside.url, home, "rm", "me/their-copy").stdout == "deleted 'me/their-copy'\n"
    assert "me/their-copy" not in theirs("list").stdout
    assert theirs("rm", "me/our-copy").returncode == 0
    assert "me/our-copy" not in vllama(beside.url, home, "list").stdout
    # What others still need is there.
    for url in (theirs.url, beside.url):
        assert httpx.post(f"{url}/api/show", json={"model": "Ours:v1"}).status_code == 200
    assert not [path for path in os.listdir(home / "models" / "blobs") if path.startswith(".")]
