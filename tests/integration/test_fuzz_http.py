"""A seeded share, 2 %, of the HTTP fuzz against a live server with the scripted engine."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx

from tests.fuzz.http_session import OFFLINE, requests
from tests.integration.conftest import MODEL, start_server

REQUESTS = 200


def test_nothing_breaks_the_server(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--engine", "scripted", env=OFFLINE)
    try:
        broken = list(requests(server, REQUESTS, seed=1))
        body = {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        assert httpx.post(f"{server.url}/api/generate", json=body, timeout=60).json()["done"]
        assert "Traceback" not in server.log.read_text()
        assert not broken, broken[:5]
    finally:
        server.stop(signal.SIGKILL)
