"""`vllama serve` on an engine maker's own server: started as a user would, looked at through /proc."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.integration.conftest import Server, start_server

MODEL = "VLLAMA_TEST_HF_MODEL"
"""Names the variable with the directory of SmolLM2-135M-Instruct in safetensors."""

PROGRAMS = ("VLLAMA_VLLM_PYTHON", "VLLAMA_MAX")
START_S = 900
"""Seconds at most: MAX compiles for minutes on a processor, where its cache is empty."""


def model_directory() -> Path:
    """The directory that the setting names."""
    folder = os.environ.get(MODEL)
    assert folder, f"set {MODEL} to a directory with SmolLM2-135M-Instruct in safetensors"
    return Path(folder)


@contextlib.contextmanager
def serving(home: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A running `vllama serve`; nothing that it started outlives the block."""
    kept = {name: os.environ[name] for name in PROGRAMS if name in os.environ}
    running = start_server(home, *arguments, env={"VLLAMA_PACKAGED_MODELS": "0"} | kept | (env or {}))
    try:
        yield running
    finally:
        workers = running.workers()
        code = running.stop()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert code == 0
        assert not alive, f"outlived the server: {alive}"


def wait_until_loaded(server: Server) -> list[str]:
    """Waits for the model of --model; gives the phases that its start went through."""
    phases: list[str] = []
    for _ in range(START_S * 4):
        [row] = httpx.get(f"{server.url}/api/ps", timeout=30).json()["models"] or [{}]
        phase = row.get("loading", "")
        if row and not phase:
            return phases
        if phase and phase not in phases[-1:]:
            phases.append(phase)
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        time.sleep(0.25)
    raise AssertionError(f"not loaded: {phases} {server.log.read_text()[-3000:]}")


def programs(server: Server, word: str) -> list[psutil.Process]:
    """The processes below the server, the guards left out, that have the word in their command line."""
    found = []
    for process in server.workers():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if word in " ".join(line) and "vllama.engines.guard" not in line:
                found.append(process)
    return found


def chat(server: Server, model: str, text: str, **more: Any) -> httpx.Response:
    """POST /api/chat, greedy unless `options` says otherwise."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]} | more
    body["options"] = {"temperature": 0} | body.get("options", {})
    return httpx.post(f"{server.url}/api/chat", json=body, timeout=START_S)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    """The objects of an answer in lines."""
    return [json.loads(line) for line in response.text.splitlines()]
