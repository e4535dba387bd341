"""The vLLM engine without vLLM: a replay server speaks what was recorded from vLLM 0.32, its start included."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import Server, start_server
from tests.tools import vllm_cases, vllm_replay
from vllama.models.overlay import Overlay

pytestmark = pytest.mark.model  # its vocabulary only

RECORDING: dict[str, Any] = json.loads(vllm_cases.FILE.read_text())


def small_gguf() -> Path:
    """The file whose vocabulary is that of the recorded model."""
    return next(model.gguf for model in Overlay().models() if model.gguf is not None)


def start(home: Path, *arguments: str, **env: str) -> Server:
    """`vllama serve --model DIR` on the replay, loaded."""
    folder = home / vllm_cases.NAME
    if not folder.exists():
        vllm_cases.directory(home, small_gguf())
    replay = {
        "VLLAMA_VLLM_PYTHON": str(vllm_replay.interpreter(home / "python")),
        "REPLAY_FILE": str(vllm_cases.FILE),
        "REPLAY_JOURNAL": str(home / "journal"),
        "VLLAMA_PACKAGED_MODELS": "0",
    }
    running = start_server(home, "--model", str(folder), *arguments, env=replay | env)
    for _ in range(600):
        rows = httpx.get(f"{running.url}/api/ps").json()["models"]
        if rows and "loading" not in rows[0]:
            return running
        time.sleep(0.05)
    running.stop()
    raise AssertionError(running.log.read_text())


def journal(home: Path) -> list[dict[str, Any]]:
    """What the replay noted."""
    return [json.loads(line) for line in (home / "journal").read_text().splitlines()]


def replays(server: Server) -> list[psutil.Process]:
    """The servers that stand in for vLLM."""
    return [
        one
        for one in server.workers()
        if "vllm_replay.py" in " ".join(one.cmdline()) and "vllama.engines.guard" not in one.cmdline()
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's server lives."""
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """One for all cases that harm nothing."""
    running = start(home, "--vllm-arg=--enforce-eager")
    yield running
    assert running.stop() == 0


def test_every_recorded_answer(server: Server) -> None:
    found = vllm_cases.answers(server.url)
    assert found.keys() == RECORDING["answers"].keys()
    for name, answer in RECORDING["answers"].items():
        assert found[name] == answer, name


def test_the_command_line(server: Server, home: Path) -> None:
    [begun] = [row["start"] for row in journal(home) if "start" in row]
    assert begun[-1] == "--enforce-eager"
    assert "--uds" in begun
    assert begun[begun.index("--max-model-len") + 1] == "auto"


def test_killed_in_a_stream_it_is_started_again_once_for_two_clients(tmp_path: Path) -> None:
    running = start(tmp_path, REPLAY_PAUSE="0.05")
    try:
        path, body = vllm_cases.CASES["chat-stream"]
        found: list[dict[str, Any]] = []
        with httpx.stream("POST", f"{running.url}{path}", json=body, timeout=60) as response:
            for line in response.iter_lines():
                found.append(json.loads(line))
                if len(found) == 2:
                    for process in replays(running):
                        process.kill()
        assert "model runner has unexpectedly stopped" in found[-1]["error"]
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, f"{running.url}{path}", json=body, timeout=60) for _ in range(2)]
            assert [one.result().status_code for one in asked] == [200, 200]
        assert len([row for row in journal(tmp_path) if "start" in row]) == 2
    finally:
        assert running.stop() == 0


def test_who_leaves_closes_the_request_there(tmp_path: Path) -> None:
    running = start(tmp_path, REPLAY_PAUSE="0.1")
    try:
        path, body = vllm_cases.CASES["chat-stream"]
        with httpx.stream("POST", f"{running.url}{path}", json=body, timeout=60) as response:
            next(response.iter_lines())
        for _ in range(200):
            if {"left": True} in journal(tmp_path):
                break
            time.sleep(0.02)
        else:
            raise AssertionError(journal(tmp_path))
    finally:
        assert running.stop() == 0


def test_the_phases_of_its_start_are_told(tmp_path: Path) -> None:
    running = start(tmp_path, REPLAY_START="0.02")
    log = running.log.read_text()
    assert running.stop() == 0
    places = [log.find(f"small: {phase}") for phase in ("starting the engine", "loading weights", "ready")]
    assert -1 not in places
    assert places == sorted(places)


def test_a_models_own_arguments_come_after_the_servers(tmp_path: Path) -> None:
    config = tmp_path / "vllama.toml"
    config.write_text(f'[models."{vllm_cases.NAME}"]\nvllm_args = "--max-num-seqs 3 --seed \'7\'"\n')
    running = start(tmp_path, "--config", str(config), "--vllm-arg=--enforce-eager")
    assert running.stop() == 0
    [begun] = [row["start"] for row in journal(tmp_path) if "start" in row]
    assert begun[-5:] == ["--enforce-eager", "--max-num-seqs", "3", "--seed", "7"]
