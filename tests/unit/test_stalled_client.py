"""A client that stays connected and takes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from vllama.api import http
from vllama.api.http import DisconnectWatcher
from vllama.api.streaming import ChatShape, answer
from vllama.core.replies import Delta, Done
from vllama.errors import RequestCanceled


class Reply:
    """Words without end."""

    kind = "stream"
    rendered = ""
    image_count = 0
    dropped = ""
    cached_tokens = 7

    def __init__(self, pause: float = 0.0) -> None:
        self.closed = False
        self.pause = pause
        self.left = 5 if pause else 10**9

    async def events(self) -> AsyncIterator[Delta | Done]:
        while self.left:
            self.left -= 1
            await asyncio.sleep(self.pause)
            yield Delta("word ")
        yield Done("stop")

    async def aclose(self) -> None:
        self.closed = True


class Client:
    """Takes so many messages, then none."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        if len(self.messages) >= self.takes:
            await asyncio.Event().wait()
        self.messages.append(message)

    async def receive(self) -> Any:
        await asyncio.Event().wait()


async def serve(reply: Reply, client: Client) -> None:
    async with DisconnectWatcher({}, client.receive) as watcher:
        await answer(reply, "m", ChatShape(), watcher, client.send, stream=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("takes", [1, 2, 10])
async def test_it_is_given_up(monkeypatch: pytest.MonkeyPatch, takes: int) -> None:
    monkeypatch.setattr(http, "STALL_S", 0.02)
    reply, client = Reply(), Client(takes)
    with pytest.raises(RequestCanceled):
        await asyncio.wait_for(serve(reply, client), 30)
    assert reply.closed
    assert len(client.messages) == takes


async def test_a_slow_model_is_no_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STALL_S", 0.01)
    reply, client = Reply(pause=0.08), Client(1000)
    await asyncio.wait_for(serve(reply, client), 30)
    assert reply.closed
    assert client.messages[-1]["more_body"] is False
    assert (b"x-vllama-cached-tokens", b"7") in client.messages[0]["headers"]
