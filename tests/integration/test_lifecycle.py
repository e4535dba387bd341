"""What happens when something ends too early: clients, workers, the server itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.conftest import MODEL, Server, free_port, start_server

pytestmark = pytest.mark.model

LONG = {"model": MODEL, "prompt": "Once upon a time", "raw": True, "options": {"num_predict": 2000, "num_ctx": 4096}}


def stats(server: Server) -> dict[str, int]:
    """The llama engine's counters from /health, which leaves them out while the worker is in a long step."""
    for _ in range(60):
        models = httpx.get(f"{server.url}/health", timeout=60).json()["models"]
        row: dict[str, int] = next(m for m in models if m["model"] == MODEL)
        if "active" in row:
            return row
    pytest.fail("the worker never told its counters")


def wait_until(condition: object, what: str, seconds: float = 30) -> None:
    """Poll; a hang is a failure with a name."""
    assert callable(condition)
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(f"waited {seconds} s for: {what}")


def test_disconnect_frees_the_sequence(own_server: Server) -> None:
    with httpx.stream("POST", f"{own_server.url}/api/generate", json=LONG, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert stats(own_server)["active"] == 1
    wait_until(lambda: stats(own_server)["active"] == 0, "the sequence to be freed")
    before = stats(own_server)["output_tokens"]
    again = httpx.post(
        f"{own_server.url}/api/generate",
        json=LONG | {"stream": False, "options": {"num_predict": 3}},
        timeout=60,
    ).json()
    assert again["eval_count"] == 3
    # Nothing went on generating for the client that left.
    assert stats(own_server)["output_tokens"] - before == 3


def test_disconnect_while_not_streaming_frees_the_sequence(own_server: Server) -> None:
    httpx.post(f"{own_server.url}/api/generate", json={"model": MODEL}, timeout=60).raise_for_status()
    body = json.dumps(LONG | {"stream": False}).encode()
    port = int(own_server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait_until(lambda: stats(own_server)["active"] == 1, "the generation to begin")
    wait_until(lambda: stats(own_server)["active"] == 0, "the sequence to be freed")


def test_killed_worker_ends_its_stream_with_an_error_and_the_next_request_works(own_server: Server) -> None:
    lines: list[dict[str, object]] = []
    with httpx.stream("POST", f"{own_server.url}/api/generate", json=LONG, timeout=60) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 3:
                for worker in own_server.workers():
                    worker.kill()
    assert "model runner has unexpectedly stopped" in str(lines[-1]["error"])
    assert not any(line.get("done") for line in lines)
    again = httpx.post(
        f"{own_server.url}/api/generate", json=LONG | {"stream": False, "options": {"num_predict": 3}}, timeout=60
    )
    assert again.status_code == 200
    assert again.json()["eval_count"] == 3


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_a_short_stream_finish(tmp_path: Path, sig: signal.Signals) -> None:
    # The grace must outlast 60 tokens on a machine that is busy with something else, too.
    server = start_server(tmp_path, env={"VLLAMA_SHUTDOWN_GRACE": "1m"})
    body = LONG | {"options": {"num_predict": 60}}
    lines: list[dict[str, object]] = []
    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 2:
                server.process.send_signal(sig)
    workers = server.workers()
    assert server.process.wait(timeout=60) == 0
    assert lines[-1].get("done") is True
    assert not any(worker.is_running() for worker in workers)


def test_sigterm_tells_a_long_stream_and_leaves_no_child(tmp_path: Path) -> None:
    server = start_server(tmp_path, env={"VLLAMA_SHUTDOWN_GRACE": "300ms"})
    body = LONG | {"options": {"num_predict": 100000, "num_ctx": 2048}}
    lines: list[dict[str, object]] = []
    workers: list[psutil.Process] = []
    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60) as reply:
        for line in reply.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 2:
                workers = server.workers()
                server.process.send_signal(signal.SIGTERM)
    assert workers
    assert server.process.wait(timeout=60) == 0
    assert "shutting down" in str(lines[-1].get("error"))
    assert not any(worker.is_running() for worker in workers)


def test_kill_minus_nine_of_the_server_leaves_no_worker(own_server: Server) -> None:
    httpx.post(f"{own_server.url}/api/generate", json={"model": MODEL}, timeout=60).raise_for_status()
    workers = own_server.workers()
    assert workers
    own_server.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_eight_streams_progress_together(own_server: Server) -> None:
    seen: list[list[float]] = [[] for _ in range(8)]
    httpx.post(f"{own_server.url}/api/generate", json={"model": MODEL}, timeout=60).raise_for_status()

    def one(number: int) -> None:
        body = {
            "model": MODEL,
            "prompt": f"Story number {number}:",
            "raw": True,
            "options": {"num_predict": 32, "temperature": 0},
        }
        with httpx.stream("POST", f"{own_server.url}/api/generate", json=body, timeout=120) as reply:
            for line in reply.iter_lines():
                if not json.loads(line)["done"]:
                    seen[number].append(time.monotonic())

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(times) > 4 for times in seen)
    # Order of events, not speed: every stream has begun before any has ended.
    assert max(times[0] for times in seen) < min(times[-1] for times in seen)


def test_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "vllama", "serve", "--host", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=os.environ | {"OLLAMA_MODELS": str(tmp_path / "models")},
        )
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_free_port_is_free() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", free_port()))
