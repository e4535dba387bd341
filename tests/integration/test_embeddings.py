"""Embeddings of a real model, over HTTP, beside what sentence-transformers says for the same weights."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest

from tests.integration.conftest import MODEL, Server, start_server
from tests.integration.minilm import NAME, install_minilm, make_minilm

pytestmark = pytest.mark.model

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "embeddings.json").read_text())["entries"]
TEXTS = [entry["text"] for entry in GOLDEN]
EXPECTED = np.array([np.frombuffer(base64.b64decode(entry["vector"]), "<f4") for entry in GOLDEN])
CLOSE = 0.999
"""The least cosine: the weights are rounded to 16 bits here."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("embeddings")
    running: Server = start_server(directory)
    install_minilm(running.url, make_minilm(directory))
    yield running.url
    assert running.stop() == 0


def post(url: str, path: str, **body: Any) -> Any:
    return httpx.post(url + path, json={"model": NAME, **body}, timeout=60).raise_for_status().json()


def cosines(rows: Any) -> Any:
    return np.sum(np.array(rows) * EXPECTED, axis=1)


def test_one_batch(url: str) -> None:
    made = post(url, "/api/embed", input=TEXTS)
    assert cosines(made["embeddings"]).min() >= CLOSE
    assert made["prompt_eval_count"] == sum(entry["tokens"] for entry in GOLDEN)


def test_one_by_one(url: str) -> None:
    made = [post(url, "/api/embed", input=[text]) for text in TEXTS]
    assert cosines([one["embeddings"][0] for one in made]).min() >= CLOSE
    assert [one["prompt_eval_count"] for one in made] == [entry["tokens"] for entry in GOLDEN]


async def test_many_clients_at_once(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post("/api/embed", json={"model": NAME, "input": [text]}) for text in TEXTS)
        )
    assert cosines([answer.json()["embeddings"][0] for answer in answers]).min() >= CLOSE


def test_the_other_routes_say_the_same(url: str) -> None:
    text = TEXTS[0]
    [expected] = post(url, "/api/embed", input=text)["embeddings"]
    assert np.allclose(post(url, "/api/embeddings", prompt=text)["embedding"], expected, atol=1e-6)
    [entry] = post(url, "/v1/embeddings", input=text)["data"]
    assert np.allclose(entry["embedding"], expected, atol=1e-6)


def test_ollamas_client(url: str) -> None:
    client = ollama.Client(host=url)
    made = client.embed(NAME, TEXTS[:3], dimensions=64)
    assert [len(row) for row in made.embeddings] == [64, 64, 64]
    assert len(client.embeddings(NAME, TEXTS[0]).embedding) == 384
    shown = client.show(NAME)
    assert shown.capabilities == ["embedding"]
    [loaded] = client.ps().models
    assert loaded.context_length == 512
    client._client.close()  # it has no public way, and an open socket is a warning


def test_openais_client(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        made = client.embeddings.create(model=NAME, input=TEXTS)
    assert cosines([entry.embedding for entry in made.data]).min() >= CLOSE


def test_who_can_do_what(url: str) -> None:
    wrong = httpx.post(f"{url}/api/chat", json={"model": NAME, "messages": [{"role": "user", "content": "a"}]})
    assert (wrong.status_code, wrong.json()) == (400, {"error": f'"{NAME}" does not support chat'})
    wrong = httpx.post(f"{url}/api/embed", json={"model": MODEL, "input": "a"}, timeout=60)
    assert wrong.status_code == 501
    assert "does not support embeddings" in wrong.json()["error"]


def test_a_refused_input_leaves_the_others_alone(url: str) -> None:
    long = "the cat sat on the mat " * 200
    with httpx.Client(base_url=url, timeout=60) as client:
        refused = client.post("/api/embed", json={"model": NAME, "input": ["a", long], "truncate": False})
        assert (refused.status_code, refused.json()) == (400, {"error": "the input length exceeds the context length"})
        cut = client.post("/api/embed", json={"model": NAME, "input": ["a", long]}).json()
    assert cut["prompt_eval_count"] == 3 + 512
