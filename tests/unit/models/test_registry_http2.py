"""A registry that offers HTTP/2 by TLS: spoken for everything small, while the bytes of blobs come over HTTP/1.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.registry import digest_of, running_registry
from tests.tools.registry_http2 import http2_front
from vllama.models.names import Name
from vllama.models.registry import session
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

WEIGHTS = bytes(range(256)) * 2000
LIMITS = Limits(part_min=100_000, upload_part=100_000, backoff_s=0.001)


@pytest.fixture(autouse=True)
def fresh_trust() -> Iterator[None]:
    """The authorities are read once a process: these tests bring their own."""
    session._tls.cache_clear()
    yield
    session._tls.cache_clear()


async def test_pull_and_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_registry() as registry, http2_front(registry, tmp_path) as (front, authority):
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        registry.token = "secret"
        registry.realm = f"https://{front.host}/token"
        registry.add_model("library/tide", "latest", {"model": WEIGHTS, "system": b"Be brief."})
        store = Store(tmp_path / "models")
        transfers = Transfers(store, limits=LIMITS, key_path=tmp_path / "id_ed25519")
        try:
            name = Name.parse(f"{front.host}/library/tide")
            lines = [line async for line in transfers.pull(name)]
            assert lines[-1] == {"status": "success"}
            assert store.blob_path(digest_of(WEIGHTS)).read_bytes() == WEIGHTS
            pulled, front.requests[:] = list(front.requests), []

            mine = Name.parse(f"{front.host}/me/mine")
            store.write_manifest(mine, store.manifest_bytes(name))
            registry.blobs.clear()
            registry.homes.clear()
            assert [line async for line in transfers.push(mine)][-1] == {"status": "success"}
            assert registry.blobs[digest_of(WEIGHTS)] == WEIGHTS
            pushed = list(front.requests)
        finally:
            transfers.close()
    kinds = {(protocol, method, path.partition("?")[0].split("/")[-2]) for protocol, method, path in pulled}
    assert ("HTTP/2", "GET", "manifests") in kinds
    assert {protocol for protocol, _, kind in kinds if kind == "blobs"} == {"HTTP/1.1"}
    methods = {(protocol, method) for protocol, method, path in pushed if not path.startswith("/token")}
    assert ("HTTP/1.1", "PATCH") in methods
    assert {method for protocol, method in methods if protocol == "HTTP/2"} >= {"HEAD", "POST", "PUT"}
    assert ("HTTP/2", "PATCH") not in methods
