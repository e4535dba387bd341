"""`python -m llama_cpp.server`: as shipped, where a new reader cuts off the one before, and with that switched off."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from vllama.bench.client import fetch
from vllama.bench.dialects import Reply, chat_request, read_reply
from vllama.bench.results import Sample
from vllama.bench.systems.base import Setup, Unavailable
from vllama.bench.systems.http import GOLDEN_PROMPT, GOLDEN_TOKENS, HttpSystem

if TYPE_CHECKING:
    from vllama.bench.plan import Cell

INTERPRETER = "VLLAMA_BENCH_LLAMA_CPP_PYTHON"
MODULES = ("llama_cpp", "uvicorn", "fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "yaml")
PROBED_TOKENS = 48
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")
"""Of our environment: the server takes its settings from variables without a prefix (MODEL, HOST, CACHE)."""


class LlamaCppServer(HttpSystem):
    """As shipped: `--model` and a port, nothing else."""

    key = "llama-cpp-server"
    title = "llama_cpp.server (defaults)"
    lane = "defaults"
    api = "openai"
    model = "bench"
    capabilities = frozenset({"stream", "chat", "cancel", "constrained", "restart"})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._python = sys.executable
        self._cut = ""

    def find(self) -> None:
        """The interpreter of VLLAMA_BENCH_LLAMA_CPP_PYTHON, else this one; it must have what the server imports."""
        named = os.environ.get(INTERPRETER)
        self._python = named or sys.executable
        self.described.model_sha256 = self.setup.sha256
        self.described.version = f"llama-cpp-python {_of_other(named) if named else _of_this()}"

    def environ(self) -> dict[str, str]:
        """Only what any program needs."""
        return {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("LC_")}

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The documented command line."""
        argv = [self._python, "-m", "llama_cpp.server", "--model", str(self.setup.gguf), "--model_alias", self.model]
        return [*argv, "--host", "127.0.0.1", "--port", str(self.port), *self.flags()], {}

    def flags(self) -> list[str]:
        """None: as shipped."""
        return []

    def options(self) -> dict[str, Any]:
        """Sampling fields beyond OpenAI's that this server knows."""
        return {"top_k": 1, "repeat_penalty": 1.0}

    def constrained(
        self, messages: Sequence[dict[str, Any]], schema: dict[str, Any], n_out: int, *, stream: bool
    ) -> tuple[str, bytes]:
        """This server has its own form of `response_format`."""
        form = {"response_format": {"type": "json_object", "schema": schema}}
        return chat_request(self.api, self.model, messages, n_out, stream=stream, options={**self.options(), **form})

    def judge(self, reply: Reply) -> str:
        """Its streams carry no counts; that the limit ended the answer says how many tokens there were."""
        if reply.error:
            return reply.error
        counted = reply.n_out == GOLDEN_TOKENS or (reply.n_out < 0 and reply.finish == "length")
        return "" if counted and reply.text.strip() else f"golden request: {reply.finish!r}, text {reply.text!r}"

    def complete(self, samples: list[Sample], prompts: Sequence[str], n_out: int) -> list[Sample]:
        """Counts for streams, which carry none. "length" means that all tokens asked for came ("limit"); an answer that
        ended before, and a bare prompt, are counted by the server's own tokenizer ("retokenised").
        """
        for sample, prompt in zip(samples, prompts, strict=True):
            if sample.ok and sample.n_out < 0:
                if sample.finish == "length":
                    sample.n_out, sample.source = sample.n_asked if sample.n_asked > 0 else n_out, "limit"
                else:
                    # Without the token that the model puts before every text.
                    sample.n_out, sample.source = self._count(sample.text) - self._count(""), "retokenised"
            if sample.ok and sample.n_prompt < 0 and not sample.role.startswith("turn"):
                sample.n_prompt = self._count(prompt)
        return samples

    def _count(self, text: str) -> int:
        body = json.dumps({"model": self.model, "input": text}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/extras/tokenize/count", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.setup.timeout) as response:
                return int(json.load(response)["count"])
        except (OSError, ValueError, KeyError):
            return -1

    async def probe_limits(self) -> None:
        """Two readers at once: what happens to the first?"""

        async def read(prompt: str) -> Reply:
            path, body = self.completion(prompt, PROBED_TOKENS, stream=True)
            return read_reply(await fetch(self.port, path, body, timeout=self.setup.timeout))

        replies = await asyncio.gather(read(GOLDEN_PROMPT), read(f"Now count again: {GOLDEN_PROMPT}"))
        short = [reply for reply in replies if reply.finish != "length"]
        if not short:
            self._cut = ""
            return
        self._cut = (
            f"it cuts a running stream when another request comes: with 2 readers of {PROBED_TOKENS} tokens, "
            f"{len(short)} got {short[0].events} events and no finish_reason ({self._setting()})"
        )
        if self._cut not in self.described.notes:
            self.described.notes.append(self._cut)

    def _setting(self) -> str:
        return "interrupt_requests is true as shipped"

    def impossible(self, cell: Cell) -> str | None:
        """Streams to several readers at once, if the probe saw them cut."""
        return self._cut or None if cell.stream and cell.concurrency > 1 else None


class LlamaCppServerUninterrupted(LlamaCppServer):
    """The matched lane, and `--interrupt_requests false`: readers wait for each other instead."""

    key = "llama-cpp-server-uninterrupted"
    title = "llama_cpp.server (interrupt_requests false, matched)"
    lane = "matched"

    def flags(self) -> list[str]:
        """The setting, and the matched lane's context and threads."""
        threads = str(self.setup.threads)
        return [
            *("--interrupt_requests", "false", "--n_ctx", str(self.setup.ctx)),
            *("--n_threads", threads, "--n_threads_batch", threads),
        ]

    def _setting(self) -> str:
        return "though interrupt_requests is false"


def _of_this() -> str:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"llama_cpp.server needs {', '.join(missing)}: pip install 'vllama[bench]', or set {INTERPRETER}"
        )
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "unknown"


def _of_other(python: str) -> str:
    """The version in another interpreter; `Unavailable` with its own words if the server cannot be imported there."""
    code = f"import {', '.join(MODULES)}; print(llama_cpp.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{INTERPRETER}={python} does not run: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unavailable(f"{INTERPRETER}={python}: {last}; there: pip install 'llama-cpp-python[server]'")
    return (done.stdout.split() or ["unknown"])[-1]
