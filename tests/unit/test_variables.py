"""What Ollama's variables do to a server, each seen from outside: environment in, answers or loads out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.tools.gguf import gguf_bytes
from vllama.api.app import create_app
from vllama.cli.server import set_up_logging
from vllama.config import load_settings
from vllama.core.requests import ChatRequest
from vllama.core.service import Service
from vllama.engines.base import Engine, LoadOptions, ModelSource
from vllama.engines.registry import EngineKind
from vllama.engines.scripted import Script, ScriptedEngine, available
from vllama.errors import BusyError
from vllama.models.library import Library
from vllama.prompts.messages import Message

log = logging.getLogger("vllama")


@dataclass
class Served:
    """A server that runs with these variables, and what its engines were loaded with."""

    http: httpx.AsyncClient
    service: Service
    loads: list[LoadOptions] = field(default_factory=list)

    async def chat(self, model: str = "m", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": False, **more}
        return await self.http.post("/api/chat", json=body)

    async def ps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/api/ps")).json()["models"]
        return found


@asynccontextmanager
async def serving(tmp_path: Path, variables: Mapping[str, str], script: Script | None = None) -> AsyncIterator[Served]:
    environ = {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "models"), **variables}
    settings = load_settings({"engine": "scripted"}, environ)
    loads: list[LoadOptions] = []

    def create(source: ModelSource, options: LoadOptions) -> Engine:
        loads.append(options)
        return ScriptedEngine(source, options, script or Script(length=3))

    kind = EngineKind("scripted", "scripted", ("gguf", "scripted"), available, create)
    service = Service(settings, Library(settings.models_dir, overlay=False), lambda _: kind)
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as http:
        try:
            yield Served(http, service, loads)
        finally:
            await service.stop()


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7m", timedelta(minutes=5), timedelta(minutes=7)), ("420", timedelta(minutes=5), timedelta(minutes=7))],
)
async def test_keep_alive_is_when_ps_says_a_model_goes(
    tmp_path: Path, value: str, least: timedelta, most: timedelta
) -> None:
    async with serving(tmp_path, {"OLLAMA_KEEP_ALIVE": value}) as server:
        await server.chat()
        [loaded] = server.service.residency.loaded()
        left = loaded.expires_at - datetime.now(UTC)
        assert least < left <= most


async def test_keep_alive_below_zero_is_for_ever(tmp_path: Path) -> None:
    async with serving(tmp_path, {"OLLAMA_KEEP_ALIVE": "-1"}) as server:
        await server.chat()
        [row] = await server.ps()
        assert int(row["expires_at"][:4]) > 2200


async def test_keep_alive_zero_unloads_at_once_unless_the_request_says_otherwise(tmp_path: Path) -> None:
    async with serving(tmp_path, {"OLLAMA_KEEP_ALIVE": "0"}) as server:
        await server.chat("kept", keep_alive="5m")
        await server.chat("gone")
        for _ in range(5):
            await asyncio.sleep(0)  # closing the engine takes its turns
        assert [row["name"] for row in await server.ps()] == ["kept:latest"]


@pytest.mark.parametrize(("most", "expected"), [("1", {"b:latest"}), ("2", {"a:latest", "b:latest"})])
async def test_max_loaded_models(tmp_path: Path, most: str, expected: set[str]) -> None:
    async with serving(tmp_path, {"OLLAMA_MAX_LOADED_MODELS": most}) as server:
        await server.chat("a")
        await server.chat("b")
        assert {row["name"] for row in await server.ps()} == expected


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
async def test_max_queue_holds_for_a_model_that_is_loaded(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, {"OLLAMA_MAX_QUEUE": "1"}) as server:
        running = await server.service.chat(ChatRequest("m", messages=(Message("user", "x"),)))
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "input": "x"}
        refused = await server.http.post(path, json=body)
        assert (refused.status_code, refused.json()) == (503, {"error": BusyError().text})
        assert refused.json()["error"] == "server busy, please try again.  maximum pending requests exceeded"
        await running.aclose()
        assert (await server.http.post(path, json=body)).status_code == 200


@pytest.mark.parametrize(("value", "expected"), [("300", 300), ("0", 4096)])
async def test_context_length_is_that_of_requests_that_name_none(tmp_path: Path, value: str, expected: int) -> None:
    async with serving(tmp_path, {"OLLAMA_CONTEXT_LENGTH": value}) as server:
        await server.chat()
        assert [row["context_length"] for row in await server.ps()] == [expected]
        await server.chat(options={"num_ctx": 777})
        assert [row["context_length"] for row in await server.ps()] == [777]


async def test_context_length_cuts_a_prompt(tmp_path: Path) -> None:
    async with serving(tmp_path, {"OLLAMA_CONTEXT_LENGTH": "64"}) as server:
        answer = await server.chat(messages=[{"role": "user", "content": "many words " * 200}])
        assert answer.status_code == 200
        assert answer.json()["prompt_eval_count"] <= 64
        assert "tokens=" in answer.headers["x-vllama-truncated"]


async def test_load_timeout(tmp_path: Path) -> None:
    async with serving(tmp_path, {"OLLAMA_LOAD_TIMEOUT": "50ms"}, Script(load_us=3_600_000_000)) as server:
        answer = await server.chat()
        assert answer.status_code == 500
        assert "no progress for 0.05 s (OLLAMA_LOAD_TIMEOUT)" in answer.json()["error"]
        assert await server.ps() == []


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("OLLAMA_NUM_PARALLEL", "3", "num_parallel", 3),
        ("OLLAMA_NUM_PARALLEL", "", "num_parallel", 0),
        ("OLLAMA_KV_CACHE_TYPE", "q8_0", "kv_cache_type", "q8_0"),
        ("OLLAMA_FLASH_ATTENTION", "1", "flash_attention", True),
        ("OLLAMA_FLASH_ATTENTION", "0", "flash_attention", False),
        ("OLLAMA_FLASH_ATTENTION", "", "flash_attention", None),
        ("OLLAMA_DEBUG", "2", "extra", (("debug", "1"),)),
        ("OLLAMA_DEBUG", "1", "extra", ()),
    ],
)
async def test_what_the_engine_is_loaded_with(
    tmp_path: Path, variable: str, value: str, name: str, expected: object
) -> None:
    """What it does there, the contract tests of the engines show (docs/configuration.md)."""
    async with serving(tmp_path, {variable: value}) as server:
        await server.chat()
        assert getattr(server.loads[0], name) == expected


@pytest.mark.parametrize(("origins", "status"), [("", 403), ("https://app.example", 200), ("*", 200)])
async def test_origins(tmp_path: Path, origins: str, status: int) -> None:
    async with serving(tmp_path, {"OLLAMA_ORIGINS": origins}) as server:
        answer = await server.http.get("/api/version", headers={"origin": "https://app.example"})
        assert answer.status_code == status
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == {"": None, "*": "*"}.get(origins, origins)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1:11434", 403), ("0.0.0.0:11434", 200)])
async def test_the_host_to_listen_on_decides_whose_names_are_checked(tmp_path: Path, host: str, status: int) -> None:
    async with serving(tmp_path, {"OLLAMA_HOST": host}) as server:
        answer = await server.http.get("/api/version", headers={"host": "rebound.example"})
        assert answer.status_code == status


@pytest.mark.parametrize(("value", "level"), [("", logging.INFO), ("0", logging.INFO), ("1", logging.DEBUG)])
def test_debug_is_what_the_log_shows(tmp_path: Path, value: str, level: int) -> None:
    before = log.level
    try:
        set_up_logging(load_settings({}, {"HOME": str(tmp_path), "OLLAMA_DEBUG": value}))
        assert log.getEffectiveLevel() == level
    finally:
        log.setLevel(before)


@pytest.mark.parametrize(("value", "kept"), [("", False), ("1", True)])
async def test_noprune_keeps_what_a_replaced_model_alone_had(tmp_path: Path, value: str, kept: bool) -> None:
    raw = gguf_bytes({"general.architecture": "llama"})
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    blobs = tmp_path / "models" / "blobs"
    found: list[set[Path]] = []
    async with serving(tmp_path, {"OLLAMA_NOPRUNE": value}) as server:
        assert (await server.http.post(f"/api/blobs/{digest}", content=raw)).status_code == 201
        for system in ("first", "second"):
            body = {"model": "m", "files": {"a.gguf": digest}, "system": system, "stream": False}
            answer = await server.http.post("/api/create", json=body)
            assert answer.status_code == 200, answer.text
            found.append(set(blobs.iterdir()))
    first, second = found
    assert (first <= second) is kept
