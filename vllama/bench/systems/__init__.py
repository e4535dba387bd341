"""The systems under test, by the key that plans use."""

from __future__ import annotations

from vllama.bench.systems.base import (
    CAPABILITIES,
    Boot,
    Described,
    Later,
    Setup,
    System,
    SystemFailed,
    Unavailable,
)
from vllama.bench.systems.base_commit import VllamaBase, VllamaPlanted
from vllama.bench.systems.golden import Golden
from vllama.bench.systems.http import HttpSystem
from vllama.bench.systems.in_process import InProcess
from vllama.bench.systems.llama_cpp_server import LlamaCppServer, LlamaCppServerUninterrupted
from vllama.bench.systems.llama_server import LlamaServer, LlamaServerEmbeddings, LlamaServerTwin, LlamaServerUnified
from vllama.bench.systems.ollama import Ollama, OllamaOpenAI, OllamaParallel
from vllama.bench.systems.ollama_child import OllamaChild
from vllama.bench.systems.openai_engines import Max, Vllm
from vllama.bench.systems.openai_url import OpenAIUrl
from vllama.bench.systems.vllama import Scripted, Vllama, VllamaDefaults, VllamaNoFlash
from vllama.bench.systems.vllama_cpu import VllamaCpu
from vllama.bench.systems.vllama_served import VllamaMax, VllamaVllm
from vllama.errors import ConfigError

SYSTEMS: dict[str, type[System]] = {
    kind.key: kind
    for kind in (
        Vllama,
        VllamaDefaults,
        VllamaNoFlash,
        VllamaBase,
        VllamaPlanted,
        VllamaCpu,
        LlamaServer,
        LlamaServerTwin,
        LlamaServerUnified,
        LlamaServerEmbeddings,
        InProcess,
        Ollama,
        OllamaParallel,
        OllamaOpenAI,
        OllamaChild,
        LlamaCppServer,
        LlamaCppServerUninterrupted,
        Vllm,
        VllamaVllm,
        Max,
        VllamaMax,
        OpenAIUrl,
        Golden,
        Scripted,
    )
}


def make(key: str, setup: Setup) -> System:
    """The system of that key. Raises `ConfigError` that lists the known ones."""
    if key not in SYSTEMS:
        raise ConfigError(f"unknown system {key!r}; known: {', '.join(SYSTEMS)}")
    return SYSTEMS[key](setup)


__all__ = [
    "CAPABILITIES",
    "SYSTEMS",
    "Boot",
    "Described",
    "HttpSystem",
    "InProcess",
    "Later",
    "Setup",
    "System",
    "SystemFailed",
    "Unavailable",
    "Vllama",
    "make",
]
