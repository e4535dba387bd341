"""The control of the wrapper: the very program that Ollama runs, with the very arguments, without Ollama around it."""

from __future__ import annotations

import psutil

from vllama.bench.systems.base import Setup, SystemFailed, clean_environ
from vllama.bench.systems.http import HttpSystem
from vllama.bench.systems.ollama import OllamaParallel

INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LLAMA_", "GGML_", "OLLAMA_LIBRARY_PATH", "CUDA_", "HIP_", "ROCR_")
"""What of the child's environment decides how it computes."""


class OllamaChild(HttpSystem):
    """llama-server as Ollama starts it. Where it differs from `ollama-parallel`, Ollama itself is the difference.

    A matched Ollama is started first and asked for a few tokens; then its child's command line is read, Ollama is
    stopped, and the same program is started with the same arguments, only on another port.
    """

    key = "ollama-child"
    title = "Ollama's own llama-server (same argv, no Ollama)"
    api = "llama-server"
    capabilities = frozenset({"stream", "cancel", "restart"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._parent = _Parent(setup)
        self._argv: list[str] = []
        self._env: dict[str, str] = {}

    def find(self) -> None:
        """Ollama must be there, of a version that runs llama-server as a child."""
        self._parent.find()
        self.described.version = f"child of Ollama {self._parent.described.version}"

    async def start(self) -> None:
        """See the class."""
        if not self._argv:
            await self._observe()
        await super().start()

    async def _observe(self) -> None:
        parent = self._parent
        try:
            await parent.start()
            child = find_child(parent.pids()[1:])
            if child is None:
                seen = parent.described.children
                raise SystemFailed(f"Ollama {parent.described.version} runs no llama-server as a child; seen: {seen}")
            self._argv = child.cmdline()
            # The first word is what Ollama called it; the file behind the process is certain.
            self._argv[0] = child.exe() or self._argv[0]
            found = child.environ()
        finally:
            await parent.stop()
        clean = clean_environ()
        self._env = {
            key: value for key, value in found.items() if key.startswith(INHERITED) and clean.get(key) != value
        }
        self.described.model_sha256 = parent.described.model_sha256
        self.described.notes = [
            *parent.described.notes,
            "program, arguments and library path as read from the running child of Ollama; only the port differs",
        ]

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The child's, on our port."""
        return with_port(self._argv, self.port), self._env


class _Parent(OllamaParallel):
    """The Ollama whose child is read. Its store stays: the child's model file lies in it."""

    key = "ollama-child-parent"
    title = "Ollama (to read its child's arguments)"


def find_child(pids: list[int]) -> psutil.Process | None:
    """The process that serves a model: the one with both a model file and a port on its command line."""
    for pid in pids:
        try:
            process = psutil.Process(pid)
            argv = process.cmdline()
        except psutil.Error:
            continue
        if {"--model", "--port"} <= set(argv) or {"-m", "--port"} <= set(argv):
            return process
    return None


def with_port(argv: list[str], port: int) -> list[str]:
    """The command line with another port."""
    place = argv.index("--port") + 1
    return [*argv[:place], str(port), *argv[place + 1 :]]
