"""The control: llama.cpp's own server, from the same source as the library that vLLama runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from vllama.bench.llama_server_build import cached
from vllama.bench.systems.base import Setup, Unavailable
from vllama.bench.systems.http import HttpSystem


class LlamaServer(HttpSystem):
    """As fast as we know how to start it: no web page, no slot saving to host memory, one slot per stream."""

    key = "llama-server"
    title = "llama-server"
    api = "llama-server"
    capabilities = frozenset({"stream", "chat", "cancel", "constrained", "restart"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._binary = Path()
        self._help = ""

    def find(self) -> None:
        """LLAMA_SERVER_BIN, else what `nox -s build_llama_server` left in .cache, else `llama-server` on PATH."""
        named = os.environ.get("LLAMA_SERVER_BIN")
        found = named or cached(self.setup.root) or shutil.which("llama-server")
        if found is None:
            raise Unavailable("no llama-server: run `nox -s build_llama_server`, or set LLAMA_SERVER_BIN")
        self._binary = Path(found).absolute()
        if not os.access(self._binary, os.X_OK):
            raise Unavailable(f"LLAMA_SERVER_BIN={named} is not a program")
        self._help = output([str(self._binary), "--help"])
        version = output([str(self._binary), "--version"])
        self.described.version = " ".join(
            line for line in version.splitlines() if line.startswith(("version", "built"))
        )
        source = "LLAMA_SERVER_BIN" if named else "built from the sdist of the installed llama-cpp-python"
        if not named and cached(self.setup.root) is None:
            source = "found on PATH"
        self.described.notes = [source]
        self.described.model_sha256 = self.setup.sha256

    def command(self) -> tuple[list[str], dict[str, str]]:
        """One slot per parallel request, each with the whole context that a request may have."""
        setup = self.setup
        argv = [
            *(str(self._binary), "-m", str(setup.gguf), "--host", "127.0.0.1", "--port", str(self.port)),
            *("-c", str(setup.ctx * setup.parallel), "-np", str(setup.parallel)),
            *("-t", str(setup.threads), "-tb", str(setup.threads)),
        ]
        # Switches that only some versions know; each makes the control cheaper or leaner, never slower.
        for known, flags in (
            ("--cache-ram", ("--cache-ram", "0")),
            ("--no-ui", ("--no-ui",)),
            ("--offline", ("--offline",)),
        ):
            if known in self._help:
                argv += flags
        return argv, {}


class LlamaServerTwin(LlamaServer):
    """The control a second time, as its own process: its ratio to the control is the run's own noise."""

    key = "llama-server-twin"
    title = "llama-server (twin)"


class LlamaServerUnified(LlamaServer):
    """The control with one KV memory for all slots, in which a slot can use what another has computed."""

    key = "llama-server-unified"
    title = "llama-server (--kv-unified)"

    def command(self) -> tuple[list[str], dict[str, str]]:
        """As the control, and the switch."""
        argv, env = super().command()
        return [*argv, "--kv-unified"], env


class LlamaServerEmbeddings(LlamaServer):
    """The control for embeddings, which llama-server only gives when it was started for them."""

    key = "llama-server-embeddings"
    title = "llama-server (--embeddings)"
    capabilities = frozenset({"embed", "restart"})

    def command(self) -> tuple[list[str], dict[str, str]]:
        """A text must fit into one physical batch, because each of its tokens may see all others."""
        argv, env = super().command()
        return [*argv, "--embeddings", "-b", str(self.setup.ctx), "-ub", str(self.setup.ctx)], env


def output(argv: list[str]) -> str:
    """What a program prints; `Unavailable` if it does not run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{argv[0]} does not run: {error}") from error
    return done.stdout + done.stderr
