"""`python -m tests.fuzz.http_session`: random requests to a server of its own; exit status 1 if one breaks a rule.

Half of them are bytes on raw sockets (`tests.fuzz.http`), half are made of the OpenAPI document (`tests.fuzz.schema`).
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import httpx
import psutil

from tests.fuzz import http, schema
from tests.integration.conftest import MODEL, Server, start_server

GROWTH = 64 << 20
"""Bytes that the gateway may grow by from the first tenth of the requests to the last."""
NOWHERE = "http://127.0.0.1:9"
OFFLINE = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE}
"""No request of a test asks a registry of the world for a model of a random name."""


def requests(server: Server, count: int, seed: int) -> Iterator[tuple[int, object]]:
    """Sends so many; yields (status, request) of those that break a rule."""
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    port = int(server.url.rsplit(":", 1)[1])
    return chain(http.fuzz(port, count // 2, seed), schema.fuzz(server.url, document, count - count // 2, seed))


def main() -> int:
    """Starts a server with the scripted engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http_session")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="other requests with another number")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder), "--engine", "scripted", env=OFFLINE)
        try:
            gateway = psutil.Process(server.process.pid)
            broken = list(requests(server, args.requests // 10, args.seed))
            before = gateway.memory_info().rss
            broken += requests(server, args.requests - args.requests // 10, args.seed + 1)
            grown = gateway.memory_info().rss - before
            body = {"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
            alive = httpx.post(f"{server.url}/api/generate", json=body, timeout=60).status_code == 200
            traceback = "Traceback" in server.log.read_text()
        finally:
            server.stop(signal.SIGKILL)
    print(
        f"{args.requests} requests: {len(broken)} broke a rule; grown by {grown / 2**20:.1f} MiB; answers: {alive}; "
        f"traceback in the log: {traceback}"
    )
    for status, sent in broken[:20]:
        print(status, str(sent)[:900])
    return 1 if broken or traceback or not alive or grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
