"""The routes that list and change models, against a real store in a temporary directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from vllama.api.app import create_app
from vllama.config import Settings
from vllama.core.residency import Loaded
from vllama.models.library import Library
from vllama.models.names import Name

DATA = b"wire test blob\n"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()
NOTHING = "sha256:" + "0" * 64


class StoreService:
    """A service with a library and no engines."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(models_dir=directory)
        self.draining = False
        self.library = Library(directory, overlay=False)
        self.rows: list[Loaded] = []
        self.retired: list[Name] = []
        self.residency = SimpleNamespace(loaded=lambda: self.rows, loading=list, retire=self.retired.append)

    async def chat(self, request: Any) -> Any:
        raise AssertionError("nothing here generates")

    generate = chat


@pytest.fixture
def service(tmp_path: Path) -> StoreService:
    return StoreService(tmp_path)


@pytest.fixture
async def client(service: StoreService) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(service))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield http


def store_model(service: StoreService, name: str, **config: Any) -> None:
    """A model whose manifest has a config and a template, and no weights."""
    store = service.library.store

    def layer(data: bytes, kind: str) -> dict[str, Any]:
        digest, _ = store.write_blob(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    template = layer(b"{{ .Prompt }}", "application/vnd.ollama.image.template")
    details = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], **config}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer(json.dumps(details).encode(), "application/vnd.docker.container.image.v1+json"),
        "layers": [template],
    }
    path = store.manifests / "registry.ollama.ai" / "library" / Path(name.replace(":", "/"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


async def test_an_empty_store(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/tags")).json() == {"models": []}
    assert (await client.get("/api/ps")).json() == {"models": []}
    answer = await client.get("/v1/models")
    assert answer.json() == {"object": "list", "data": []}
    assert answer.headers["content-type"] == "application/json"


async def test_lists(client: httpx.AsyncClient, service: StoreService) -> None:
    store_model(service, "tiny:1b", model_type="1B", file_type="Q8_0")
    (entry,) = (await client.get("/api/tags")).json()["models"]
    assert entry["name"] == entry["model"] == "tiny:1b"
    assert entry["details"]["parameter_size"] == "1B"
    assert len(entry["digest"]) == 64
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["owned_by"]) == ("tiny:1b", "library")
    answer = await client.get("/v1/models/TINY:1b")
    assert answer.json()["id"] == "TINY:1b"
    assert answer.text.endswith("\n")


async def test_ps_lists_the_longest_life_first(client: httpx.AsyncClient, service: StoreService) -> None:
    store_model(service, "a:latest")
    store_model(service, "b:latest")
    now = datetime.now(UTC)
    service.rows = [
        Loaded(model, "llama", size=10, size_vram=0, num_ctx=2048, expires_at=now + timedelta(hours=hours), busy=hours)
        for hours, model in enumerate(sorted(service.library.models(), key=lambda model: model.name.shortest))
    ]
    answer = (await client.get("/api/ps")).json()["models"]
    assert [row["name"] for row in answer] == ["b:latest", "a:latest"]
    assert (answer[0]["context_length"], answer[0]["size"]) == (2048, 10)
    health = (await client.get("/health")).json()
    assert health["status"] == "ok"
    assert health["models"][1] == {"model": "b:latest", "engine": "llama", "requests": 1}


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("", 400, "model is required"),
        (" ", 400, "model is required"),
        ("nosuch", 404, "model 'nosuch:latest' not found"),
        ("library/x", 404, "model 'x:latest' not found"),
        ("http://h/n/m:t", 404, "model 'h/n/m:t' not found"),
        ("a b", 400, "invalid model name"),
        ("a:cloud:local", 400, 'use either :local or :cloud, not both: "a:cloud:local"'),
        ("nosuch:cloud", 403, "ollama cloud is disabled: remote model details are unavailable"),
    ],
)
async def test_show_errors(client: httpx.AsyncClient, name: str, status: int, text: str) -> None:
    answer = await client.post("/api/show", json={"model": name})
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_copy_and_delete(client: httpx.AsyncClient, service: StoreService) -> None:
    store_model(service, "tiny:latest")
    answer = await client.post("/api/copy", json={"source": "tiny", "destination": "other"})
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert len(service.library.models()) == 2
    answer = await client.request("DELETE", "/api/delete", json={"model": "tiny"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert [name.shortest for name in service.retired] == ["tiny:latest"]
    answer = await client.request("DELETE", "/api/delete", json={"model": "tiny"})
    assert (answer.status_code, answer.json()) == (404, {"error": "model 'tiny' not found"})
    answer = await client.post("/api/copy", json={"source": "<x>&", "destination": "ok"})
    assert answer.text == '{"error":"source \\"\\u003cx\\u003e\\u0026\\" is invalid"}'


async def test_blob_uploads(client: httpx.AsyncClient, service: StoreService) -> None:
    path = f"/api/blobs/{DIGEST}"
    answer = await client.head(path)
    assert (answer.status_code, answer.headers["content-length"]) == (404, "102")
    assert (await client.post(path, content=DATA)).status_code == 201
    assert (await client.post(path, content=b"not read")).status_code == 200
    answer = await client.head(path)
    assert (answer.status_code, "content-type" in answer.headers) == (200, False)
    answer = await client.post(f"/api/blobs/{NOTHING}", content=DATA)
    assert answer.json() == {"error": f'digest mismatch, expected "{NOTHING}", got "{DIGEST}"'}
    answer = await client.post("/api/blobs/sha256:12", content=DATA)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid digest format"})
    assert [file.name for file in service.library.store.blobs.iterdir()] == [DIGEST.replace(":", "-")]


async def test_an_upload_that_breaks_off_leaves_nothing(service: StoreService) -> None:
    messages = [{"type": "http.request", "body": b"wire", "more_body": True}, {"type": "http.disconnect"}]
    path = f"/api/blobs/{DIGEST}"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        return

    await create_app(service)(scope, receive, send)  # type: ignore[arg-type]
    assert list(service.library.store.blobs.iterdir()) == []


async def test_create_streams_its_steps(client: httpx.AsyncClient, service: StoreService) -> None:
    store_model(service, "tiny:latest")
    answer = await client.post("/api/create", json={"model": "new", "from": "tiny", "system": "Be brief."})
    assert answer.headers["content-type"] == "application/x-ndjson"
    statuses = [json.loads(line)["status"] for line in answer.text.splitlines()]
    assert statuses[-2:] == ["writing manifest", "success"]
    answer = await client.post("/api/create", json={"model": "new2", "from": "tiny", "stream": False})
    assert (answer.headers["content-type"], answer.text) == ("application/json", '{"status":"success"}')
    assert {model.name.model for model in service.library.models()} == {"tiny", "new", "new2"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("body", "status", "text", "kind"),
    [
        ({"model": "a b", "from": "tiny"}, 400, "invalid model name", "application/json; charset=utf-8"),
        ({"model": "a", "from": "a b"}, 400, "invalid model name", "application/json"),
        ({"model": "a"}, 400, "neither 'from' or 'files' was specified", "application/json"),
        (
            {"model": "a", "files": {"../a": NOTHING}},
            400,
            "file path must be relative",
            "application/json; charset=utf-8",
        ),
        (
            {"model": "a", "from": "tiny", "template": "{{ .Prompt"},
            400,
            "template error: template: :1: unclosed action",
            "application/json",
        ),
    ],
)
async def test_create_errors(
    client: httpx.AsyncClient,
    service: StoreService,
    stream: bool,
    body: dict[str, Any],
    status: int,
    text: str,
    kind: str,
) -> None:
    store_model(service, "tiny:latest")
    answer = await client.post("/api/create", json={**body, "stream": stream})
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (status, {"error": text}, kind)


async def test_create_errors_in_the_stream_are_its_last_line(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/create", json={"model": "a", "files": {"a.gguf": "sha256:12"}})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert lines == [{"status": "parsing GGUF"}, {"error": "invalid digest format"}]
