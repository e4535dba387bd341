"""vLLama with no layer on a GPU, for machines that have one."""

from __future__ import annotations

from typing import Any

from vllama.bench.systems.vllama import Vllama


class VllamaCpu(Vllama):
    """As `vllama`, but every request asks for the processor alone."""

    key = "vllama-cpu"
    title = "vLLama (processor only)"

    def options(self) -> dict[str, Any]:
        """Ollama's option for the number of layers on a GPU: none."""
        return {**super().options(), "num_gpu": 0}
