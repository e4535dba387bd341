"""What a client can make expensive is done in a process apart: others are answered while it is under way.

No clock decides: the process apart is stopped (SIGSTOP), so the expensive request cannot end before it goes on. One
that the server worked on itself would be answered although that process stands still.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import MODEL, Server, start_server

SMALL: dict[str, Any] = {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 2}}
PARTS = {"anyOf": [{"type": "object", "properties": {f"p{i}": {"enum": [i]}}} for i in range(400)]}
EXPENSIVE = {
    "a large body": ({**SMALL, "prompt": "word " * 20_000}, 200),
    "a template that runs on": ({**SMALL, "template": "{{ range 300 }}" * 4 + "x" + "{{ end }}" * 4}, 400),
    "a long template": ({**SMALL, "template": "{{ if .Prompt }}{{ end }}" * 80 + "{{ .Prompt }}"}, 200),
    "a schema of many parts": ({**SMALL, "format": PARTS}, 200),
}


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("server"), "--engine", "scripted")
    yield running
    running.stop()


def generate(server: Server, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}/api/generate", json=body, timeout=120)


def process_apart(server: Server) -> psutil.Process:
    """The one that is there after a large body."""
    assert generate(server, {**SMALL, "prompt": "word " * 20_000}).status_code == 200
    (found,) = [child for child in server.workers() if "vllama.core.apart_child" in child.cmdline()]
    return found


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_others_are_answered_meanwhile(scripted: Server, kind: str) -> None:
    body, status = EXPENSIVE[kind]
    apart = process_apart(scripted)
    with ThreadPoolExecutor(1) as pool:
        apart.send_signal(signal.SIGSTOP)
        try:
            expensive = pool.submit(generate, scripted, body)
            for _ in range(20):
                assert generate(scripted, SMALL).json()["done"]
            assert not expensive.done()
        finally:
            apart.send_signal(signal.SIGCONT)
        answer = expensive.result()
    assert answer.status_code == status, answer.text[:300]
