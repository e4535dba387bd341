"""Servers and commands that are not ours, each with a home and a port of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.external import programs
from tests.integration.conftest import Server, free_port, start_server
from vllama.models.overlay import Overlay

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Say at the very end which programs the run went without."""
    yield
    for name, hint in programs.missing.items():
        terminalreporter.write_line(f"missing program: {name} ({hint})", yellow=True)


def clean_environ() -> dict[str, str]:
    """The environment without anything that steers Ollama, vLLama or llama.cpp."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_", "LLAMA_ARG_"))}


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str], directory: Path, ready: str) -> Iterator[None]:
    """A server of somebody else's; it is up when `ready` answers 200, and gone with all its children afterwards."""
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=directory, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(ready, timeout=5).status_code == 200:
                    break
            if process.poll() is not None:
                pytest.fail(f"{command[0]} ended: {log.read_text()}")
            time.sleep(0.05)
        else:
            pytest.fail(f"{command[0]} does not answer: {log.read_text()}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Ollama:
    """The real `ollama` command, pointed at one server."""

    binary: str
    url: str
    home: Path

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run it; what it prints comes without the terminal's escape sequences."""
        env = clean_environ() | {"HOME": str(self.home), "OLLAMA_HOST": self.url}
        done = subprocess.run(
            [self.binary, *arguments], env=env, cwd=self.home, input=stdin, capture_output=True, text=True, timeout=240
        )
        done.stdout, done.stderr = (_ESCAPES.sub("", text) for text in (done.stdout, done.stderr))
        return done

    def create(self, name: str, modelfile: str) -> str:
        """`ollama create NAME -f`; what it reported."""
        file = self.home / f"Modelfile-{name}"
        file.write_text(modelfile)
        done = self("create", name, "-f", str(file))
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The file of the model that the package carries."""
    return next(model.gguf for model in Overlay().models() if model.gguf is not None)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A vLLama for a module of tests."""
    # One thread: these tests are about answers, and other servers run beside this one.
    running = start_server(tmp_path_factory.mktemp("ours"), env={"VLLAMA_NUM_THREAD": "1"})
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def ollama_binary() -> str:
    """Where the real `ollama` is; the test is skipped before any server starts if there is none."""
    return programs.need("ollama")


@pytest.fixture(scope="module")
def cli(ollama_binary: str, ours: Server, tmp_path_factory: pytest.TempPathFactory) -> Ollama:
    """The real command line, pointed at our server."""
    return Ollama(ollama_binary, ours.url, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def real(ollama_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    """A real Ollama server with an empty store, and the command line pointed at it."""
    home = tmp_path_factory.mktemp("real")
    port = free_port()
    env = clean_environ() | {
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(home / "models"),
        "LLAMA_ARG_THREADS": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with started([ollama_binary, "serve"], env, home, f"{url}/api/version"):
        yield Ollama(ollama_binary, url, home)
