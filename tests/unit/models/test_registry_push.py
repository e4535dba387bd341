"""Pushing to a registry on the loopback address."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.tools import registry as fake
from tests.tools.registry import Handler, Registry, Seen, digest_of, running_registry
from vllama.errors import ServerError
from vllama.models.manifest import Layer, Manifest
from vllama.models.names import Name
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as found:
        yield found


def stored(store: Store, registry: Registry, origin: str = "") -> Name:
    """A model in the store under a name of the registry."""

    def layer(kind: str, data: bytes) -> Layer:
        return Layer(kind, store.write_blob(data)[0], len(data), origin if kind == "model" else "")

    name = Name.parse(f"{registry.host}/me/tide:v1")
    manifest = Manifest(layer("config", b"{}"), (layer("model", WEIGHTS), layer("system", b"Be brief.")))
    store.write_manifest(name, manifest.encode())
    return name


async def push(transfers: Transfers, name: Name) -> list[dict[str, Any]]:
    return [line async for line in transfers.push(name, insecure=True)]


async def test_what_was_pushed_is_there(transfers: Transfers, registry: Registry, store: Store) -> None:
    name = stored(store, registry)
    lines = await push(transfers, name)
    texts = list(dict.fromkeys(line["status"] for line in lines))
    blobs = (WEIGHTS, b"Be brief.", b"{}")
    assert texts == [*(f"pushing {digest_of(data)[7:19]}" for data in blobs), "pushing manifest", "success"]
    assert {
        "status": f"pushing {digest_of(WEIGHTS)[7:19]}",
        "digest": digest_of(WEIGHTS),
        "total": len(WEIGHTS),
        "completed": len(WEIGHTS),
    } in lines
    assert registry.manifests["me/tide", "v1"] == store.manifest_bytes(name)
    assert {digest: registry.blobs[digest] for digest in map(digest_of, blobs)} == {digest_of(d): d for d in blobs}
    chunks = [s.headers["content-range"] for s in registry.requests("PATCH", "/uploads/u0")]
    assert chunks == [f"{at}-{min(at + 100_000, len(WEIGHTS)) - 1}" for at in range(0, len(WEIGHTS), 100_000)]


async def test_pushed_again_nothing_is_sent(transfers: Transfers, registry: Registry, store: Store) -> None:
    name = stored(store, registry)
    await push(transfers, name)
    registry.seen.clear()
    assert (await push(transfers, name))[-1] == {"status": "success"}
    assert registry.requests("PATCH", "") == []


async def test_the_registry_takes_a_blob_that_it_has_elsewhere(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    registry.add_blob("library/base", WEIGHTS)
    name = stored(store, registry, origin=f"{registry.host}/library/base:latest")
    await push(transfers, name)
    (asked,) = registry.requests("POST", "mount=")
    assert parse_qs(urlsplit(asked.path).query) == {"mount": [digest_of(WEIGHTS)], "from": ["library/base"]}
    assert "me/tide" in registry.homes[digest_of(WEIGHTS)]
    sent = sum(int(seen.headers["content-length"]) for seen in registry.requests("PATCH", ""))
    assert sent == len(b"Be brief.") + len(b"{}")


async def test_a_mount_that_is_refused_becomes_an_upload(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    name = stored(store, registry, origin=f"{registry.host}/library/gone:latest")
    await push(transfers, name)
    assert registry.blobs[digest_of(WEIGHTS)] == WEIGHTS


async def test_no_mount_from_another_registry(transfers: Transfers, registry: Registry, store: Store) -> None:
    await push(transfers, stored(store, registry, origin="base:latest"))
    assert registry.requests("POST", "mount=") == []


async def test_with_a_token(transfers: Transfers, registry: Registry, store: Store) -> None:
    registry.token = "secret"
    await push(transfers, stored(store, registry))
    assert registry.tokens_given == 1
    assert registry.blobs[digest_of(WEIGHTS)] == WEIGHTS


async def test_a_registry_that_has_its_bytes_elsewhere(transfers: Transfers, registry: Registry, store: Store) -> None:
    registry.redirect_uploads = True
    await push(transfers, stored(store, registry))
    assert registry.blobs[digest_of(WEIGHTS)] == WEIGHTS
    assert all("authorization" not in seen.headers for seen in registry.requests("PUT", "/elsewhere/"))
    (commit,) = registry.requests("PUT", "/uploads/u0")
    parts = [hashlib.md5(WEIGHTS[at : at + 100_000]).digest() for at in range(0, len(WEIGHTS), 100_000)]
    etag = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    query = parse_qs(urlsplit(commit.path).query)
    assert query == {"state": ["s"], "digest": [digest_of(WEIGHTS)], "etag": [etag]}


def half_a_chunk(handler: Handler, seen: Seen) -> bool:
    """Takes half of a chunk, as if the connection had gone."""
    if seen.method != "PATCH" or int(seen.headers["content-length"]) < 1000:
        return False
    held = handler.registry.uploads[seen.path.split("/")[-1].partition("?")[0]]
    held += handler.rfile.read(int(seen.headers["content-length"]) // 2)
    handler.rfile.read(int(seen.headers["content-length"]) - int(seen.headers["content-length"]) // 2)
    handler.close_connection = True
    return True


async def test_a_broken_chunk_is_taken_up_where_the_registry_is(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    registry.fault = fake.once(half_a_chunk, times=2)
    await push(transfers, stored(store, registry))
    assert registry.blobs[digest_of(WEIGHTS)] == WEIGHTS
    assert "50000-99999" in [seen.headers["content-range"] for seen in registry.requests("PATCH", "")]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (fake.status(401, "/v2/"), "unauthorized: access denied"),
        (fake.status(403, "/uploads/", body=b"not yours"), "403: not yours"),
        (fake.status(500, "/uploads/", body=b"oops"), "max retries exceeded: 500: oops"),
        (fake.status(202, "/uploads/"), "the registry does not say where to upload to"),
        (fake.status(202, "/uploads/", {"Location": "file:///x"}), "the registry redirects to what is no address"),
        (fake.status(400, "/manifests/", body=b"bad"), "400: bad"),
    ],
)
async def test_errors_of_the_registry(
    transfers: Transfers, registry: Registry, store: Store, fault: fake.Fault, text: str
) -> None:
    registry.fault = fault
    with pytest.raises(ServerError) as caught:
        await push(transfers, stored(store, registry))
    assert caught.value.text.startswith(text)
    assert registry.manifests == {}


async def test_a_blob_that_is_damaged_here_does_not_leave(
    transfers: Transfers, registry: Registry, store: Store
) -> None:
    name = stored(store, registry)
    store.blob_path(digest_of(WEIGHTS)).write_bytes(WEIGHTS[:-1])
    with pytest.raises(ServerError, match="is damaged in the model store"):
        await push(transfers, name)
    store.blob_path(digest_of(WEIGHTS)).write_bytes(b"x" + WEIGHTS[1:])
    with pytest.raises(ServerError, match=r"400: .*digest invalid"):
        await push(transfers, name)
    store.blob_path(digest_of(WEIGHTS)).unlink()
    with pytest.raises(ServerError, match="cannot read sha256:"):
        await push(transfers, name)
    assert registry.manifests == {}


async def test_a_push_that_nobody_waits_for_ends(transfers: Transfers, registry: Registry, store: Store) -> None:
    until = threading.Event()
    registry.fault = fake.stall("/v2/me/tide/blobs/", until)
    lines = transfers.push(stored(store, registry), insecure=True)
    assert (await anext(lines))["status"].startswith("pushing ")
    await lines.aclose()
    until.set()
    assert registry.manifests == {}
