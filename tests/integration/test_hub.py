"""Models from a hub on the loopback address, through a live server and the commands: pull, list, show, chat, rm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MODEL, Server, start_server
from tests.tools.hub import HubServer, Repo, running_hub
from tests.tools.shards import split_gguf
from vllama.models.names import Name
from vllama.models.overlay import Overlay

SHARDED = "hf.co/acme/smol-GGUF:Q4_1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    model = Overlay().find(Name.parse(MODEL))
    assert model is not None
    assert model.gguf is not None
    pieces = split_gguf(model.gguf, tmp_path_factory.mktemp("pieces"), "smol-Q4_1", 3)
    with running_hub() as found:
        files = {f"Q4_1/{path.name}": path.read_bytes() for path in pieces}
        found.repos["acme/smol-GGUF"] = Repo(files | {"README.md": b"Smol in pieces"})
        found.repos["acme/tensors"] = Repo(_safetensors())
        found.repos["acme/locked"] = Repo({"a-Q4_K_M.gguf": b"x" * 2000}, token="hf_right")
        yield found


def _safetensors() -> dict[str, bytes]:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [40, 30], "data_offsets": [0, 2400]}}).encode()
    config = {"model_type": "llama", "hidden_size": 40, "max_position_embeddings": 512}
    weights = len(header).to_bytes(8, "little") + header + bytes(2400)
    return {"model.safetensors": weights, "config.json": json.dumps(config).encode(), "tokenizer.json": b"{}"}


@pytest.fixture(scope="module")
def server(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(directory / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    running = start_server(directory, env=env)
    yield running
    assert running.stop() == 0


def pull(server: Server, model: str, **more: str) -> list[dict[str, Any]]:
    reply = httpx.post(f"{server.url}/api/pull", json={"model": model} | more, timeout=120)
    return [json.loads(line) for line in reply.text.splitlines()]


def ask(server: Server, model: str) -> tuple[int, dict[str, Any]]:
    options = {"temperature": 0, "num_predict": 24, "seed": 1}
    body = {"model": model, "prompt": "Name three colours.", "stream": False, "options": options}
    reply = httpx.post(f"{server.url}/api/generate", json=body, timeout=120)
    return reply.status_code, reply.json()


def tags(server: Server) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in httpx.get(f"{server.url}/api/tags", timeout=30).json()["models"]}


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OLLAMA_HOST": server.url}
    return subprocess.run([sys.executable, "-m", "vllama", *arguments], env=env, text=True, capture_output=True)


@pytest.mark.model
def test_a_model_in_pieces_lives_as_one(server: Server, hub: HubServer) -> None:
    """Pulled with progress, listed in its whole size, shown with all tensors; it says the same as the single file."""
    lines = pull(server, SHARDED)
    assert [line["status"] for line in (lines[0], *lines[-3:])] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    pieces = [data for path, data in hub.repos["acme/smol-GGUF"].files.items() if path.endswith(".gguf")]
    done = {line["digest"]: line["completed"] for line in lines if "completed" in line}
    assert sorted(done.values()) == sorted(map(len, pieces))

    listed = tags(server)
    whole = listed[MODEL]
    assert listed[SHARDED]["size"] == sum(map(len, pieces))
    assert listed[SHARDED]["details"] == whole["details"]
    shown, single = (
        httpx.post(f"{server.url}/api/show", json={"model": model}, timeout=30).json() for model in (SHARDED, MODEL)
    )
    assert shown["tensors"] == single["tensors"]
    assert shown["model_info"]["general.parameter_count"] == single["model_info"]["general.parameter_count"]

    status, answer = ask(server, "acme/smol-GGUF:Q4_1")
    assert status == 200, answer
    assert answer["response"] == ask(server, MODEL)[1]["response"]
    assert answer["response"]
    loaded = httpx.get(f"{server.url}/api/ps", timeout=30).json()["models"]
    assert SHARDED in [model["name"] for model in loaded]

    ended = command(server, "rm", "acme/smol-GGUF:Q4_1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert SHARDED not in tags(server)
    cache = server.log.parent / "hf" / "hub" / "models--acme--smol-GGUF"
    assert [path for path in cache.rglob("*.gguf") if path.exists()] == []
    assert [path for path in (cache / "blobs").iterdir() if path.stat().st_size > 1000] == []


def test_safetensors_are_kept_but_not_run_by_llama_cpp(server: Server) -> None:
    assert pull(server, "acme/tensors:safetensors")[-1] == {"status": "success"}
    entry = tags(server)["hf.co/acme/tensors:safetensors"]
    assert entry["details"]["format"] == "safetensors"
    assert (entry["details"]["parameter_size"], entry["details"]["quantization_level"]) == ("1K", "BF16")
    status, answer = ask(server, "acme/tensors:safetensors")
    assert status == 500
    assert "safetensors, which llama.cpp cannot run: pull a GGUF of it" in answer["error"]
    assert httpx.request(
        "DELETE", f"{server.url}/api/delete", json={"model": "hf.co/acme/tensors:safetensors"}
    ).is_success


def test_the_command_says_what_to_do_about_a_gate(server: Server, hub: HubServer) -> None:
    ended = command(server, "pull", "hf.co/acme/locked")
    assert ended.returncode == 1
    assert f"acme/locked is gated: accept its terms at {hub.url}/acme/locked" in ended.stderr
    assert "HF_TOKEN" in ended.stderr


def test_run_pulls_what_is_missing_and_says_why_it_cannot(server: Server) -> None:
    ended = command(server, "run", "hf.co/acme/nobody", "Hello")
    assert ended.returncode == 1
    assert "there is no acme/nobody" in ended.stderr


def test_serve_pulls_what_it_shall_load(hub: HubServer, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}
    running = start_server(tmp_path, "--model", SHARDED, env=env)
    try:
        # Loaded when the line is out that says so: the routes answer before.
        while "listening on" not in running.log.read_text():
            assert running.process.poll() is None, running.log.read_text()
            time.sleep(0.05)
        loaded = httpx.get(f"{running.url}/api/ps", timeout=10).json()["models"]
        assert [model["name"] for model in loaded] == [SHARDED]
        assert f"pulling {SHARDED}: success" in running.log.read_text()
    finally:
        assert running.stop() == 0
