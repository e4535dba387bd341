"""A seeded share of the HTTP fuzz against a live server with the scripted engine."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from tests.fuzz.http import fuzz
from tests.integration.conftest import MODEL, start_server

REQUESTS = 200


def test_nothing_breaks_the_server(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--engine", "scripted")
    try:
        broken = list(fuzz(int(server.url.rsplit(":", 1)[1]), REQUESTS, seed=1))
        body = {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        assert httpx.post(f"{server.url}/api/generate", json=body, timeout=60).json()["done"]
        assert "Traceback" not in server.log.read_text()
        assert not broken, broken[:5]
    finally:
        server.stop(signal.SIGKILL)
