"""Faults and several models as a client of the whole server sees them."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.integration.conftest import MODEL, Server
from tests.integration.test_lifecycle import LONG, stats, wait_until

pytestmark = pytest.mark.model

ENDLESS = LONG | {"format": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}}
"""No end of text is allowed for a thousand numbers."""

SHORT = LONG | {"stream": False, "options": {"num_predict": 3}}


def gauges(server: Server, name: str) -> dict[str, float]:
    """One family of /metrics by model."""
    reply = httpx.get(f"{server.url}/metrics", timeout=60)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for line in reply.text.splitlines():
        if line.startswith(f"{name}{{"):
            labels, value = line.rsplit(" ", 1)
            found[labels.split('model="')[1].split('"')[0]] = float(value)
    return found


def test_a_stopped_worker_ends_its_stream_with_an_error_and_the_next_request_works(own_server: Server) -> None:
    lines: list[dict[str, object]] = []
    with httpx.stream("POST", f"{own_server.url}/api/generate", json=LONG, timeout=120) as reply:
        for line in reply.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 3:
                for worker in own_server.workers():
                    worker.send_signal(signal.SIGSTOP)
    assert "model runner has unexpectedly stopped" in str(lines[-1]["error"])
    assert "did not answer" in str(lines[-1]["error"])
    again = httpx.post(f"{own_server.url}/api/generate", json=SHORT, timeout=120)
    assert again.json()["eval_count"] == 3
    assert gauges(own_server, "vllama_worker_crashes_total") == {MODEL: 1}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a stopped process for its parent")
def test_kill_minus_nine_of_the_server_takes_a_stopped_worker_along(own_server: Server) -> None:
    httpx.post(f"{own_server.url}/api/generate", json={"model": MODEL}, timeout=60).raise_for_status()
    workers = own_server.workers()
    assert workers
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    own_server.stop(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=5)
    for worker in alive:
        worker.kill()
    assert not alive


def test_metrics_and_the_header_count_cached_tokens(own_server: Server) -> None:
    prompt = LONG | {"prompt": "one two three four five six seven eight nine ten eleven twelve"}
    body = prompt | {"stream": False, "options": {"num_predict": 3}}
    replies = [httpx.post(f"{own_server.url}/api/generate", json=body, timeout=60) for _ in range(2)]
    count = replies[0].json()["prompt_eval_count"]
    assert [int(reply.headers["x-vllama-cached-tokens"]) for reply in replies] == [0, count - 1]
    # Ollama's count says nothing of the cache.
    assert replies[1].json()["prompt_eval_count"] == count
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": True}
    with httpx.stream("POST", f"{own_server.url}/v1/chat/completions", json=chat, timeout=60) as reply:
        reply.read()
        assert int(reply.headers["x-vllama-cached-tokens"]) >= 0
    assert gauges(own_server, "vllama_prompt_tokens_cached_total")[MODEL] >= count - 1
    assert gauges(own_server, "vllama_generation_tokens_total")[MODEL] == 3 + 3 + 2
    assert gauges(own_server, "vllama_num_requests_running") == {MODEL: 0}
    assert gauges(own_server, "vllama_kv_cells")[MODEL] >= 4096
    assert gauges(own_server, "vllama_step_tokens_count")[MODEL] == stats_steps(own_server)


def stats_steps(server: Server) -> float:
    return gauges(server, "vllama_step_seconds_count")[MODEL]


def streaming(server: Server, model: str) -> Iterator[Iterator[str]]:
    """A running stream of that model."""
    with httpx.stream("POST", f"{server.url}/api/generate", json=ENDLESS | {"model": model}, timeout=120) as reply:
        lines = reply.iter_lines()
        next(lines)
        yield lines


def test_two_models_at_once_share_the_threads(own_server: Server) -> None:
    made = httpx.post(f"{own_server.url}/api/create", json={"model": "second", "from": MODEL}, timeout=120)
    assert made.status_code == 200
    first = streaming(own_server, MODEL)
    next(first)
    alone = gauges(own_server, "vllama_threads")[MODEL]
    second = streaming(own_server, "second")
    next(second)
    assert len(own_server.workers()) == 2
    # A worker that does not answer in time, on a crowded machine, is left out of the metrics.
    wait_until(lambda: len(gauges(own_server, "vllama_threads")) == 2, "both workers' metrics")
    both = gauges(own_server, "vllama_threads")
    assert sorted(both) == sorted([MODEL, "second:latest"])
    assert min(both.values()) >= 1
    assert sum(both.values()) == max(2, alone)
    second.close()  # type: ignore[attr-defined]
    wait_until(lambda: gauges(own_server, "vllama_threads")[MODEL] == alone, "the threads to come back")
    first.close()  # type: ignore[attr-defined]


def test_a_hostile_prompt_does_not_stop_running_streams(own_server: Server) -> None:
    httpx.post(f"{own_server.url}/api/generate", json={"model": MODEL}, timeout=60).raise_for_status()
    running = [streaming(own_server, MODEL) for _ in range(4)]
    for one in running:
        next(one)
    body = json.dumps({"model": MODEL, "prompt": "word " * 10_000_000, "raw": True, "truncate": False, "stream": False})
    answers: list[httpx.Response] = []

    def hostile() -> None:
        answers.append(httpx.post(f"{own_server.url}/api/generate", content=body, timeout=120))

    thread = threading.Thread(target=hostile)
    before = stats(own_server)["output_tokens"]
    thread.start()
    thread.join()
    assert answers[0].status_code == 400
    assert "longer than the context" in answers[0].json()["error"]
    wait_until(lambda: stats(own_server)["output_tokens"] > before + 8, "the streams to go on")
    for one in running:
        one.close()  # type: ignore[attr-defined]
