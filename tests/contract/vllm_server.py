"""One real vLLM server for all contract tests: it takes a minute to start. `nox -s tests_vllm` says where it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket as sockets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from vllama.engines.base import LoadOptions, ModelSource, Progress
from vllama.engines.completions.client import Address, Client
from vllama.engines.completions.directory import inspect
from vllama.engines.completions.served import Order
from vllama.engines.vllm.arguments import command, environment
from vllama.engines.vllm.availability import python
from vllama.engines.vllm.engine import VllmEngine
from vllama.hardware import facts

MODEL = "VLLAMA_TEST_HF_MODEL"
"""Names the variable with the directory of SmolLM2-135M-Instruct in safetensors."""

OPTIONS = LoadOptions(extra=(("vllm_args", "--enforce-eager"),))
START_S = 240


@contextlib.contextmanager
def vllm_server() -> Iterator[Address]:
    """Runs it as the engine would, for the length of the block."""
    folder = os.environ.get(MODEL)
    assert folder, f"set {MODEL} to a directory with SmolLM2-135M-Instruct in safetensors"
    model = inspect(Path(folder))
    with tempfile.TemporaryDirectory(prefix="vllm-") as home:
        socket = Path(home) / "s"
        log = Path(home) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command(python(), model, socket, OPTIONS),
                env=environment(model, "key", facts(), os.environ),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://vllm") as client:
                for _ in range(START_S * 2):
                    assert process.poll() is None, log.read_text()[-3000:]
                    with contextlib.suppress(httpx.HTTPError):
                        if listens(socket) and client.get("/health").is_success:
                            break
                    time.sleep(0.5)
            yield Address("http://vllm", "key", uds=str(socket), retries=0, title=VllmEngine.title)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listens(path: Path) -> bool:
    """Whether somebody answers there: httpx leaves its socket open where a connection is refused."""
    with sockets.socket(sockets.AF_UNIX) as tried:
        return tried.connect_ex(str(path)) == 0


class AttachedVllm(VllmEngine):
    """The engine without a child of its own: it meets the server that runs already."""

    def __init__(self, address: Address) -> None:
        super().__init__(ModelSource(Path(os.environ[MODEL]), "safetensors"), OPTIONS)
        self._address = address

    async def _start(self, order: Order, progress: Progress | None) -> None:
        self._client = Client(self._address)
        if progress is not None:
            progress(0.5)
