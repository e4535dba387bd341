"""/api/embed, /api/embeddings and /v1/embeddings over the scripted engine: shapes, checks in order, errors."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from vllama.api.app import create_app
from vllama.api.embeddings import embed_json, embeddings_json
from vllama.cli.server import build_service
from vllama.config import load_settings
from vllama.core.embedding import UNSUPPORTED, embedding_of, shorten
from vllama.core.replies import Embedded
from vllama.core.requests import EmbedRequest
from vllama.core.service import Service
from vllama.engines.base import Vectors
from vllama.engines.scripted import WIDTH, ScriptedEngine


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    environ = {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "models"), "VLLAMA_ENGINE": "scripted"}
    made = build_service(load_settings({}, environ=environ))
    yield made
    await made.stop()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as made:
        yield made


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await client.post(path, json={"model": "m", **body})


async def test_embed(client: httpx.AsyncClient) -> None:
    answer = await post(client, "/api/embed", input=["one two", "three"])
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    found = answer.json()
    assert list(found) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert found["model"] == "m"
    assert found["prompt_eval_count"] == 3
    assert [len(row) for row in found["embeddings"]] == [WIDTH, WIDTH]
    assert found["total_duration"] >= found["load_duration"] > 0
    single = (await post(client, "/api/embed", input="three")).json()
    assert single["embeddings"] == found["embeddings"][1:]


@pytest.mark.parametrize("body", [{"input": ""}, {"input": []}, {}, {"input": None}])
async def test_embed_nothing_loads_the_model(client: httpx.AsyncClient, service: Service, body: Any) -> None:
    assert (await post(client, "/api/embed", **body)).content == b'{"model":"m","embeddings":[]}'
    assert len(service.residency.loaded()) == 1


async def test_fewer_dimensions_are_normalised_again(client: httpx.AsyncClient) -> None:
    whole = np.array((await post(client, "/api/embed", input="a b")).json()["embeddings"][0])
    short = np.array((await post(client, "/api/embed", input="a b", dimensions=4)).json()["embeddings"][0])
    assert np.allclose(short, whole[:4] / np.linalg.norm(whole[:4]), atol=1e-6)
    for wrong in (0, -1, WIDTH, 10_000):
        same = (await post(client, "/api/embed", input="a b", dimensions=wrong)).json()["embeddings"][0]
        assert len(same) == WIDTH


async def test_legacy(client: httpx.AsyncClient) -> None:
    found = (await post(client, "/api/embeddings", prompt="a b")).json()
    assert list(found) == ["embedding"]
    assert np.float32(found["embedding"][0]) == found["embedding"][0]
    assert (await post(client, "/api/embeddings")).content == b'{"embedding":[]}'
    assert (await post(client, "/api/embeddings", input="a")).content == b'{"embedding":[]}'


async def test_v1(client: httpx.AsyncClient) -> None:
    answer = await post(client, "/v1/embeddings", input=["a", "b c"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.content.endswith(b"}\n")
    found = answer.json()
    assert list(found) == ["object", "data", "model", "usage"]
    assert found["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [entry["index"] for entry in found["data"]] == [0, 1]
    encoded = (await post(client, "/v1/embeddings", input=["a", "b c"], encoding_format="BASE64")).json()
    for plain, entry in zip(found["data"], encoded["data"], strict=True):
        assert list(entry) == ["object", "embedding", "index"]
        numbers = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
        assert numbers.tolist() == np.array(plain["embedding"], dtype="f4").tolist()
    empty = (await post(client, "/v1/embeddings", input="", dimensions=3)).json()
    assert len(empty["data"][0]["embedding"]) == 3


def openai_error(text: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/embed", {"model": "", "input": 5}, 404, "model '' not found"),
        ("/api/embed", {"model": "a b", "input": 5}, 400, "invalid model name"),
        ("/api/embed", {"model": "nosuch/x", "input": 5}, 400, "invalid input type"),
        ("/api/embed", {"model": "m", "input": ["a", None]}, 400, "invalid input type"),
        ("/api/embed", {"model": "m", "input": "a", "keep_alive": "x"}, 400, 'time: invalid duration "x"'),
        ("/api/embed", {"model": "m", "options": {"num_ctx": "x"}}, 400, 'option "num_ctx" must be of type integer'),
        ("/api/embeddings", {"model": "", "prompt": "x"}, 400, "model is required"),
    ],
)
async def test_errors(client: httpx.AsyncClient, path: str, body: Any, status: int, text: str) -> None:
    answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()) == (status, {"error": text})


@pytest.mark.parametrize(
    ("body", "status", "text", "newline"),
    [
        ({"model": "m", "input": []}, 400, "invalid input", False),
        ({"model": "m"}, 400, "invalid input", False),
        ({"model": "m", "input": [1, 2]}, 400, "invalid input type", True),
        ({"model": "", "input": [1, 2]}, 404, "model '' not found", True),
        (
            {"model": "m", "input": "x", "encoding_format": "int8"},
            400,
            "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64'].",
            False,
        ),
    ],
)
async def test_v1_errors(client: httpx.AsyncClient, body: Any, status: int, text: str, newline: bool) -> None:
    answer = await client.post("/v1/embeddings", json=body)
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    assert (answer.status_code, answer.json()) == (status, openai_error(text, kind))
    assert answer.content.endswith(b"\n") is newline


async def test_a_missing_model_is_named_in_double_quotes(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "models")}
    service = build_service(load_settings({}, environ=environ))
    transport = httpx.ASGITransport(app=create_app(service))
    text = 'model "no:such" not found, try pulling it first'
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        for path, body in (("/api/embed", {"input": "a"}), ("/api/embeddings", {"prompt": "a"})):
            answer = await client.post(path, json={"model": "no:such", **body})
            assert (answer.status_code, answer.json()) == (404, {"error": text})
        answer = await client.post("/v1/embeddings", json={"model": "no:such", "input": "a"})
        assert (answer.status_code, answer.json()) == (404, openai_error(text, "not_found_error"))
    await service.stop()


async def test_models_that_generate(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = ScriptedEngine.facts.fget
    assert facts is not None
    from dataclasses import replace

    monkeypatch.setattr(ScriptedEngine, "facts", property(lambda self: replace(facts(self), can_embed=False)))
    answer = await post(client, "/api/embed", input="a")
    assert (answer.status_code, answer.json()) == (501, {"error": UNSUPPORTED})
    answer = await post(client, "/v1/embeddings", input="a")
    assert (answer.status_code, answer.json()) == (501, openai_error(UNSUPPORTED, "api_error"))
    # Ollama says 500, but it is the client who chose the model.
    assert (await post(client, "/api/embeddings", prompt="a")).status_code == 400
    assert (await post(client, "/api/embed", input=[])).status_code == 200


async def test_options_that_bound_the_input(client: httpx.AsyncClient) -> None:
    async def count(**body: Any) -> tuple[int, Any]:
        answer = await post(client, "/api/embed", input="word " * 40, **body)
        return answer.status_code, answer.json().get("prompt_eval_count", answer.json().get("error"))

    too_long = "the input length exceeds the context length"
    assert await count(options={"num_ctx": 3}) == (200, 3)
    assert await count(options={"num_ctx": 16}) == (200, 16)
    assert await count(options={"num_ctx": 16}, truncate=False) == (400, too_long)
    assert await count(options={"num_ctx": 0}, truncate=False) == (400, too_long)
    assert await count(options={"num_ctx": 0}) == (
        400,
        "input exceeds maximum context length and cannot be truncated further",
    )
    legacy = await post(client, "/api/embeddings", prompt="word " * 40, options={"num_ctx": 16})
    assert (legacy.status_code, legacy.json()) == (400, {"error": too_long})


def test_the_models_own_num_ctx_counts() -> None:
    request = EmbedRequest("m", ("a",))
    assert embedding_of(request, {"num_ctx": 16}, 16).num_ctx == 16
    assert embedding_of(request, {}, 4096).num_ctx == 4096
    assert embedding_of(EmbedRequest("m", ("a",), options={"num_ctx": 2}), {"num_ctx": 16}, 4).num_ctx == 2
    assert embedding_of(EmbedRequest("m", ("a",), options={"num_ctx": 2}, legacy=True), {}, 4).num_ctx == 4


def test_numbers_are_written_as_go_does() -> None:
    vectors = Vectors(np.array([-1, 0.1, 1e-7, 0.01010121], dtype="<f4").tobytes(), 4, 1)
    assert b'"embeddings":[[-1,0.1,1e-7,0.01010121]]' in embed_json(Embedded(vectors, 1, 1), "m")
    one = json.loads(embeddings_json(Embedded(vectors, 1, 1), "m"))["embedding"]
    assert one[1] == float(np.float32(0.1)) != 0.1


def test_shortening_a_vector_of_zeros() -> None:
    assert shorten(Vectors(bytes(16), 4, 1), 2).data == bytes(8)


async def test_a_client_that_goes_away_frees_its_model(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def endless(self: ScriptedEngine, request: Any) -> Vectors:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(ScriptedEngine, "embed", endless)
    sent: list[Any] = []
    body = json.dumps({"model": "m", "input": "a"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/api/embed", "raw_path": b"/api/embed", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }  # fmt: skip
    await asyncio.wait_for(create_app(service)(scope, receive, send), 30)
    assert service.residency.busy == 0
