"""The real vLLM behind `vllama serve` (`nox -s tests_vllm`): what only a whole server can get wrong.

One server for all cases in their order, for a start takes a minute: it is stopped (SIGSTOP) and killed towards the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.contract.served import (
    PROGRAMS,
    START_S,
    chat,
    lines,
    model_directory,
    programs,
    serving,
    wait_until_loaded,
)
from tests.integration.conftest import Server, start_server

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(START_S)]

SERVER = "vllm.entrypoints"
LONG: dict[str, Any] = {"num_predict": 3000, "num_ctx": 4096, "temperature": 1, "seed": 3}


@pytest.fixture(scope="module")
def phases() -> list[str]:
    """What /api/ps said while the server started."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, phases: list[str]) -> Iterator[Server]:
    """`vllama serve --model DIR`, loaded, with an argument of our own for vLLM."""
    arguments = ("--model", str(model_directory()), "--keep-alive", "-1", "--vllm-arg=--enforce-eager")
    with serving(tmp_path_factory.mktemp("vllm"), *arguments) as running:
        phases.extend(wait_until_loaded(running))
        yield running


@pytest.fixture
def model(server: Server) -> str:
    """The name under which the directory is served."""
    return model_directory().name


def child(server: Server) -> psutil.Process:
    """vLLM's API server."""
    [found] = [one for one in programs(server, SERVER) if "--uds" in one.cmdline()]
    return found


def metrics(server: Server) -> dict[str, float]:
    """vLLM's own gauges and counters, labels left out."""
    line = child(server).cmdline()
    with httpx.Client(transport=httpx.HTTPTransport(uds=line[line.index("--uds") + 1]), base_url="http://vllm") as http:
        text = http.get("/metrics").text
    found: dict[str, float] = {}
    for row in text.splitlines():
        if row.startswith("vllm:") and not row.startswith("vllm:request_success"):
            found[row.partition("{")[0]] = float(row.rpartition(" ")[2])
    return found


def ask_for_long(server: Server, model: str) -> Any:
    """A stream of an answer that goes on for minutes."""
    body = {"model": model, "messages": [{"role": "user", "content": "Write a very long story."}], "options": LONG}
    return httpx.stream("POST", f"{server.url}/api/chat", json=body, timeout=300)


def test_its_start_was_told(server: Server, phases: list[str]) -> None:
    assert "starting" in phases[0]
    # A small model's weights are there before anybody looks again.
    assert "starting the engine" in phases
    assert phases == list(dict.fromkeys(phases)), "a phase came twice"


def test_what_the_user_added_reached_it_and_the_key_is_not_on_the_command_line(server: Server) -> None:
    line = child(server).cmdline()
    assert line[-1] == "--enforce-eager"
    key = child(server).environ()["VLLM_API_KEY"]
    assert len(key) > 20
    assert key not in " ".join(line)
    assert key not in server.log.read_text()
    with httpx.Client(transport=httpx.HTTPTransport(uds=line[line.index("--uds") + 1]), base_url="http://vllm") as http:
        assert http.get("/v1/models").status_code == 401


def test_a_conversation(server: Server, model: str) -> None:
    answer = chat(server, model, "Name the capital of France.", stream=False, options={"num_predict": 12}).json()
    assert "Paris" in answer["message"]["content"]
    pieces = lines(chat(server, model, "Name the capital of France.", options={"num_predict": 12}))
    assert "".join(piece["message"]["content"] for piece in pieces) == answer["message"]["content"]
    assert pieces[-1]["eval_count"] == answer["eval_count"]
    row = httpx.get(f"{server.url}/api/ps").json()["models"][0]
    assert row["size"] > 250_000_000


def test_who_leaves_ends_the_request_in_vllm(server: Server, model: str) -> None:
    assert metrics(server)["vllm:num_requests_running"] == 0
    with ask_for_long(server, model) as response:
        for number, _ in enumerate(response.iter_lines()):
            if number == 2:
                assert metrics(server)["vllm:num_requests_running"] == 1
                break
    for _ in range(100):
        if metrics(server)["vllm:num_requests_running"] == 0:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the request still runs in vLLM")
    made = metrics(server)["vllm:generation_tokens_total"]
    time.sleep(0.5)
    assert metrics(server)["vllm:generation_tokens_total"] == made


def test_the_context_is_kept_by_the_gateway(server: Server, model: str) -> None:
    pid = child(server).pid
    short = chat(server, model, "Count to a thousand.", stream=False, options={"num_ctx": 64, "num_predict": -1}).json()
    assert short["done_reason"] in ("stop", "length")
    assert short["prompt_eval_count"] + short["eval_count"] <= 64
    words = " ".join(f"number {i}" for i in range(400))
    body = {
        "model": model,
        "prompt": words,
        "raw": True,
        "stream": False,
        "options": {"num_ctx": 128, "num_predict": 2},
    }
    cut = httpx.post(f"{server.url}/api/generate", json=body, timeout=60).json()
    assert cut["prompt_eval_count"] < 128
    assert child(server).pid == pid, "another num_ctx started another server"


def test_nothing_of_vllm_is_in_the_gateway(server: Server) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert psutil.Process(server.process.pid).memory_full_info().pss < 130 << 20


def test_stopped_it_is_found_out_and_started_again(server: Server, model: str) -> None:
    found: list[dict[str, Any]] = []
    old = child(server)
    with ask_for_long(server, model) as response:
        for line in response.iter_lines():
            found.append(json.loads(line))
            if len(found) == 3:
                for process in (old, *old.children(recursive=True)):
                    process.suspend()
    assert "did not answer /health" in found[-1]["error"]
    # Whoever inherits it may leave it unburied.
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE


def test_killed_in_a_stream_it_is_started_again_once_for_two_clients(server: Server, model: str) -> None:
    # The one before was ended; this asks for the next one.
    assert chat(server, model, "Hi", stream=False, options={"num_predict": 2}).status_code == 200
    found: list[dict[str, Any]] = []
    with ask_for_long(server, model) as response:
        for line in response.iter_lines():
            found.append(json.loads(line))
            if len(found) == 3:
                child(server).kill()
    assert "model runner has unexpectedly stopped" in found[-1]["error"]
    assert not any("error" in line for line in found[:-1])

    pids: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            with contextlib.suppress(psutil.Error):
                pids.update(one.pid for one in programs(server, SERVER) if "--uds" in one.cmdline())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(lambda text: chat(server, model, text, stream=False, options={"num_predict": 2}), ("Hi", "Ho"))
        assert [answer.status_code for answer in both] == [200, 200]
    over.set()
    watcher.join()
    assert len(pids) == 1, "two clients, two servers"


def start_fails(directory: Path, home: Path) -> str:
    """What `vllama serve` says that cannot load its --model; it ends with status 1."""
    kept = {name: os.environ[name] for name in PROGRAMS if name in os.environ}
    try:
        running = start_server(home, "--model", str(directory), env=kept)
    except RuntimeError as error:
        return str(error)
    try:
        assert running.process.wait(START_S) == 1
        return running.log.read_text()
    finally:
        running.stop(signal.SIGKILL)


def test_a_directory_that_only_vllm_finds_broken_is_an_error_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_directory(), broken, copy_function=os.symlink)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").unlink()
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 64}))
    text = start_fails(broken, tmp_path)
    assert "unable to load model" in text
    assert "vLLM's server ended: exit code 1" in text


def test_weights_larger_than_the_machine_are_refused_before_anything_starts(tmp_path: Path) -> None:
    large = tmp_path / "large"
    shutil.copytree(model_directory(), large, ignore=shutil.ignore_patterns("*.safetensors"))
    size = 10 << 40
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (large / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    text = start_fails(large, tmp_path)
    assert "does not fit" in text
    assert "10240.0 GiB" in text


def test_the_gateway_leaves_no_server_behind_when_it_is_killed(tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in PROGRAMS if name in os.environ}
    running = start_server(tmp_path, "--model", str(model_directory()), env=kept)
    for _ in range(600):
        if started := programs(running, SERVER):
            break
        time.sleep(0.1)
    workers = running.workers()
    assert started
    running.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
