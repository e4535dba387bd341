"""A registry of Docker's protocol in memory, for tests: tokens, ranges, chunked uploads, mounts, faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.ollama.image."
CONFIG = "application/vnd.docker.container.image.v1+json"


def digest_of(data: bytes) -> str:
    """`sha256:` and the hash."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


Fault = Callable[["Handler", Seen], bool]
"""Looks at a request and may answer it in its own way; True if it did."""


@dataclass
class Registry:
    """What the registry holds and how it behaves; change it at any time."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    homes: dict[str, set[str]] = field(default_factory=dict)
    """Digest to the repositories that have the blob."""
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    ranges: bool = True
    token: str = ""
    """Asked for when not empty."""
    realm: str = ""
    """Where the token is; the registry itself when empty."""
    tokens_given: int = 0
    redirect_uploads: bool = False
    fault: Fault | None = None
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        """host:port, as in a model's name."""
        return urlsplit(self.url).netloc

    def add_blob(self, repository: str, data: bytes) -> str:
        """Stores a blob; its digest."""
        digest = digest_of(data)
        self.blobs[digest] = data
        self.homes.setdefault(digest, set()).add(repository)
        return digest

    def add_model(self, repository: str, tag: str, layers: dict[str, bytes], config: bytes = b"{}") -> dict[str, Any]:
        """Stores a model: kind of layer to its bytes."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG, "digest": self.add_blob(repository, config), "size": len(config)},
            "layers": [
                {"mediaType": LAYER + kind, "digest": self.add_blob(repository, data), "size": len(data)}
                for kind, data in layers.items()
            ],
        }
        self.manifests[repository, tag] = json.dumps(manifest).encode()
        return manifest

    def blob_bytes_sent(self) -> int:
        """How many bytes of blobs went out."""
        return sum(seen.sent for seen in self.seen if "/blobs/sha256:" in seen.path)

    def requests(self, method: str, part: str) -> list[Seen]:
        """The requests of a method whose path has `part` in it."""
        return [seen for seen in self.seen if seen.method == method and part in seen.path]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: Registry

    def log_message(self, *_: Any) -> None:
        """Tests look at `Registry.seen`."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, message: str) -> None:
        """A registry's error."""
        self.answer(status, json.dumps({"errors": [{"code": "X", "message": message}]}).encode())

    def body(self) -> bytes:
        """The request's body, plain or chunked."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def handle_any(self) -> None:
        registry = self.registry
        seen = Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        with registry.lock:
            registry.seen.append(seen)
        with suppress(ConnectionError, BrokenPipeError):
            if registry.fault and registry.fault(self, seen):
                return
            url = urlsplit(self.path)
            if url.path == "/token":
                registry.tokens_given += 1
                self.answer(200, json.dumps({"token": registry.token}).encode())
            elif url.path.startswith("/elsewhere/"):
                registry.uploads[url.path.split("/")[2]] += self.body()
                self.answer(201)
            elif registry.token and self.headers.get("Authorization") != f"Bearer {registry.token}":
                self.body()
                realm = registry.realm or f"{registry.url}/token"
                challenge = f'Bearer realm="{realm}",service="fake",scope="repository:x:pull,push other:y:pull"'
                self.answer(401, b"{}", {"WWW-Authenticate": challenge})
            elif match := re.fullmatch(r"/v2/([^/]+/[^/]+)/(manifests|blobs)/(.*)", url.path):
                kind, name = match[2], match[3]
                if kind == "manifests":
                    self.manifest(match[1], name)
                elif name.startswith("uploads/"):
                    self.upload(match[1], name.removeprefix("uploads/"), parse_qs(url.query))
                else:
                    self.blob(match[1], name, seen)
            else:
                self.error(404, "no such route")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

    def manifest(self, repository: str, tag: str) -> None:
        if self.command == "PUT":
            data = self.body()
            manifest = json.loads(data)
            for layer in (*manifest["layers"], manifest["config"]):
                if repository not in self.registry.homes.get(layer["digest"], ()):
                    self.error(400, f"blob unknown: {layer['digest']}")
                    return
            self.registry.manifests[repository, tag] = data
            self.answer(201)
        elif (data := self.registry.manifests.get((repository, tag), b"")) == b"":
            self.error(404, "manifest unknown")
        else:
            self.answer(200, data, {"Content-Type": MANIFEST_TYPE})

    def blob(self, repository: str, digest: str, seen: Seen) -> None:
        if repository not in self.registry.homes.get(digest, ()):
            self.error(404, "blob unknown")
            return
        self.send_blob(self.registry.blobs[digest], seen)

    def send_blob(self, data: bytes, seen: Seen, *, stop_at: int | None = None) -> None:
        """The bytes that were asked for; with `stop_at`, only so many of them before the connection goes."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        total = len(data)
        if match and self.registry.ranges:
            data = data[int(match[1]) : int(match[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {match[1]}-{match[2]}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if stop_at is not None:
            data, self.close_connection = data[:stop_at], True
        self.wfile.write(data)
        seen.sent += len(data)

    def upload(self, repository: str, key: str, query: dict[str, list[str]]) -> None:
        registry = self.registry
        data = self.body()
        if self.command == "POST":
            mount, origin = query.get("mount", [""])[0], query.get("from", [""])[0]
            if origin in registry.homes.get(mount, ()):
                registry.homes[mount].add(repository)
                self.answer(201, headers={"Location": f"/v2/{repository}/blobs/{mount}"})
                return
            key = f"u{len(registry.uploads)}"
            registry.uploads[key] = bytearray()
        elif key not in registry.uploads:
            self.error(404, "upload unknown")
            return
        held = registry.uploads[key]
        headers = {"Location": f"/v2/{repository}/blobs/uploads/{key}?state=s", "Range": f"0-{max(len(held) - 1, 0)}"}
        if self.command == "PATCH":
            start = int(self.headers["Content-Range"].partition("-")[0])
            if start != len(held):
                self.error(416, "range")
                return
            if registry.redirect_uploads:
                again = {"Docker-Upload-Location": headers["Location"], "Location": f"{registry.url}/elsewhere/{key}"}
                self.answer(307, headers=again)
                return
            held += data
            self.answer(202, headers=headers | {"Range": f"0-{len(held) - 1}"})
        elif self.command == "PUT":
            held += data
            if digest_of(bytes(held)) != query["digest"][0]:
                self.error(400, "digest invalid")
                return
            registry.add_blob(repository, bytes(held))
            self.answer(201)
        else:
            self.answer(202 if self.command == "POST" else 204, headers=headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that went away is nothing to print."""


@contextmanager
def running_registry() -> Iterator[Registry]:
    """A registry on a free loopback port."""
    registry = Registry()
    handler = type("BoundHandler", (Handler,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def once(fault: Fault, times: int = 1) -> Fault:
    """A fault that goes away after it has struck."""
    left = times
    lock = threading.Lock()

    def struck(handler: Handler, seen: Seen) -> bool:
        nonlocal left
        with lock:
            if left <= 0:
                return False
            left -= 1
        if fault(handler, seen):
            return True
        with lock:
            left += 1
        return False

    return struck


def drop_blob(after: int) -> Fault:
    """Cuts the connection after so many bytes of a blob."""

    def fault(handler: Handler, seen: Seen) -> bool:
        if seen.method != "GET" or "/blobs/sha256:" not in seen.path:
            return False
        handler.send_blob(handler.registry.blobs[seen.path.rpartition("/")[2]], seen, stop_at=after)
        return True

    return fault


def status(code: int, part: str, headers: dict[str, str] | None = None, body: bytes = b"no") -> Fault:
    """Answers paths that contain `part` with a status."""

    def fault(handler: Handler, seen: Seen) -> bool:
        if part not in seen.path:
            return False
        handler.body()
        handler.answer(code, body, headers)
        return True

    return fault


def stall(part: str, until: threading.Event) -> Fault:
    """Sends the head of an answer and then nothing."""

    def fault(handler: Handler, seen: Seen) -> bool:
        if part not in seen.path or seen.method != "GET":
            return False
        handler.send_response(206 if "range" in seen.headers else 200)
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", "")):
            handler.send_header("Content-Range", f"bytes {match[1]}-{match[2]}/*")
        handler.send_header("Content-Length", "1000000000")
        handler.end_headers()
        handler.close_connection = True
        until.wait(60)
        return True

    return fault


def endless(part: str, piece: bytes = b" " * 65536) -> Fault:
    """Sends without end."""

    def fault(handler: Handler, seen: Seen) -> bool:
        if part not in seen.path or seen.method != "GET":
            return False
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        while True:
            handler.wfile.write(piece)
            seen.sent += len(piece)

    return fault


def slowly(part: str, seconds: float) -> Fault:
    """Thinks before it answers as usual."""

    def fault(_: Handler, seen: Seen) -> bool:
        if part in seen.path:
            time.sleep(seconds)
        return False

    return fault


def hold_at(count: int, go_on: threading.Event) -> Fault:
    """Sends so many bytes of a blob that has more, then waits for the event."""

    def fault(handler: Handler, seen: Seen) -> bool:
        digest = seen.path.rpartition("/")[2]
        data = handler.registry.blobs.get(digest, b"")
        if seen.method != "GET" or len(data) <= count or go_on.is_set():
            return False
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.close_connection = True
        handler.wfile.write(data[:count])
        seen.sent += count
        go_on.wait(120)
        return True

    return fault
