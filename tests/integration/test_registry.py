"""Pull, push and run against a registry on the loopback address, through a live server and the commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.conftest import Server, start_server
from tests.tools.gguf import write_gguf
from tests.tools.registry import Registry, digest_of, drop_blob, hold_at, once, running_registry
from vllama.models.overlay import Overlay

SIZE = 8 << 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file of a few megabytes that the scripted engine takes."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    noise = np.random.default_rng(7).standard_normal(SIZE // 4).astype("float32")
    metadata = {"general.architecture": "llama", "llama.context_length": 512, "tokenizer.ggml.tokens": ["a", "b"]}
    write_gguf(path, metadata, {"token_embd.weight": noise})
    return path.read_bytes()


@pytest.fixture
def registry(weights: bytes) -> Iterator[Registry]:
    with running_registry() as found:
        config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
        found.add_model("library/tiny", "latest", {"model": weights, "template": b"{{ .Prompt }}"}, config)
        yield found


def serve(directory: Path, **env: str) -> Server:
    return start_server(directory, "--engine", "scripted", env={"HOME": str(directory)} | env)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = serve(tmp_path)
    yield running
    assert running.stop() == 0


def call(server: Server, route: str, model: str, **more: Any) -> list[dict[str, Any]]:
    """The lines of a pull or push."""
    body = {"model": model, "insecure": True} | more
    with httpx.stream("POST", f"{server.url}/api/{route}", json=body, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def names(server: Server) -> list[str]:
    return [model["name"] for model in httpx.get(f"{server.url}/api/tags").json()["models"]]


def vllama(server: Server, *arguments: str, tmp: Path) -> tuple[int, str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))}
    env |= {"OLLAMA_HOST": server.url, "HOME": str(tmp)}
    command = [sys.executable, "-m", "vllama", *arguments]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_pull_use_push_and_pull_again(server: Server, registry: Registry, weights: bytes, tmp_path: Path) -> None:
    name = f"{registry.host}/library/tiny"
    lines = call(server, "pull", name)
    assert lines[0] == {"status": "pulling manifest"}
    assert [line["status"] for line in lines[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    answer = httpx.post(f"{server.url}/api/generate", json={"model": name, "prompt": "Hi", "stream": False}, timeout=60)
    assert answer.json()["done"] is True
    whole = httpx.post(f"{server.url}/api/pull", json={"name": name, "insecure": True, "stream": False}, timeout=60)
    assert (whole.status_code, whole.json()) == (200, {"status": "success"})
    assert whole.headers["content-type"] == "application/json"

    mine = f"{registry.host}/me/mine:v1"
    httpx.post(f"{server.url}/api/copy", json={"source": name, "destination": mine}).raise_for_status()
    lines = call(server, "push", mine)
    assert lines[0] == {"status": "retrieving manifest"}
    assert [line["status"] for line in lines[-2:]] == ["pushing manifest", "success"]
    assert registry.manifests["me/mine", "v1"] == registry.manifests["library/tiny", "latest"]
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": mine}).raise_for_status()
    httpx.request("DELETE", f"{server.url}/api/delete", json={"model": name}).raise_for_status()
    assert list((tmp_path / "models" / "blobs").iterdir()) == []
    assert call(server, "pull", mine)[-1] == {"status": "success"}
    blob = tmp_path / "models" / "blobs" / digest_of(weights).replace(":", "-")
    assert blob.read_bytes() == weights


def test_errors_in_a_stream_and_without_one(server: Server, registry: Registry) -> None:
    name = f"{registry.host}/library/nosuch"
    error = {"error": "pull model manifest: file does not exist"}
    assert call(server, "pull", name) == [{"status": "pulling manifest"}, error]
    whole = httpx.post(f"{server.url}/api/pull", json={"model": name, "insecure": True, "stream": False}, timeout=60)
    assert (whole.status_code, whole.json()) == (500, error)
    assert call(server, "push", name)[1:] == [
        {"status": "couldn't retrieve manifest"},
        {"error": f'model "{name}" not found'},
    ]


def test_a_base_that_is_missing_is_pulled_by_create(server: Server, registry: Registry) -> None:
    """Ollama takes no `insecure` here, so what can be seen is that it asks the registry."""
    body = {"model": "own", "from": f"{registry.host}/library/tiny", "stream": False}
    answer = httpx.post(f"{server.url}/api/create", json=body, timeout=60)
    assert answer.json()["error"].startswith('pull model manifest: Get "https://')


def test_killed_at_half_it_goes_on_from_there(registry: Registry, weights: bytes, tmp_path: Path) -> None:
    go_on = threading.Event()
    registry.fault = hold_at(len(weights) // 2, go_on)
    name = f"{registry.host}/library/tiny"
    server = serve(tmp_path)
    body = {"model": name, "insecure": True}
    with httpx.stream("POST", f"{server.url}/api/pull", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if json.loads(line).get("completed", 0) > len(weights) * 0.45:
                break
        server.stop(signal.SIGKILL)
    go_on.set()
    assert not list((tmp_path / "models").glob("manifests/*/*/*/*"))
    registry.seen.clear()
    server = serve(tmp_path)
    try:
        assert f"{name}:latest" not in names(server)
        assert call(server, "pull", name)[-1] == {"status": "success"}
        assert f"{name}:latest" in names(server)
    finally:
        server.stop()
    assert registry.blob_bytes_sent() < len(weights) * 0.6
    blobs = tmp_path / "models" / "blobs"
    assert (blobs / digest_of(weights).replace(":", "-")).read_bytes() == weights
    assert not [path for path in blobs.iterdir() if "partial" in path.name]


def test_a_client_that_goes_away_ends_the_pull(server: Server, registry: Registry, weights: bytes) -> None:
    go_on = threading.Event()
    registry.fault = hold_at(len(weights) // 2, go_on)
    name = f"{registry.host}/library/tiny"
    with httpx.stream("POST", f"{server.url}/api/pull", json={"model": name, "insecure": True}, timeout=60) as response:
        next(response.iter_lines())
    go_on.set()
    assert call(server, "pull", name)[-1] == {"status": "success"}


def test_the_commands(server: Server, registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.host}/library/tiny"
    registry.fault = once(drop_blob(1 << 20))
    code, out, err = vllama(server, "pull", "--insecure", name, tmp=tmp_path)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == "pulling manifest"
    assert lines[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert "\x1b" not in err
    code, out, err = vllama(server, "cp", name, f"{registry.host}/me/two", tmp=tmp_path)
    assert code == 0, err
    code, out, err = vllama(server, "push", "--insecure", f"{registry.host}/me/two", tmp=tmp_path)
    assert (code, out) == (0, "")
    assert err.splitlines()[-1] == "success"
    assert ("me/two", "latest") in registry.manifests
    code, out, err = vllama(server, "pull", "--insecure", f"{registry.host}/library/nosuch", tmp=tmp_path)
    assert code == 1
    assert err.splitlines()[-1] == "Error: pull model manifest: file does not exist"


@pytest.mark.model
def test_run_pulls_what_is_missing(registry: Registry, tmp_path: Path) -> None:
    """With an engine that needs weights: the scripted one answers under any name."""
    small = next(model for model in Overlay().models() if model.gguf is not None)
    assert small.gguf is not None
    layers = {"model": small.gguf.read_bytes(), "params": b'{"num_predict": 8}'}
    registry.add_model("library/small", "latest", layers)
    running = start_server(tmp_path, env={"HOME": str(tmp_path)})
    try:
        name = f"{registry.host}/library/nosuch"
        code, out, err = vllama(running, "run", "--insecure", name, "Hi", tmp=tmp_path)
        assert (code, out) == (1, "")
        assert err.splitlines()[-1] == (
            f"Error: model '{name}' not found, and it cannot be pulled: pull model manifest: file does not exist"
        )
        name = f"{registry.host}/library/small"
        code, out, err = vllama(running, "run", "--insecure", name, "Hi", tmp=tmp_path)
        assert code == 0, err
        assert out.strip()
        assert "success" in err.splitlines()
        code, out, err = vllama(running, "run", "--insecure", name, "Hi", tmp=tmp_path)
        assert (code, err) == (0, "")
    finally:
        running.stop()


def test_bars_on_a_terminal(server: Server, registry: Registry, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))}
    env |= {"OLLAMA_HOST": server.url, "HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "vllama", "pull", "--insecure", f"{registry.host}/library/tiny"]
    process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError), open(screen, "rb", buffering=0) as file:
        while piece := file.read(65536):
            shown += piece
    assert process.wait(60) == 0
    text = shown.decode()
    assert "pulling manifest" in text
    assert "100%" in text
    assert "8.4/8.4 MB" in text
    assert "success" in text
