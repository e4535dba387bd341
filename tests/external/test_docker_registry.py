"""A real OCI registry, Debian's docker-registry: what is pushed there comes back byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.external import programs
from tests.external.conftest import clean_environ, started
from tests.integration.conftest import free_port, start_server
from vllama.models.manifest import MEDIA_TYPE, Layer, Manifest, digest_of
from vllama.models.names import Name
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

pytestmark = pytest.mark.external

WEIGHTS = bytes(range(256)) * 40_000
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
LIMITS = Limits(part_min=1_000_000, backoff_s=0.01, tick_s=0.005)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """host:port of a registry with nothing in it."""
    program = programs.need("docker-registry")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(root=tmp_path / "registry", port=port))
    with started([program, "serve", str(config)], clean_environ(), tmp_path, f"http://127.0.0.1:{port}/v2/"):
        yield f"127.0.0.1:{port}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def put(store: Store, name: Name, origin: str = "") -> None:
    """A model in the store."""

    def layer(kind: str, data: bytes) -> Layer:
        return Layer(kind, store.write_blob(data)[0], len(data), origin if kind == "model" else "")

    store.write_manifest(name, Manifest(layer("config", b"{}"), (layer("model", WEIGHTS),)).encode())


async def last(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    return [line async for line in lines][-1]


async def test_pushed_deleted_and_pulled(registry: str, store: Store, tmp_path: Path) -> None:
    name = Name.parse(f"{registry}/me/tide:v1")
    put(store, name)
    transfers = Transfers(store, limits=LIMITS, key_path=tmp_path / "id_ed25519")
    try:
        assert await last(transfers.push(name, insecure=True)) == {"status": "success"}
        before = store.manifest_bytes(name)
        store.delete(name)
        assert list(store.blobs.iterdir()) == []
        assert await last(transfers.pull(name, insecure=True)) == {"status": "success"}
        assert store.manifest_bytes(name) == before
        assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS

        store.blob_path(digest_of(WEIGHTS)).write_bytes(b"\0" + WEIGHTS[1:-1] + b"\0")
        assert await last(transfers.pull(name, insecure=True)) == {"status": "success"}
        assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS

        other = Name.parse(f"{registry}/me/other:v1")
        put(store, other, origin=name.full)
        assert await last(transfers.push(other, insecure=True)) == {"status": "success"}
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{registry}/v2/me/other/manifests/v1", headers={"Accept": MEDIA_TYPE})
        assert json.loads(answer.content)["layers"][0]["digest"] == digest_of(WEIGHTS)
    finally:
        transfers.close()


async def test_a_pull_killed_at_half_goes_on_from_there(registry: str, store: Store, tmp_path: Path) -> None:
    size = 400_000_000
    name = Name.parse(f"{registry}/me/large:v1")
    digest, *_ = store.write_blob(random.Random(8).randbytes(size // 400) * 400)
    layers = (Layer("model", digest, size),)
    store.write_manifest(name, Manifest(Layer("config", store.write_blob(b"{}")[0], 2), layers).encode())
    transfers = Transfers(store, key_path=tmp_path / "id_ed25519")
    try:
        assert await last(transfers.push(name, insecure=True)) == {"status": "success"}
    finally:
        transfers.close()

    home = tmp_path / "home"
    home.mkdir()
    with counting(registry) as (host, carried):
        body = {"model": f"{host}/me/large:v1", "insecure": True}
        server = start_server(home, "--engine", "scripted", env={"HOME": str(home)})
        try:
            with httpx.stream("POST", f"{server.url}/api/pull", json=body, timeout=120) as response:
                for line in response.iter_lines():
                    if json.loads(line).get("completed", 0) >= size / 2:
                        break
        finally:
            server.stop(signal.SIGKILL)
        first = carried[0]
        assert size / 2 <= first < size
        assert not list((home / "models").glob("manifests/*/*/*/*"))
        server = start_server(home, "--engine", "scripted", env={"HOME": str(home)})
        try:
            async with httpx.AsyncClient(timeout=120) as client:
                reply = await client.post(f"{server.url}/api/pull", json=body | {"stream": False})
            assert reply.json() == {"status": "success"}
        finally:
            server.stop()
        assert carried[0] < size * 1.1
    blobs = home / "models" / "blobs"
    assert (blobs / digest.replace(":", "-")).read_bytes() == store.blob_path(digest).read_bytes()
    assert len(list(blobs.iterdir())) == 2


@contextlib.contextmanager
def counting(address: str) -> Iterator[tuple[str, list[int]]]:
    """host:port of a way to the server there, and how many bytes of it came back through it."""
    carried = [0]
    host, _, port = address.partition(":")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=connect, args=(client,), daemon=True).start()

    def connect(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server:
            asking = threading.Thread(target=carry, args=(client, server, False), daemon=True)
            asking.start()
            carry(server, client, True)
            asking.join()

    def carry(source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(data)
                if counted:
                    carried[0] += len(data)
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", carried
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_two_pulls_at_once_fetch_each_blob_once(registry: str, store: Store, tmp_path: Path) -> None:
    with counting(registry) as (host, carried):
        await pulled_by_several(Name.parse(f"{host}/me/tide:v1"), store, carried)


async def pulled_by_several(name: Name, store: Store, carried: list[int]) -> None:
    """Two pulls of one process, and one of another process's kind, which shares nothing but the files."""
    put(store, name)
    first = Transfers(store, limits=LIMITS)
    second = Transfers(Store(store.root), limits=LIMITS)
    try:
        assert await last(first.push(name, insecure=True)) == {"status": "success"}
        store.delete(name)
        carried[0] = 0
        ends = await asyncio.gather(*(last(each.pull(name, insecure=True)) for each in (first, first, second)))
        assert ends == [{"status": "success"}] * 3
        # Heads of answers and three manifests are little beside one more blob.
        assert len(WEIGHTS) <= carried[0] < len(WEIGHTS) + 50_000
        assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS
        assert sorted(path.name for path in store.blobs.iterdir()) == sorted(
            digest.replace(":", "-") for digest in (digest_of(WEIGHTS), digest_of(b"{}"))
        )
    finally:
        first.close()
        second.close()


async def test_a_name_that_nobody_pushed(registry: str, store: Store) -> None:
    transfers = Transfers(store, limits=LIMITS)
    try:
        with pytest.raises(Exception, match=r"^pull model manifest: file does not exist$"):
            await last(transfers.pull(Name.parse(f"{registry}/me/nosuch"), insecure=True))
    finally:
        transfers.close()
