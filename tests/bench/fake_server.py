#!/usr/bin/env python3
"""Plays `llama-server` and `ollama` for the harness's own tests: no model, instant words, the real protocols.

FAKE_DIE_AFTER=N ends the process in the middle of completion number N; FAKE_FAIL=1 answers every request on the
measured lengths with an error line.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COUNT = {"completions": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args)

    def do_GET(self) -> None:
        self._single({"version": "9.9.9"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/blobs/"):
            self._single({}, 201)
        elif self.path == "/api/create":
            self._single({"status": "success"})
        else:
            self._complete(json.loads(raw))

    def _complete(self, body: dict[str, Any]) -> None:
        COUNT["completions"] += 1
        native = self.path == "/api/generate"
        n = body["options"]["num_predict"] if native else body["n_predict"]
        if COUNT["completions"] == int(os.environ.get("FAKE_DIE_AFTER", "0")):
            os._exit(7)
        words = [f" w{i}" for i in range(n)]
        events: list[dict[str, Any]]
        if native:
            events = [{"response": word, "done": False} for word in words]
            counts = {"prompt_eval_count": len(body["prompt"].split()), "eval_count": n, "load_duration": 1000}
            events.append({"response": "", "done": True, "done_reason": "length", **counts})
        else:
            timings = {"cache_n": 0, "prompt_n": len(body["prompt"].split()), "predicted_n": n, "predicted_ms": 1.0}
            last = {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": n, "timings": timings}
            events = [*({"content": word, "stop": False} for word in words), last]
        if os.environ.get("FAKE_FAIL") and n > 4:
            events = [{"error": "planned failure"}]
        if not body["stream"]:
            key = "response" if native else "content"
            self._single({**events[-1], key: "".join(words)} if "error" not in events[0] else events[0])
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson" if native else "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            raw = json.dumps(event).encode()
            raw = raw + b"\n" if native else b"data: " + raw + b"\n\n"
            self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _single(self, body: dict[str, Any], status: int = 200) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def main() -> None:
    args = sys.argv[1:]
    if "--version" in args or "--help" in args:
        print("version: 9.9.9 --no-ui" if "--version" in args else "--no-ui --cache-ram")
        return
    port = args[args.index("--port") + 1] if "--port" in args else os.environ["OLLAMA_HOST"].rpartition(":")[2]
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
