"""OpenAI's official Python client against a live server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integration import tooly
from tests.integration.conftest import MODEL, Server
from tests.integration.minilm import NAME as MINILM
from tests.integration.minilm import install_minilm, make_minilm

pytestmark = pytest.mark.model

HELLO: Any = [{"role": "user", "content": "Say hello."}]
WEATHER: Any = {"name": "get_weather", "description": tooly.DESCRIPTION, "parameters": tooly.PARAMETERS}
TOOLS: Any = [{"type": "function", "function": WEATHER}]
CALL: Any = {"type": "json_schema", "json_schema": {"name": "call", "schema": tooly.CALL}}


@pytest.fixture(scope="module")
def models(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server with a model that has tools and one that embeds."""
    directory: Path = tmp_path_factory.mktemp("minilm")
    install_minilm(server.url, make_minilm(directory))
    tooly.install_tooly(server.url)
    return server


@pytest.fixture
def client(models: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{models.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8, temperature=0)
    assert reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


def test_chat_stream_is_the_same_text(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_tools(client: openai.OpenAI) -> None:
    asked: Any = {"model": tooly.NAME, "tools": TOOLS, "response_format": CALL, "temperature": 0, "max_tokens": 60}
    reply = client.chat.completions.create(messages=HELLO, **asked)
    assert reply.choices[0].finish_reason == "tool_calls"
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert (calls[0].function.name, json.loads(calls[0].function.arguments)) == ("get_weather", {"city": "Paris"})
    answer: Any = {"role": "tool", "tool_call_id": calls[0].id, "content": "18 degrees"}
    history = [*HELLO, reply.choices[0].message, answer]
    told = client.chat.completions.create(model=tooly.NAME, tools=TOOLS, messages=history, max_tokens=8)
    assert told.usage is not None
    assert reply.usage is not None
    assert told.usage.prompt_tokens > reply.usage.prompt_tokens + 15
    with client.chat.completions.stream(messages=HELLO, **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed
    assert json.loads(streamed[0].function.arguments) == {"city": "Paris"}


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "enum": [7]}}, "required": ["n"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    reply = client.chat.completions.create(model=MODEL, messages=HELLO, response_format=form, max_tokens=60)
    assert json.loads(reply.choices[0].message.content or "") == {"n": 7}


def test_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "One, two,", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**asked)
    assert whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"
    with client.completions.create(**asked, stream=True) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    assert {MODEL, f"{tooly.NAME}:latest"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(MODEL).owned_by == "library"


def test_embeddings(client: openai.OpenAI) -> None:
    # Without a format the client asks for base64, and decodes it.
    decoded = client.embeddings.create(model=MINILM, input=["a cat", "a dog"])
    plain = client.embeddings.create(model=MINILM, input=["a cat", "a dog"], encoding_format="float")
    assert [len(item.embedding) for item in decoded.data] == [384, 384]
    assert decoded.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-5)
    assert len(client.embeddings.create(model=MINILM, input="x", dimensions=64).data[0].embedding) == 64


def test_responses(client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}
    reply = client.responses.create(**asked, instructions="Be brief.")
    assert reply.status == "completed"
    assert reply.output_text
    assert reply.usage is not None
    assert reply.usage.output_tokens <= 8
    kinds: list[str] = []
    with client.responses.stream(**asked, instructions="Be brief.") as stream:
        kinds.extend(event.type for event in stream)
        final = stream.get_final_response()
    assert final.output_text == reply.output_text
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"


def test_responses_with_tools(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": None, **WEATHER}]
    form: Any = {"format": {"type": "json_schema", "name": "call", "schema": tooly.CALL}}
    reply = client.responses.create(model=tooly.NAME, input="Weather?", tools=tools, text=form, temperature=0)
    call = reply.output[0]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    history: Any = [{"role": "user", "content": "Weather?"}, *reply.output, answer]
    told = client.responses.create(model=tooly.NAME, input=history, tools=tools, max_output_tokens=8)
    assert told.usage is not None
    assert reply.usage is not None
    assert told.usage.input_tokens > reply.usage.input_tokens + 15


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nosuch", messages=HELLO)
    assert missing.value.message.endswith("model 'nosuch' not found")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nosuch")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nosuch", input="x", stream=True)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=MINILM, input=[])


async def test_async_client(models: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{models.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, stream=True)
        assert len([chunk async for chunk in stream]) >= 2
