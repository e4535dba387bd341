"""The official Python client of Ollama against a live server: what users' programs do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime

import ollama
import pytest

from tests.integration.conftest import MODEL, Server

pytestmark = pytest.mark.model

OPTIONS = {"temperature": 0, "seed": 1, "num_predict": 12}
MESSAGES = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()  # it has no public way, and an open socket is a warning


def test_list_has_the_packaged_model(client: ollama.Client) -> None:
    found = {model.model: model for model in client.list().models}
    model = found[MODEL]
    assert model.size is not None
    assert model.size > 1_000_000
    assert isinstance(model.modified_at, datetime)
    assert model.details is not None
    assert model.details.family == "llama"
    assert model.details.format == "gguf"


def test_show(client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities


def test_chat(client: ollama.Client) -> None:
    reply = client.chat(MODEL, messages=MESSAGES, options=OPTIONS)
    assert reply.message.role == "assistant"
    assert reply.message.content
    assert reply.done is True
    assert reply.done_reason in {"stop", "length"}
    assert reply.prompt_eval_count is not None
    assert reply.prompt_eval_count > 5
    assert reply.eval_count is not None
    assert 1 <= reply.eval_count <= 12
    assert reply.total_duration is not None
    assert reply.eval_duration is not None
    assert reply.total_duration >= reply.eval_duration > 0


def test_chat_stream_is_the_same_text(client: ollama.Client) -> None:
    whole = client.chat(MODEL, messages=MESSAGES, options=OPTIONS)
    parts = list(client.chat(MODEL, messages=MESSAGES, options=OPTIONS, stream=True))
    assert len(parts) > 2
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].eval_count == whole.eval_count


def test_generate_and_context_round_trip(client: ollama.Client) -> None:
    first = client.generate(MODEL, "My name is Ada.", options=OPTIONS)
    assert first.response
    assert first.context
    second = client.generate(MODEL, "What is my name?", context=first.context, options=OPTIONS)
    assert second.context is not None
    assert list(second.context[: len(first.context)]) == list(first.context)
    assert second.prompt_eval_count is not None
    assert first.prompt_eval_count is not None
    assert second.prompt_eval_count > first.prompt_eval_count


def test_generate_stream_raw(client: ollama.Client) -> None:
    parts = list(client.generate(MODEL, "One, two, three,", raw=True, stream=True, options=OPTIONS))
    assert parts[-1].done
    assert parts[-1].context is None
    assert "".join(part.response for part in parts).strip()


def test_system_and_stop(client: ollama.Client) -> None:
    reply = client.generate(MODEL, "Count: 1, 2, 3, 4,", raw=True, options=OPTIONS | {"stop": [","], "num_predict": 40})
    assert "," not in reply.response
    assert reply.done_reason == "stop"


def test_ps_shows_the_loaded_model(client: ollama.Client) -> None:
    client.generate(MODEL, "Hi", options=OPTIONS, keep_alive="10m")
    running = {model.model: model for model in client.ps().models}
    assert running[MODEL].expires_at is not None
    assert running[MODEL].size
    assert running[MODEL].context_length


def test_unload_and_load(client: ollama.Client) -> None:
    client.generate(MODEL, "Hi", options=OPTIONS)
    assert client.generate(MODEL, "", keep_alive=0).done_reason == "unload"
    assert MODEL not in {model.model for model in client.ps().models}
    assert client.generate(MODEL, "").done_reason == "load"
    assert MODEL in {model.model for model in client.ps().models}


def test_missing_model_raises_what_ollama_raises(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat("nosuch", messages=MESSAGES)
    assert caught.value.status_code == 404
    assert caught.value.error == "model 'nosuch' not found"


async def test_async_client_streams_at_the_same_time(server: Server) -> None:
    client = ollama.AsyncClient(host=server.url)
    order: list[int] = []

    async def one(number: int) -> int:
        count = 0
        async for part in await client.chat(
            MODEL,
            messages=[{"role": "user", "content": f"Tell story number {number}."}],
            options={"num_predict": 24, "seed": number},
            stream=True,
        ):
            order.append(number)
            count += part.done is False
        return count

    counts = await asyncio.gather(*(one(n) for n in range(8)))
    assert all(count > 1 for count in counts)
    # All progress together: nobody has ended before everybody has begun.
    begun_by_all = max(order.index(n) for n in range(8))
    ended_by_first = min(len(order) - 1 - order[::-1].index(n) for n in range(8))
    assert begun_by_all < ended_by_first
    await client._client.aclose()
