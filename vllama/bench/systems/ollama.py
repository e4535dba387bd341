"""Ollama, when it is there: as shipped, with the settings that all share, and by its OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from vllama.bench.client import Connection
from vllama.bench.dialects import Api
from vllama.bench.systems.base import CAPABILITIES, Setup, SystemFailed, Unavailable
from vllama.bench.systems.http import HttpSystem
from vllama.bench.weights import read_weights


class Ollama(HttpSystem):
    """`ollama serve` with a private home and store; the model is made from the plan's GGUF through its own API."""

    key = "ollama"
    title = "Ollama (defaults)"
    lane = "defaults"
    api: Api = "ollama"
    model = "bench:latest"
    capabilities = CAPABILITIES

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._binary = ""
        self._stored = False

    def find(self) -> None:
        """OLLAMA_BIN, else `ollama` on PATH."""
        named = os.environ.get("OLLAMA_BIN")
        found = named or shutil.which("ollama")
        if found is None or not os.access(found, os.X_OK):
            raise Unavailable(
                f"OLLAMA_BIN={named} is not a program"
                if named
                else "no `ollama` on PATH and no OLLAMA_BIN: install it from https://ollama.com/download"
            )
        self._binary = str(Path(found).absolute())
        done = subprocess.run([self._binary, "--version"], capture_output=True, text=True, timeout=60, check=False)
        numbers = re.findall(r"\d+\.\d+\.\d+\S*", done.stdout + done.stderr)
        self.described.version = numbers[-1] if numbers else "unknown"
        if self.described.version == "0.0.0":
            self.described.notes = ["self-built: this binary carries no release number"]

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Nothing of the user's is read or written: home and store are private."""
        home = self.setup.scratch / self.key
        (home / "models").mkdir(parents=True, exist_ok=True)
        env = {
            "HOME": str(home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(home / "models"),
            "OLLAMA_KEEP_ALIVE": "-1",
        }
        return [self._binary, "serve"], {**env, **self.settings()}

    def settings(self) -> dict[str, str]:
        """None: as shipped."""
        return {}

    async def prepare(self) -> None:
        """Upload the GGUF as a blob and create the model from it, once: a later start finds both in its store."""
        if self._stored:
            return
        digest = f"sha256:{self.setup.sha256}"
        connection = Connection(self.port)
        try:
            upload = await connection.request(
                f"/api/blobs/{digest}", self.setup.gguf.read_bytes(), timeout=self.setup.timeout
            )
            if upload.error or upload.status not in (200, 201):
                raise SystemFailed(f"{self.title} refused the model file: {upload.error or upload.status}")
            for name, more in self.models().items():
                body = {"model": name, "files": {self.setup.gguf.name: digest}, "stream": False, **more}
                created = await connection.request("/api/create", json.dumps(body).encode(), timeout=self.setup.timeout)
                if created.error or created.status != 200 or b'"success"' not in created.body:
                    raise SystemFailed(f"{self.title} could not create {name}: {created.error or created.body[:200]!r}")
        finally:
            connection.close()
        await asyncio.to_thread(self._verify)
        self._stored = True

    def _verify(self) -> None:
        """What Ollama stored is compared with the plan's file, tensor by tensor: it may rearrange what it imports.

        `model_sha256` is the plan's digest only if the weights are the same.
        """
        # The blob's name is the file's digest and the server checked it while it stored it.
        self.described.model_sha256 = self.setup.sha256
        blob = stored_blob(self.setup.scratch / self.key / "models", self.model)
        if blob is None or blob.name == f"sha256-{self.setup.sha256}":
            return
        ours, theirs = read_weights(self.setup.gguf), read_weights(blob)
        if ours == theirs:
            note = (
                f"Ollama stored a rearranged copy of the file ({blob.name}): all {theirs.count} tensors have the same "
                f"names, types, shapes and bytes"
            )
        else:
            self.described.model_sha256 = blob.name.removeprefix("sha256-")
            note = f"Ollama stored other weights than the file's ({blob.name})"
        self.described.notes = [*self.described.notes, note]

    def models(self) -> dict[str, dict[str, Any]]:
        """Name -> what /api/create gets besides the file."""
        return {self.model: {}}


def stored_blob(store: Path, name: str) -> Path | None:
    """The file that a model of a store in Ollama's layout is loaded from; None if the store does not say."""
    model, _, tag = name.partition(":")
    try:
        manifest = json.loads((store / "manifests" / "registry.ollama.ai" / "library" / model / tag).read_text())
        digest = next(row["digest"] for row in manifest["layers"] if row["mediaType"].endswith(".image.model"))
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    return store / "blobs" / str(digest).replace(":", "-")


class OllamaParallel(Ollama):
    """The matched lane: the same context, threads and number of parallel requests as the other systems."""

    key = "ollama-parallel"
    title = "Ollama (OLLAMA_NUM_PARALLEL matched)"
    lane = "matched"

    def settings(self) -> dict[str, str]:
        """As many parallel requests as the plan has readers at once."""
        return {"OLLAMA_NUM_PARALLEL": str(self.setup.parallel)}

    def options(self) -> dict[str, Any]:
        """Context and threads of the matched lane."""
        return {"num_ctx": self.setup.ctx, "num_thread": self.setup.threads}


class OllamaOpenAI(OllamaParallel):
    """The matched lane by /v1. What that API cannot say (context, threads, top_k) stands in the model."""

    key = "ollama-openai"
    title = "Ollama (/v1, matched)"
    api = "openai"
    raw_model = "bench-raw:latest"
    capabilities = frozenset({"stream", "chat", "embed", "cancel", "constrained", "restart"})

    def options(self) -> dict[str, Any]:
        """None per request."""
        return {}

    def models(self) -> dict[str, dict[str, Any]]:
        """/v1/completions applies the template, so a bare prompt needs a model whose template is the prompt."""
        parameters = {
            "num_ctx": self.setup.ctx,
            "num_thread": self.setup.threads,
            "top_k": 1,
            "repeat_penalty": 1.0,
        }
        return {
            self.model: {"parameters": parameters},
            self.raw_model: {"parameters": parameters, "template": "{{ .Prompt }}"},
        }
