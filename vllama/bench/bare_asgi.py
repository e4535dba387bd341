"""A bare ASGI application: the least that a Python web server can do for a streamed answer.

Run as `python -m vllama.bench.bare_asgi FD SCRIPT`: serves on the inherited listening socket, under uvicorn with the
settings of `vllama serve`. SCRIPT is a JSON file {"step_us": N, "answers": {"path": [chunk, ...]}}; a POST to a path
reads the body and sends exactly these chunks, `step_us` apart, and does nothing else.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Bare:
    """See the module's docstring."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._step = script["step_us"] / 1e6
        self._answers = {path: [chunk.encode() for chunk in chunks] for path, chunks in script["answers"].items()}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        chunks = self._answers.get(scope["path"], [b"Ollama is running"])
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await asyncio.sleep(self._step)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    script = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    config = uvicorn.Config(
        Bare(script),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=3600,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
