"""Anthropic's official Python client against a live server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.integration import tooly
from tests.integration.conftest import MODEL, Server

pytestmark = pytest.mark.model

HELLO: Any = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0}
"""Newer clients have no parameter of that name any more."""
TOOLS: Any = [{"name": "get_weather", "description": tooly.DESCRIPTION, "input_schema": tooly.PARAMETERS}]


@pytest.fixture(scope="module")
def models(server: Server) -> Server:
    """The server with a model that has tools."""
    tooly.install_tooly(server.url)
    return server


@pytest.fixture
def client(models: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=models.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_message(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "extra_body": GREEDY, "system": "Be brief."}
    message = client.messages.create(max_tokens=4, **asked)
    assert text_of(message)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 4
    assert message.id.startswith("msg_")


def test_stream_is_the_same_message(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "extra_body": GREEDY}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert len(pieces) > 2
    assert "".join(pieces) == text_of(streamed) == text_of(whole)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert streamed.usage.input_tokens == whole.usage.input_tokens


def test_stream_says_the_tokens_of_the_prompt_at_its_begin(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 2}
    with client.messages.create(**asked, stream=True) as stream:
        events = list(stream)
    first = events[0]
    assert first.type == "message_start"
    assert first.message.usage.input_tokens == client.messages.create(**asked).usage.input_tokens
    assert events[-1].type == "message_stop"


def test_count_tokens_is_what_a_message_uses(client: anthropic.Anthropic) -> None:
    asked: Any = {"model": tooly.NAME, "messages": HELLO, "system": "Be brief.", "tools": TOOLS}
    counted = client.messages.count_tokens(**asked).input_tokens
    assert counted == client.messages.create(**asked, max_tokens=1).usage.input_tokens
    bare = client.messages.count_tokens(model=tooly.NAME, messages=HELLO).input_tokens
    assert counted > bare + 20


def test_tool_results_go_back(client: anthropic.Anthropic) -> None:
    call: Any = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "18 degrees"}]}
    history: Any = [*HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    message = client.messages.create(model=tooly.NAME, messages=history, tools=TOOLS, max_tokens=8)
    assert message.usage.input_tokens > client.messages.count_tokens(model=tooly.NAME, messages=HELLO).input_tokens
    assert message.stop_reason in {"end_turn", "max_tokens", "tool_use"}


def test_an_answer_without_text_is_an_empty_list(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, messages=HELLO, max_tokens=8, stop_sequences=[""])
    assert list(message.content) == []


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nosuch", messages=HELLO, max_tokens=4)
    assert "model 'nosuch' not found" in str(missing.value)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=MODEL, messages=[], max_tokens=4)
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model=MODEL, messages=HELLO, tools=TOOLS, max_tokens=4)
    with pytest.raises(anthropic.NotFoundError), client.messages.stream(model="no", messages=HELLO, max_tokens=4):
        pass
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nosuch", messages=HELLO)


async def test_async_client(models: Server) -> None:
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 6}
    async with (
        anthropic.AsyncAnthropic(base_url=models.url, api_key="none", max_retries=0) as client,
        client.messages.stream(**asked) as stream,
    ):
        assert [piece async for piece in stream.text_stream]
