"""vLLama on the server of another maker: what it adds to vLLM or MAX is the ratio to that server alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from vllama.bench.systems.base import SystemFailed, Unavailable
from vllama.bench.systems.openai_engines import CPU_CACHE, CPU_CACHE_GIB, HfSystem


class VllamaServed(HfSystem):
    """`vllama serve --model DIR --engine ...` on Ollama's native API, context and parallel requests matched."""

    api = "ollama"
    engine = ""
    needs = ""

    def find(self) -> None:
        """What `vllama doctor` says of the engine, and the model's directory."""
        done = subprocess.run(
            [sys.executable, "-m", "vllama", "doctor", "--json"], capture_output=True, text=True, timeout=120
        )
        try:
            rows = json.loads(done.stdout)["findings"]
            said = next(row for row in rows if (row["area"], row["name"]) == ("Engines", self.engine))
        except (ValueError, KeyError, StopIteration) as error:
            raise Unavailable(f"`vllama doctor` says nothing of the engine {self.engine}") from error
        if said["verdict"] != "ok":
            raise Unavailable(said["text"])
        self._find_model()
        self.described.version = f"{version('vllama')}, {said['text']}"

    async def prepare(self) -> None:
        """The name that the directory got; it is loaded when the port opens. Raises `SystemFailed` if none is."""
        exchange = await self.fetch("/api/ps")
        try:
            self.model = str(json.loads(exchange.body)["models"][0]["name"])
        except (ValueError, LookupError, TypeError):
            what = exchange.error or f"status {exchange.status}, {exchange.body[:120]!r}"
            raise SystemFailed(f"{self.title} has loaded no model: {what}") from None

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Nothing of the user's store is seen; where the engine's program is must be passed on."""
        home = self.setup.scratch / self.key
        env = {
            "HOME": str(home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(home / "models"),
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NUM_PARALLEL": str(self.setup.parallel),
            CPU_CACHE: os.environ.get(CPU_CACHE, CPU_CACHE_GIB),
        }
        home.mkdir(parents=True, exist_ok=True)
        if named := os.environ.get(self.needs):
            env[self.needs] = named
        argv = [sys.executable, "-m", "vllama", "serve", "--model", str(self.folder), "--engine", self.engine]
        return [*argv, *self.extra()], env

    def extra(self) -> list[str]:
        """More arguments."""
        return []

    def options(self) -> dict[str, Any]:
        """The matched lane's context."""
        return {"num_ctx": self.setup.ctx}


class VllamaVllm(VllamaServed):
    """Its control is `vllm`."""

    key = "vllama-vllm"
    title = "vLLama on vLLM"
    engine = "vllm"
    needs = "VLLAMA_VLLM_PYTHON"
    capabilities = HfSystem.capabilities | {"constrained"}

    def extra(self) -> list[str]:
        """The control's context; by itself vLLama starts vLLM with the longest that fits and keeps num_ctx itself."""
        return ["--vllm-arg", f"--max-model-len={self.setup.ctx}"]


class VllamaMax(VllamaServed):
    """Its control is `max`."""

    key = "vllama-max"
    title = "vLLama on MAX"
    engine = "max"
    needs = "VLLAMA_MAX"
