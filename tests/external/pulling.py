"""How fast vLLama pulls from a registry on the loopback address, beside Ollama: `python -m tests.external.pulling`.

Both servers pull the same model from the same docker-registry into empty stores on the same disk, in turns (ABBA). A
pair's figure is Ollama's time by ours, so more than 1 means that vLLama is faster. Prints every pair, the median and
its interval.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.external import programs
from tests.external.conftest import clean_environ, started
from tests.integration.conftest import free_port, start_server
from vllama.models.blobs import import_file
from vllama.models.manifest import Layer, Manifest
from vllama.models.names import Name
from vllama.models.overlay import Overlay
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

REGISTRY = """version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextlib.contextmanager
def running_docker_registry(directory: Path) -> Iterator[str]:
    """host:port of an empty registry that keeps its blobs in the directory."""
    program, port = programs.need("docker-registry"), free_port()
    config = directory / "registry.yml"
    config.write_text(REGISTRY.format(root=directory / "registry", port=port))
    with started([program, "serve", str(config)], clean_environ(), directory, f"http://127.0.0.1:{port}/v2/"):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def redirecting(registry: str) -> Iterator[str]:
    """host:port of a front that sends whoever wants a blob to the registry itself, by its other name.

    Ollama's client takes blobs from nobody else: a registry that sends them itself has "no Location header".
    """

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "/blobs/" in self.path:
                self._answer(307, {"Location": f"http://localhost:{registry.rpartition(':')[2]}{self.path}"}, b"")
                return
            kept = {name: value for name, value in self.headers.items() if name == "Accept"}
            found = httpx.get(f"http://{registry}{self.path}", headers=kept)
            self._answer(found.status_code, {"Content-Type": found.headers["content-type"]}, found.content)

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, code: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(code)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody wants to know."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def fill(store: Store, name: Name, mebibytes: int) -> None:
    """A model of random bytes behind the header of a real one; of the real one alone if 0 is asked for."""
    real = next(model.gguf for model in Overlay().models() if model.gguf is not None)
    store.root.mkdir(exist_ok=True)
    weights = store.root / "weights"
    with weights.open("wb") as file:
        file.write(real.read_bytes())
        for _ in range(mebibytes - file.tell() // (1 << 20)):
            file.write(os.urandom(1 << 20))
    digest, size, _ = import_file(store, weights)
    config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
    layers = (Layer("model", digest, size),)
    store.write_manifest(name, Manifest(Layer("config", store.write_blob(config)[0], len(config)), layers).encode())


async def push(store: Store, name: Name, key: Path) -> None:
    """Sends it to its registry."""
    transfers = Transfers(store, key_path=key)
    try:
        assert [line async for line in transfers.push(name, insecure=True)][-1] == {"status": "success"}
    finally:
        transfers.close()


def pulled(url: str, model: str) -> float:
    """Seconds of one pull of a model that is not there, from the request to `success`."""
    httpx.request("DELETE", f"{url}/api/delete", json={"model": model}, timeout=60)
    os.sync()
    began = time.perf_counter()
    with httpx.stream("POST", f"{url}/api/pull", json={"model": model, "insecure": True}, timeout=300) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    took = time.perf_counter() - began
    assert lines[-1] == {"status": "success"}, lines[-1]
    return took


def main() -> int:
    """Measures and prints. 0 if the interval of the ratio is not wholly below 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the model; 0 for the demo model's own")
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pulling-")))
        for part in ("source", "registry", "theirs", "ours"):
            (root / part).mkdir()
        registry = stack.enter_context(running_docker_registry(root / "registry"))
        name = Name.parse(f"{registry}/me/tide:v1")
        store = Store(root / "source")
        fill(store, name, arguments.mebibytes)
        size = max(path.stat().st_size for path in store.blobs.iterdir())
        asyncio.run(push(store, name, root / "id_ed25519"))

        model = f"{stack.enter_context(redirecting(registry))}/me/tide:v1"
        theirs = f"http://127.0.0.1:{free_port()}"
        env = clean_environ() | {"HOME": str(root), "OLLAMA_HOST": theirs, "OLLAMA_MODELS": str(root / "theirs/models")}
        ready = f"{theirs}/api/version"
        stack.enter_context(started([programs.need("ollama"), "serve"], env, root / "theirs", ready))
        ours = start_server(root / "ours", "--engine", "scripted", env={"HOME": str(root)})
        stack.callback(ours.stop)

        urls = {"ollama": theirs, "vllama": ours.url}
        for url in urls.values():
            pulled(url, model)
        ratios = []
        for pair in range(arguments.pairs):
            order = ("ollama", "vllama") if pair % 2 == 0 else ("vllama", "ollama")
            took = {who: pulled(urls[who], model) for who in order}
            ratios.append(took["ollama"] / took["vllama"])
            rates = "  ".join(f"{who} {took[who]:.3f} s {size / took[who] / 1e6:.0f} MB/s" for who in urls)
            print(f"pair {pair + 1} ({order[0]} first): {rates}  ratio {ratios[-1]:.3f}", flush=True)
    low, high = interval(ratios)
    print(f"{size} bytes: ratio median {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}], n = {len(ratios)}")
    return int(high < 1)


def interval(ratios: list[float]) -> tuple[float, float]:
    """An interval for the median from the order of the values, 95 % or more from n = 6 on."""
    found, n = sorted(ratios), len(ratios)
    outside = 0
    while outside + 1 < n // 2 and 2 * sum(math.comb(n, k) for k in range(outside + 2)) / 2**n <= 0.05:
        outside += 1
    return found[outside], found[-1 - outside]


if __name__ == "__main__":
    sys.exit(main())
