"""Counts what the gateway does for a request, in a process of its own: no clock, no socket, the same numbers each time.

Run as `python -m vllama.bench.gateway_calls`. The ASGI application is called directly, with the scripted engine behind
it, and a profile hook counts every entry into (or resumption of) a Python function of vLLama, the scripted engine's
own aside. Prints JSON. Nothing imports this module: the rest of the harness knows the gateway by HTTP only.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from vllama.api.app import create_app
from vllama.cli.server import build_service
from vllama.config import load_settings

SHORT, LONG = 1, 65
MODEL = "scripted"
_MESSAGES = [
    {"role": "system", "content": "You answer in short sentences."},
    {"role": "user", "content": "Say something about rivers, bridges and the people who live near them."},
]
_SAMPLING = {"temperature": 0.7, "seed": 1}


def requests(n_out: int) -> dict[str, dict[str, Any]]:
    """Path -> body of a streamed request for `n_out` tokens."""
    native = {"model": MODEL, "options": {"num_predict": n_out, **_SAMPLING}}
    return {
        "/api/chat": {**native, "messages": _MESSAGES},
        "/api/generate": {**native, "prompt": _MESSAGES[1]["content"]},
        "/v1/chat/completions": {
            "model": MODEL,
            "messages": _MESSAGES,
            "stream": True,
            "max_tokens": n_out,
            **_SAMPLING,
        },
    }


class _Counter:
    """Counts while it is entered."""

    def __init__(self) -> None:
        root = Path(__file__).parent.parent
        self._root = str(root)
        self._not = (str(root / "engines" / "scripted.py"), str(root / "bench"))
        self._ours: dict[str, bool] = {}
        self.calls = 0

    def _hook(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            name = frame.f_code.co_filename
            ours = self._ours.get(name)
            if ours is None:
                ours = self._ours[name] = name.startswith(self._root) and not name.startswith(self._not)
            self.calls += ours

    def __enter__(self) -> _Counter:
        sys.setprofile(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


async def _ask(app: Any, path: str, body: dict[str, Any]) -> tuple[int, int, int]:
    """(calls, bytes of the body, messages with a body)."""
    raw = json.dumps(body).encode()
    incoming = [{"type": "http.request", "body": raw, "more_body": False}]
    sent: list[bytes] = []
    status = 0

    async def receive() -> dict[str, Any]:
        if incoming:
            return incoming.pop()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        if message.get("body"):
            sent.append(bytes(message["body"]))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:11434"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 11434),
    }
    with _Counter() as counter:
        await app(scope, receive, send)
    if status != 200:
        raise SystemExit(f"{path}: HTTP {status} {b''.join(sent)[:300]!r}")
    return counter.calls, sum(map(len, sent)), len(sent)


async def _measure() -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="vllama-calls-") as folder:
        environ = {
            "OLLAMA_MODELS": folder,
            "OLLAMA_HOST": "127.0.0.1:11434",
            "OLLAMA_KEEP_ALIVE": "-1",
            "HOME": folder,
        }
        service = build_service(load_settings({"engine": MODEL}, environ))
        app = create_app(service)
        await service.start()
        found = {}
        try:
            for path in requests(SHORT):
                for n_out in (SHORT, LONG, LONG):
                    await _ask(app, path, requests(n_out)[path])
                gc.collect()
                gc.disable()
                short, long = [await _ask(app, path, requests(n)[path]) for n in (SHORT, LONG)]
                gc.enable()
                chunks = LONG - SHORT
                found[path] = {
                    "request_calls": float(short[0]),
                    "chunk_calls": (long[0] - short[0]) / chunks,
                    "request_bytes": float(short[1]),
                    "chunk_bytes": (long[1] - short[1]) / chunks,
                    "chunk_writes": (long[2] - short[2]) / chunks,
                }
        finally:
            await service.stop()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure())))
