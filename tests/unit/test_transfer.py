"""Pull and push: which names are refused, and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllama.api.app import create_app
from vllama.config import Settings
from vllama.core.service import Service
from vllama.models.library import Library


async def post(tmp_path: Path, path: str, body: dict[str, Any]) -> httpx.Response:
    service = Service(Settings(models_dir=tmp_path), Library(tmp_path, overlay=False))
    app = create_app(service)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post(path, json=body)
    finally:
        await service.stop()


@pytest.mark.parametrize("name", ["", "a b", "a:cloud:local", "http://"])
async def test_pull_refuses_what_is_no_name(tmp_path: Path, name: str) -> None:
    response = await post(tmp_path, "/api/pull", {"model": name})
    assert (response.status_code, response.json()) == (400, {"error": "invalid model name"})


async def test_pull_says_in_the_stream_who_could_not_be_reached(tmp_path: Path) -> None:
    error = {
        "error": 'pull model manifest: Get "https://127.0.0.1:9/v2/me/tide/manifests/v1": '
        "dial tcp 127.0.0.1:9: connect: connection refused"
    }
    streamed = await post(tmp_path, "/api/pull", {"model": "127.0.0.1:9/me/tide:v1"})
    assert (streamed.status_code, streamed.headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in streamed.text.splitlines()] == [{"status": "pulling manifest"}, error]
    whole = await post(tmp_path, "/api/pull", {"model": "127.0.0.1:9/me/tide:v1", "stream": False})
    assert (whole.status_code, whole.headers["content-type"], whole.json()) == (500, "application/json", error)


async def test_push_without_a_name(tmp_path: Path) -> None:
    response = await post(tmp_path, "/api/push", {"model": ""})
    assert (response.status_code, response.json()) == (400, {"error": "model is required"})


@pytest.mark.parametrize(
    ("name", "error", "status"),
    [
        ("a b", "unqualified name: registry.ollama.ai/library/a b:latest", 400),
        ("me/tide", 'model "me/tide" not found', 404),
    ],
)
async def test_push_says_in_the_stream_what_is_wrong(tmp_path: Path, name: str, error: str, status: int) -> None:
    streamed = await post(tmp_path, "/api/push", {"model": name})
    assert (streamed.status_code, streamed.headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in streamed.text.splitlines()] == [
        {"status": "retrieving manifest"},
        {"status": "couldn't retrieve manifest"},
        {"error": error},
    ]
    whole = await post(tmp_path, "/api/push", {"model": name, "stream": False})
    assert (whole.status_code, whole.json()) == (status, {"error": error})
