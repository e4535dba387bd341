#!/usr/bin/env python3
"""Plays the programs that the systems start: llama-server, Ollama with a llama-server of its own, llama_cpp.server,
vLLM, MAX. No model: each word of a prompt is a token, answers are "w0 w1 ...".

What it is called with decides what it is. FAKE_FAMILY=1 also starts a child, and a grandchild whose parent ends at once
and which has a session of its own; their process ids go to the file FAKE_PIDS. FAKE_STUBBORN=1 ignores SIGTERM in all.
FAKE_DIES=1 prints a word and ends with 3.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ARGS = sys.argv[1:]
IS_OLLAMA = ARGS[:1] == ["serve"] and "OLLAMA_HOST" in os.environ and "--model" not in ARGS
INTERRUPTS = "llama_cpp.server" in ARGS and "--interrupt_requests" not in ARGS
COUNTS = "llama_cpp.server" not in ARGS
PREFIX = os.environ.get("FAKE_PREFIX", "")
KEY = os.environ.get("FAKE_KEY", "")
running: list[int] = []
child_port = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args)

    def do_GET(self) -> None:
        if self.refused():
            return
        self.one({"data": [{"id": "fake-model"}, {"id": "other"}]} if self.path == f"{PREFIX}/v1/models" else {})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        path = self.path.removeprefix(PREFIX)
        if path.startswith("/api/blobs/"):
            self.one({}, 201)
        elif path == "/api/create":
            self.one({"status": "success"})
        elif path in ("/v1/embeddings", "/api/embed"):
            self.embed(path, json.loads(raw)["input"])
        elif os.environ.get("FAKE_EMBEDS"):
            self.one({"error": '"bench:latest" does not support generate'}, 400)
        elif path == "/extras/tokenize/count":
            self.one({"count": len(json.loads(raw)["input"].split())})
        else:
            self.answer(path, json.loads(raw))

    def refused(self) -> bool:
        if self.path.startswith(PREFIX) and (not KEY or self.headers["Authorization"] == f"Bearer {KEY}"):
            return False
        self.one({"error": {"message": f"who asks for {self.path}?"}}, 401)
        return True

    def answer(self, path: str, body: dict[str, Any]) -> None:
        words = body["prompt"].split() if "prompt" in body else []
        if path == "/api/generate":
            start_runner()
            self.ollama(len(words), body["options"]["num_predict"])
        elif path == "/completion":
            self.llama_server(len(words), body["n_predict"])
        else:
            self.openai(body["model"], len(words), body["max_tokens"], body["stream"])

    def embed(self, path: str, texts: list[str]) -> None:
        rows = [[1.0, 2.0, 3.0] for _ in texts]
        if path == "/api/embed":
            self.one({"embeddings": rows, "prompt_eval_count": 7})
        elif "--embeddings" in ARGS:
            self.one({"data": [{"embedding": row} for row in rows], "usage": {"prompt_tokens": 7}})
        else:
            self.one({"error": {"code": 501, "message": "This server does not support embeddings."}}, 501)

    def ollama(self, n_prompt: int, n: int) -> None:
        self.stream("application/x-ndjson")
        for i in range(n):
            self.event(json.dumps({"response": f" w{i}", "done": False}) + "\n")
        last = {"done": True, "done_reason": "length", "eval_count": n, "prompt_eval_count": n_prompt}
        self.event(json.dumps(last) + "\n")
        self.end()

    def llama_server(self, n_prompt: int, n: int) -> None:
        self.stream("text/event-stream")
        for i in range(n):
            self.sse({"content": f" w{i}", "stop": False})
        timings = {"cache_n": 0, "prompt_n": n_prompt, "predicted_n": n}
        self.sse({"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": n, "timings": timings})
        self.end()

    def openai(self, model: str, n_prompt: int, n: int, stream: bool) -> None:
        usage = {"prompt_tokens": n_prompt, "completion_tokens": n}
        kind = {"object": "text_completion", "model": model}
        if not stream:
            text = "".join(f" w{i}" for i in range(n))
            self.one({**kind, "choices": [{"text": text, "finish_reason": "length"}], "usage": usage})
            return
        running.append(id(self))
        self.stream("text/event-stream")
        for i in range(n):
            if n > 12:
                time.sleep(0.02)
            if INTERRUPTS and running[-1] != id(self):
                break
            self.sse({**kind, "choices": [{"text": f" w{i}", "finish_reason": None}]})
        else:
            self.sse({**kind, "choices": [{"text": "", "finish_reason": "length"}]})
            if COUNTS:
                self.sse({**kind, "choices": [], "usage": usage})
        self.event("data: [DONE]\n\n")
        self.end()

    def stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def sse(self, content: dict[str, Any]) -> None:
        self.event(f"data: {json.dumps(content)}\n\n")

    def event(self, text: str) -> None:
        raw = text.encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def one(self, body: dict[str, Any], status: int = 200) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def start_runner() -> None:
    """As Ollama does: the first request starts a llama-server."""
    global child_port
    if not IS_OLLAMA or child_port:
        return
    child_port = int(os.environ["OLLAMA_HOST"].rpartition(":")[2]) - 1
    model = os.path.join(os.environ["OLLAMA_MODELS"], "blobs", "sha256-0")
    argv = [sys.argv[0], "--model", model, "--port", str(child_port), "-np", os.environ["OLLAMA_NUM_PARALLEL"]]
    subprocess.Popen(argv, env={**os.environ, "LD_LIBRARY_PATH": "/opt/fake/lib"})
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{child_port}/", timeout=5).close()
            return
        except OSError:
            time.sleep(0.02)


SLEEPER = """
import os, signal, time
if os.environ.get("FAKE_STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(os.environ["FAKE_PIDS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""
MIDDLE = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)"


def start_family() -> None:
    subprocess.Popen([sys.executable, "-c", SLEEPER])
    subprocess.run([sys.executable, "-c", MIDDLE], check=True)
    with open(os.environ["FAKE_PIDS"], "a") as file:
        file.write(f"{os.getpid()}\n")


def main() -> None:
    if ARGS[:1] == ["-c"] or "--version" in ARGS or "--help" in ARGS:
        print("a warning\n9.9.9")
        return
    if os.environ.get("FAKE_DIES"):
        print("no such device")
        sys.exit(3)
    if os.environ.get("FAKE_STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("FAKE_FAMILY"):
        start_family()
    port = ARGS[ARGS.index("--port") + 1] if "--port" in ARGS else os.environ["OLLAMA_HOST"].rpartition(":")[2]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    if not os.environ.get("FAKE_STUBBORN"):
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()


if __name__ == "__main__":
    main()
