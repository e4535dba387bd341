"""Engines that serve a Hugging Face directory by OpenAI's API: vLLM's own server and MAX."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllama.bench.dialects import Api
from vllama.bench.systems.base import Setup, SystemFailed, Unavailable
from vllama.bench.systems.http import HttpSystem
from vllama.bench.systems.llama_server import output

HF_MODEL = "VLLAMA_BENCH_HF_MODEL"

CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB for keys and values where vLLM runs on a processor (elsewhere it means nothing). Without it vLLM wants 92 % of
the memory for itself and does not start beside anything."""

CPU_CACHE_GIB = "2"


class HfSystem(HttpSystem):
    """Serves another file than the GGUF, so the report must call it another artefact; its start may compile."""

    api: Api = "openai"
    capabilities = frozenset({"stream", "chat", "cancel", "restart"})
    start_s = 900.0
    poll_s = 0.1

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.folder = Path()

    def _find_model(self) -> None:
        named = os.environ.get(HF_MODEL)
        if not named:
            raise Unavailable(
                f"{self.title} serves a Hugging Face directory, not a GGUF file: set {HF_MODEL} to the same model's"
            )
        self.folder = Path(named).expanduser().absolute()
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Unavailable(f"{HF_MODEL}={named} is no Hugging Face directory: {error}") from error
        size = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        kind = config.get("torch_dtype") or config.get("dtype") or "unknown type"
        self.described.notes = [
            f"another artefact: {self.folder.name}, {'/'.join(config.get('architectures') or ['?'])}, {kind}, "
            f"{size:,} bytes of weights"
        ]

    async def prepare(self) -> None:
        """The name that the server gave the model."""
        self.model = await first_model(self)


class Vllm(HfSystem):
    """`python -m vllm.entrypoints.openai.api_server`, context and parallel requests matched."""

    key = "vllm"
    title = "vLLM"
    capabilities = HfSystem.capabilities | {"constrained"}

    def find(self) -> None:
        """The interpreter of VLLAMA_VLLM_PYTHON, else the `vllm` command on PATH, else this interpreter is no help."""
        named, command = os.environ.get("VLLAMA_VLLM_PYTHON"), shutil.which("vllm")
        if named:
            self._program = [named, "-m", "vllm.entrypoints.openai.api_server", "--model"]
            asked = [named, "-c", "import vllm; print(vllm.__version__)"]
        elif command:
            self._program, asked = [command, "serve"], [command, "--version"]
        else:
            raise Unavailable("no `vllm` on PATH and no VLLAMA_VLLM_PYTHON: pip install vllm, in a place of its own")
        self._find_model()
        self.described.version = last_line(output(asked))

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The model's own sampling defaults are switched off: what is asked for is what is done."""
        setup = self.setup
        return [
            *(*self._program, str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--served-model-name", "bench", "--max-model-len", str(setup.ctx)),
            *("--max-num-seqs", str(setup.parallel), "--generation-config", "vllm"),
        ], {CPU_CACHE: os.environ.get(CPU_CACHE, CPU_CACHE_GIB)}

    def options(self) -> dict[str, Any]:
        """Sampling fields beyond OpenAI's that this server knows."""
        return {"repetition_penalty": 1.0}


class Max(HfSystem):
    """`max serve`, context and parallel requests matched."""

    key = "max"
    title = "MAX"

    def find(self) -> None:
        """The `max` command on PATH, or VLLAMA_BENCH_MAX."""
        found = os.environ.get("VLLAMA_BENCH_MAX") or shutil.which("max")
        if not found:
            raise Unavailable("no `max` on PATH and no VLLAMA_BENCH_MAX: pip install modular, in a place of its own")
        self._find_model()
        self._binary = found
        self.described.version = last_line(output([found, "--version"]))

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The address is set by variables, which older versions know too."""
        setup = self.setup
        argv = [self._binary, "serve", "--model", str(self.folder), "--port", str(self.port)]
        argv += ["--max-length", str(setup.ctx), "--max-batch-size", str(setup.parallel)]
        if not any(Path(device).exists() for device in GPU_DEVICES):
            # Its kernels for processors compute in float32 only; the directory must hold a copy in float32.
            argv += ["--devices", "cpu", "--quantization-encoding", "float32"]
        return argv, {"MAX_SERVE_HOST": "127.0.0.1", "MAX_SERVE_PORT": str(self.port)}


GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""What NVIDIA's and AMD's drivers leave on Linux."""


async def first_model(system: HttpSystem) -> str:
    """The id of the first model that an OpenAI-compatible server lists. Raises `SystemFailed`."""
    exchange = await system.fetch("/v1/models")
    try:
        rows: Sequence[dict[str, Any]] = json.loads(exchange.body)["data"]
        return str(rows[0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        what = exchange.error or f"status {exchange.status}, {exchange.body[:120]!r}"
        raise SystemFailed(f"{system.title} lists no model at /v1/models: {what}") from None


def last_line(text: str) -> str:
    """The last line with text: programs print warnings before their version."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "unknown")
