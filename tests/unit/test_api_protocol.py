"""The HTTP protocol over a real socket: bodies that are framed in unusual ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from vllama.api.http import DisconnectWatcher, read_body, send_json
from vllama.api.protocol import Protocol
from vllama.errors import RequestCanceled


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers the body, and the length that the headers claim for it."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    await send_json(send, 200, await read_body(scope, receive) + b"|" + b",".join(lengths))


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with serving(echo) as number:
        yield number


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """The application behind our protocol; its port."""
    config = uvicorn.Config(app, port=0, http=Protocol, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
NEXT = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnext"


async def test_chunks_overrule_a_length_and_end_the_connection(port: int) -> None:
    twofold = HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
    answer = await exchange(port, twofold + NEXT)
    assert answer.endswith(b"whole|")
    assert b"connection: close" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_an_honest_body_keeps_the_connection(port: int) -> None:
    answer = await exchange(port, HEAD + b"Content-Length: 5\r\n\r\nwhole" + NEXT)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"whole|5" in answer
    assert answer.endswith(b"next|4")


@pytest.mark.parametrize(
    "bad",
    [b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
)
async def test_other_broken_framing_is_still_refused(port: int, bad: bytes) -> None:
    answer = await exchange(port, HEAD + bad)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""


@pytest.mark.parametrize("size", [0, 5, 300_000], ids=["empty", "small", "more than is read ahead"])
async def test_a_request_whose_client_goes_away_is_cancelled_at_once(size: int) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    tasks: list[int] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await read_body(scope, receive)
        try:
            before = len(asyncio.all_tasks())
            async with DisconnectWatcher(scope, receive):
                tasks.append(len(asyncio.all_tasks()) - before)
                begun.set()
                await asyncio.Event().wait()
        except RequestCanceled:
            ended.set()

    async with serving(endpoint) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        await asyncio.wait_for(begun.wait(), 30)
        writer.close()
        await asyncio.wait_for(ended.wait(), 30)
    assert tasks == [0]


async def test_who_has_gone_before_the_work_begins_is_noticed_too() -> None:
    here, gone, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await read_body(scope, receive)
        here.set()
        await gone.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            async with DisconnectWatcher(scope, receive):
                await asyncio.Event().wait()
        except RequestCanceled:
            ended.set()

    async with serving(endpoint) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"Content-Length: 2\r\n\r\nab")
        await asyncio.wait_for(here.wait(), 30)
        writer.close()
        gone.set()
        await asyncio.wait_for(ended.wait(), 30)


async def test_the_end_of_an_answer_is_no_client_that_goes_away() -> None:
    cancelled: list[str] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(scope, receive)
        try:
            async with DisconnectWatcher(scope, receive) as watcher:
                await asyncio.sleep(0)
                watcher.stop()
                await send_json(send, 200, body)
                await asyncio.sleep(0.01)
        except RequestCanceled:
            cancelled.append(body.decode())

    async with serving(endpoint) as port:
        answer = await exchange(port, HEAD + b"Content-Length: 5\r\n\r\nwhole" + NEXT)
    assert answer.endswith(b"next")
    assert b"whole" in answer
    assert not cancelled
