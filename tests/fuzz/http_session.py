"""`python -m tests.fuzz.http_session`: random requests to a server of its own; exit status 1 if one breaks a rule."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import httpx
import psutil

from tests.fuzz.http import fuzz
from tests.integration.conftest import MODEL, start_server

GROWTH = 64 << 20
"""Bytes that the gateway may grow by from the first tenth of the requests to the last."""


def main() -> int:
    """Starts a server with the scripted engine."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.http_session")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="other requests with another number")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start_server(Path(folder), "--engine", "scripted")
        try:
            port = int(server.url.rsplit(":", 1)[1])
            gateway = psutil.Process(server.process.pid)
            broken = list(fuzz(port, args.requests // 10, args.seed))
            before = gateway.memory_info().rss
            broken += fuzz(port, args.requests - args.requests // 10, args.seed + 1)
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
        print(status, sent[:300])
    return 1 if broken or traceback or not alive or grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
