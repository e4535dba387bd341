"""A hub that speaks the routes of Hugging Face's, for tests: file lists, redirected large files, gates, faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SMALL = 1000
"""Bytes up to which a file is kept by git itself: no sha256, no redirect."""
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CDN = re.compile(r"/cdn/([0-9a-f]{64})")

Fault = Callable[["Handler", str], bool]
"""Looks at a request's path and may answer it in its own way; True if it did."""


@dataclass
class Repo:
    """A repository at its newest commit. `token` "" lets everybody in; `hidden` shows nothing without it."""

    files: dict[str, bytes]
    tags: list[str] = field(default_factory=list)
    token: str = ""
    hidden: bool = False

    @property
    def commit(self) -> str:
        """40 hex digits, another one after each change."""
        names = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(self.files.items())})
        return hashlib.sha1(names.encode()).hexdigest()


@dataclass
class HubServer:
    """What the hub holds and what was asked of it: (method, path, bytes sent)."""

    repos: dict[str, Repo] = field(default_factory=dict)
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    fault: Fault | None = None
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, part: str) -> list[tuple[str, str, int]]:
        """The GET requests with that in their path."""
        return [seen for seen in self.seen if part in seen[1] and seen[0] == "GET"]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """Info, small files and the redirects' target."""
        path = unquote(urlsplit(self.path).path)
        if self.hub.fault is not None and self.hub.fault(self, path):
            return
        if match := _INFO.fullmatch(path):
            self._info(match[1])
        elif match := _FILE.fullmatch(path):
            self._file(match[1], match[2], match[3])
        elif match := _CDN.fullmatch(path):
            for repo in self.hub.repos.values():
                for data in repo.files.values():
                    if hashlib.sha256(data).hexdigest() == match[1]:
                        self._bytes(data)
                        return
            self.answer(404)
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        """The same without bodies."""
        self.do_GET()

    def _allowed(self, repo: Repo | None, *, info: bool) -> Repo | None:
        sent = self.headers.get("Authorization", "")
        if repo is not None and repo.token and sent != f"Bearer {repo.token}":
            if repo.hidden:
                repo = None
            elif not info:
                self.answer(403 if sent else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
                return None
        if repo is None:
            # without a token, what is missing and what is hidden look the same
            self.answer(404 if sent else 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
        return repo

    def _info(self, name: str) -> None:
        repo = self._allowed(self.hub.repos.get(name), info=True)
        if repo is None:
            return
        siblings: list[dict[str, Any]] = []
        for path, data in repo.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if len(data) > SMALL:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        info = {"_id": "0", "id": name, "modelId": name, "sha": repo.commit, "tags": repo.tags, "siblings": siblings}
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        repo = self._allowed(self.hub.repos.get(name), info=False)
        if repo is None:
            return
        if revision not in ("main", repo.commit) or path not in repo.files:
            code = "EntryNotFound" if path not in repo.files else "RevisionNotFound"
            self.answer(404, {"X-Error-Code": code, "X-Repo-Commit": repo.commit})
            return
        data = repo.files[path]
        digest = hashlib.sha256(data).hexdigest()
        if len(data) <= SMALL:
            self._bytes(data, {"X-Repo-Commit": repo.commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
            return
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": repo.commit}
        # large files are at another host: what the hub itself redirects to, clients follow
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        self.answer(302, linked | {"Location": f"{elsewhere}/cdn/{digest}"})

    def _bytes(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
        if start:
            headers = (headers or {}) | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self.answer(206 if start else 200, headers or {}, data[start:])

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", cut: int = -1) -> None:
        """A whole answer, or one whose connection ends after `cut` bytes of it."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = 0 if self.command == "HEAD" else len(body) if cut < 0 else cut
        with self.hub.lock:
            self.hub.seen.append((self.command, unquote(urlsplit(self.path).path), sent))
        with suppress(OSError):
            self.wfile.write(body[:sent])
        if cut >= 0:
            self.close_connection = True


@contextmanager
def running_hub(**repos: Repo) -> Iterator[HubServer]:
    """A hub on a free loopback port; it is gone after the block."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.repos |= repos
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
