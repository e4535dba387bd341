"""vLLama itself: with the settings that all share, as a user starts it, and on its scripted engine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vllama.bench.dialects import Reply
from vllama.bench.systems.base import CAPABILITIES, Unavailable
from vllama.bench.systems.http import HttpSystem


class Vllama(HttpSystem):
    """`vllama serve` with a private store that holds the plan's GGUF, on Ollama's native API."""

    key = "vllama"
    title = "vLLama"
    api = "ollama"
    model = "bench:latest"
    capabilities = CAPABILITIES

    def find(self) -> None:
        """vLLama must be installed in this environment."""
        if importlib.util.find_spec("vllama.cli.main") is None:
            raise Unavailable("this vllama has no command line: pip install vllama")
        self.described.version = f"{version('vllama')}{_commit(self.setup.root)}"
        self.described.model_sha256 = self.setup.sha256

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The store is written in Ollama's layout, so no model is downloaded and none of the user's is touched."""
        home = self.setup.scratch / self.key
        if self.setup.sha256:  # a plan may have no model: the scripted engine needs none
            write_store(home / "models", self.model, self.setup.gguf, self.setup.sha256)
        env = {
            "HOME": str(home),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(home / "models"),
            "OLLAMA_KEEP_ALIVE": "-1",
        }
        return [sys.executable, "-m", "vllama", "serve"], {**env, **self.settings()}

    def settings(self) -> dict[str, str]:
        """The matched lane's number of parallel requests."""
        return {"OLLAMA_NUM_PARALLEL": str(self.setup.parallel)}

    def options(self) -> dict[str, Any]:
        """The matched lane's context and threads."""
        return {"num_ctx": self.setup.ctx, "num_thread": self.setup.threads}


class VllamaDefaults(Vllama):
    """As shipped: no setting of ours but where it listens, where its models are, and that they stay loaded."""

    key = "vllama-defaults"
    title = "vLLama (defaults)"
    lane = "defaults"

    def settings(self) -> dict[str, str]:
        """None."""
        return {}

    def options(self) -> dict[str, Any]:
        """None."""
        return {}


class VllamaNoFlash(Vllama):
    """With flash attention off: what idle prompts cost shows most there."""

    key = "vllama-no-flash"
    title = "vLLama (no flash attention)"

    def settings(self) -> dict[str, str]:
        """Ollama's variable, besides the matched lane's."""
        return {**super().settings(), "OLLAMA_FLASH_ATTENTION": "0"}


class Scripted(Vllama):
    """The gateway alone: `vllama serve --engine scripted`, whose answers cost nothing. Not a model, so not a rival."""

    key = "scripted"
    title = "vLLama (scripted engine)"
    model = "scripted"
    capabilities = frozenset({"stream", "chat", "cancel", "restart"})

    def find(self) -> None:
        """As vLLama; there is no model file, so none is recorded."""
        super().find()
        self.described.model_sha256 = ""
        self.described.notes = ["no model: words at a fixed pace"]

    def command(self) -> tuple[list[str], dict[str, str]]:
        """One token each millisecond, as many as asked for."""
        argv, env = super().command()
        pace = {"VLLAMA_SCRIPTED_STEP_US": "1000", "VLLAMA_SCRIPTED_LENGTH": "100000"}
        return [*argv, "--engine", "scripted"], {**env, **pace}

    def options(self) -> dict[str, Any]:
        """None: there is nothing that context or threads would change."""
        return {}

    def judge(self, reply: Reply) -> str:
        """Any answer that came whole is right."""
        return reply.error


def write_store(store: Path, name: str, gguf: Path, sha256: str) -> None:
    """A store in Ollama's layout that holds one model: `name` with this GGUF (linked, not copied, where possible)."""
    blobs = store / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    blob = blobs / f"sha256-{sha256}"
    if not blob.exists():
        try:
            os.link(gguf.resolve(), blob)
        except OSError:
            shutil.copyfile(gguf, blob)
    config = json.dumps(
        {
            "model_format": "gguf",
            "model_family": "",
            "model_families": None,
            "model_type": "",
            "file_type": "",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256}"]},
        }
    ).encode()
    config_sha = hashlib.sha256(config).hexdigest()
    (blobs / f"sha256-{config_sha}").write_bytes(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": f"sha256:{config_sha}",
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.ollama.image.model",
                "digest": f"sha256:{sha256}",
                "size": gguf.stat().st_size,
            }
        ],
    }
    model, _, tag = name.partition(":")
    path = store / "manifests" / "registry.ollama.ai" / "library" / model / (tag or "latest")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


def _commit(root: Path) -> str:
    """The commit in brackets, with "+changes" where tracked files differ; empty outside a git clone."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", "vllama"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f" (commit {head.stdout.strip()}{'+changes' if dirty.stdout.strip() else ''})"
