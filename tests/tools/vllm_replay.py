"""Stands in for vLLM where there is none: answers what `tests/tools/vllm_recorder.py` recorded from a real one.

`interpreter(path)` makes a program that takes the place of the Python that has vLLM (VLLAMA_VLLM_PYTHON): asked for its
version it says that of the recording, told to run vLLM's server it prints the recorded start and answers recorded
requests on the Unix socket. A request that was never recorded is a 500 that quotes it, so that a change of what vLLama
sends is seen. Only the standard library. Its environment says how it misbehaves:

REPLAY_FILE       the recording
REPLAY_JOURNAL    a file to which each start and each request to the maintenance routes is written, one JSON a line
REPLAY_FAILURE    the name of a recorded start that failed: its lines, then exit status 1
REPLAY_PAUSE      seconds between two events of a stream
REPLAY_START      seconds between two lines of the start
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Exchange = dict[str, Any]


def interpreter(path: Path) -> Path:
    """Writes the program to `path` and gives it back."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return path


def canonical(method: str, path: str, body: bytes) -> str:
    """What one request asks, whatever the order of its keys."""
    asked = json.dumps(json.loads(body), sort_keys=True) if body else ""
    return f"{method} {path} {asked}"


def note(**row: Any) -> None:
    """One line for the test that watches."""
    if path := os.environ.get("REPLAY_JOURNAL"):
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/is_sleeping":
            self.reply(200, json.dumps({"is_sleeping": self.server.asleep}))
        else:
            self.answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = self.path.partition("?")[0]
        if route in ("/sleep", "/wake_up"):
            note(route=self.path)
            if not self.server.sleeps:
                self.reply(404, '{"detail":"Not Found"}')
                return
            self.server.asleep = route == "/sleep"
            self.reply(200, "")
            return
        self.answer(body)

    def answer(self, body: bytes) -> None:
        if self.path == "/health":
            self.reply(200, "")
            return
        key = os.environ.get("VLLM_API_KEY", "")
        if self.path.startswith("/v1") and self.headers.get("Authorization") != f"Bearer {key}":
            self.reply(401, '{"error":"Unauthorized"}')
            return
        if self.server.asleep:
            self.reply(500, '{"error":{"message":"a request while it sleeps"}}')
            return
        asked = canonical(self.command, self.path, body)
        found = self.server.exchanges.get(asked)
        if found is None:
            self.reply(500, json.dumps({"error": {"message": f"never recorded: {asked}"}}))
        elif "event-stream" in found["type"]:
            self.events(found)
        else:
            self.reply(found["status"], found["text"])

    def reply(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def events(self, found: Exchange) -> None:
        self.send_response(found["status"])
        self.send_header("Content-Type", found["type"])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pause = float(os.environ.get("REPLAY_PAUSE") or 0)
        try:
            for event in found["text"].split("\n\n"):
                if not event:
                    continue
                data = event.encode() + b"\n\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
                if pause:
                    time.sleep(pause)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            note(left=True)
            self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The recording behind a socket."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, exchanges: dict[str, Exchange], *, sleeps: bool) -> None:
        super().__init__(path, Handler)
        self.exchanges = exchanges
        self.sleeps = sleeps
        self.asleep = False


def main(arguments: list[str]) -> int:
    """As Python would be called: `-c CODE` or `-m vllm... --uds SOCKET`."""
    recording = json.loads(Path(os.environ["REPLAY_FILE"]).read_text())
    if arguments[0] == "-c":
        print(recording["version"])
        return 0
    note(start=arguments)
    failure = os.environ.get("REPLAY_FAILURE")
    for line in recording["failures"][failure] if failure else recording["start"]:
        print(line, file=sys.stderr, flush=True)
        time.sleep(float(os.environ.get("REPLAY_START") or 0))
    if failure:
        return 1
    known = {canonical(one["method"], one["path"], one["body"].encode()): one for one in recording["exchanges"]}
    sleeps = "--enable-sleep-mode" in arguments
    with Server(arguments[arguments.index("--uds") + 1], known, sleeps=sleeps) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
