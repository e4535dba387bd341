"""The systems under test, by the key that plans use."""

from __future__ import annotations

from vllama.bench.systems.base import Described, HttpSystem, Setup, System, SystemFailed, Unavailable
from vllama.bench.systems.in_process import InProcess
from vllama.bench.systems.llama_server import LlamaServer, LlamaServerTwin
from vllama.bench.systems.ollama import Ollama, OllamaParallel
from vllama.bench.systems.vllama import Vllama
from vllama.errors import ConfigError

SYSTEMS: dict[str, type[System]] = {
    kind.key: kind for kind in (Vllama, LlamaServer, LlamaServerTwin, InProcess, Ollama, OllamaParallel)
}


def make(key: str, setup: Setup) -> System:
    """The system of that key. Raises `ConfigError` that lists the known ones."""
    if key not in SYSTEMS:
        raise ConfigError(f"unknown system {key!r}; known: {', '.join(SYSTEMS)}")
    return SYSTEMS[key](setup)


__all__ = [
    "SYSTEMS",
    "Described",
    "HttpSystem",
    "InProcess",
    "LlamaServer",
    "LlamaServerTwin",
    "Ollama",
    "OllamaParallel",
    "Setup",
    "System",
    "SystemFailed",
    "Unavailable",
    "Vllama",
    "make",
]
