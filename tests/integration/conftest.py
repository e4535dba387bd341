"""A real server with the real small model, started the way a user starts it, on a free loopback port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

MODEL = "smollm2:135m"


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Server:
    """A running `vllama serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def workers(self) -> list[psutil.Process]:
        """Its worker processes that are alive."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout=60)


def start_server(directory: Path, *arguments: str, env: dict[str, str] | None = None) -> Server:
    """`vllama serve` with an empty store under `directory`; returns when it answers."""
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))}
    clean |= {"OLLAMA_MODELS": str(directory / "models"), "OLLAMA_HOST": f"127.0.0.1:{port}"} | (env or {})
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllama", "serve", *arguments], env=clean, stdout=out, stderr=out, cwd=directory
        )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/api/version", timeout=5).status_code == 200:
                return Server(process, url, log)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for a module of tests."""
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    workers = running.workers()
    assert running.stop() == 0
    assert not [w for w in workers if w.is_running()], "a worker outlived its server"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    running = start_server(tmp_path)
    yield running
    if running.process.poll() is None:
        running.stop(signal.SIGKILL)
