"""Every method of Ollama's official Python client that needs no cloud, against a live server; both of its kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.integration import tooly
from tests.integration.conftest import MODEL, Server
from tests.integration.minilm import NAME as MINILM
from tests.integration.minilm import install_minilm, make_minilm
from vllama.models.overlay import Overlay

pytestmark = pytest.mark.model

OPTIONS = {"temperature": 0, "num_predict": 8}
HELLO = [{"role": "user", "content": "Say hello."}]


def get_weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: The name of the city
    """
    return f"18 degrees in {city}"


@pytest.fixture(scope="module")
def models(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server with a model that has tools and one that embeds."""
    install_minilm(server.url, make_minilm(tmp_path_factory.mktemp("minilm")))
    tooly.install_tooly(server.url)
    return server


@pytest.fixture
def client(models: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=models.url) as client:
        yield client


def names(client: ollama.Client) -> set[str]:
    return {str(model.model) for model in client.list().models}


def test_create_copy_delete(client: ollama.Client) -> None:
    assert client.create("mine", from_=MODEL, system="Be brief.", parameters={"num_predict": 3}).status == "success"
    statuses = [part.status for part in client.create("mine", from_=MODEL, license=["Free."], stream=True)]
    assert statuses[-1] == "success"
    assert client.copy("mine", "twin").status == "success"
    assert {"mine:latest", "twin:latest"} <= names(client)
    assert str(client.show("twin").license).endswith("Free.")  # behind that of the base
    for name in ("mine", "twin"):
        assert client.delete(name).status == "success"
    assert not {"mine:latest", "twin:latest"} & names(client)


def test_blobs(client: ollama.Client) -> None:
    gguf = next(model.gguf for model in Overlay().models() if model.gguf is not None)
    digest = client.create_blob(Path(gguf))
    assert client.create("blobbed", files={"model.gguf": digest}, messages=[{"role": "user", "content": "a"}])
    messages = client.show("blobbed").model_dump()
    assert messages["details"]["format"] == "gguf"
    assert client.generate("blobbed", "Hi", options=OPTIONS).done
    client.delete("blobbed")


def test_embeddings(client: ollama.Client) -> None:
    many = client.embed(MINILM, ["a cat", "a dog"])
    assert [len(vector) for vector in many.embeddings] == [384, 384]
    assert len(client.embed(MINILM, "a cat", dimensions=16).embeddings[0]) == 16
    assert len(client.embeddings(MINILM, "a cat").embedding) == 384
    assert client.embed(MINILM, []).embeddings == []


def test_tools_from_functions(client: ollama.Client) -> None:
    reply = client.chat(
        tooly.NAME,
        messages=HELLO,
        tools=[get_weather],
        format=tooly.CALL,
        options={"temperature": 0, "num_predict": 60},
    )
    assert reply.message.tool_calls is not None
    call = reply.message.tool_calls[0].function
    assert (call.name, dict(call.arguments)) == ("get_weather", {"city": "Paris"})
    answer: Any = {"role": "tool", "tool_name": call.name, "content": get_weather(**call.arguments)}
    told = client.chat(tooly.NAME, messages=[*HELLO, reply.message, answer], tools=[get_weather], options=OPTIONS)
    assert told.prompt_eval_count is not None
    assert told.prompt_eval_count > (reply.prompt_eval_count or 0)


def test_logprobs_and_formats(client: ollama.Client) -> None:
    reply = client.generate(MODEL, "One, two,", logprobs=True, top_logprobs=3, options=OPTIONS)
    assert reply.logprobs is not None
    assert len(reply.logprobs[0].top_logprobs or ()) == 3
    assert client.generate(MODEL, "An object.", format="json", options={"num_predict": 200}).response.strip()[0] in "{["


@pytest.mark.parametrize("stream", [False, True])
def test_pull_and_push_of_what_is_not_there(client: ollama.Client, stream: bool) -> None:
    # A port that nobody listens on, so that no test talks to the world.
    name = "127.0.0.1:9/library/nosuch"
    for method in (client.pull, client.push):
        with pytest.raises(ollama.ResponseError) as caught:
            list(method(name, insecure=True, stream=stream))  # type: ignore[call-overload]
        assert caught.value.error


def test_errors(client: ollama.Client) -> None:
    checks: list[tuple[Any, int]] = [
        (lambda: client.show("nosuch"), 404),
        (lambda: client.delete("nosuch"), 404),
        (lambda: client.copy("nosuch", "x"), 404),
        (lambda: client.generate("nosuch", "x"), 404),
        (lambda: client.embed("nosuch", "x"), 404),
        (lambda: client.chat(MODEL, messages=HELLO, tools=[get_weather]), 400),
        (lambda: client.chat(MODEL, messages=HELLO, think=True), 400),
        (lambda: client.generate(MODEL, "x", suffix="y"), 400),
        (lambda: client.create("mine", from_="nosuch-base/x y"), 400),
    ]
    for call, status in checks:
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == status


async def test_async_client(models: Server) -> None:
    async with ollama.AsyncClient(host=models.url) as client:
        assert MODEL in {model.model for model in (await client.list()).models}
        assert (await client.show(MODEL)).capabilities == ["completion"]
        assert (await client.create("later", from_=MODEL)).status == "success"
        assert (await client.copy("later", "later2")).status == "success"
        assert (await client.generate("later2", "Hi", options=OPTIONS)).done
        parts = [part async for part in await client.generate("later2", "Hi", options=OPTIONS, stream=True)]
        assert parts[-1].done
        assert "later2:latest" in {model.model for model in (await client.ps()).models}
        for name in ("later", "later2"):
            assert (await client.delete(name)).status == "success"
        assert len((await client.embed(MINILM, "a cat")).embeddings) == 1
        assert len((await client.embeddings(MINILM, "a cat")).embedding) == 384
        with pytest.raises(ollama.ResponseError):
            await client.pull("127.0.0.1:9/library/nosuch", insecure=True)
