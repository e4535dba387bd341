"""The client against a golden server: whatever the splits, texts, counts and order come back exactly."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import time

import pytest

from vllama.bench import kernel_stamps
from vllama.bench.client import Connection, Exchange, fetch
from vllama.bench.dialects import Reply, greedy_request, lines, read_reply, sse_data
from vllama.bench.framing import Framer, HttpError
from vllama.bench.golden import GoldenServer, PlayedModel, Script, Shape, Split

WORDS = ("Grüße", " 東京", " 🙂", " plain", ' "quoted"\n', " data: x", " 0\r\n\r\n", " …")


async def ask(script: Script) -> tuple[Exchange, Reply, GoldenServer]:
    async with GoldenServer(script) as server:
        path, body = greedy_request("ollama", "m", "p", 8, stream=True)
        exchange = await fetch(server.port, path, body, timeout=20)
    return exchange, read_reply(exchange), server


@pytest.mark.parametrize("split", ["event", "byte", "pairs", "odd"])
@pytest.mark.parametrize("shape", ["ndjson", "sse", "sse-crlf"])
@pytest.mark.parametrize("chunked", [True, False])
async def test_words_counts_and_order_survive_any_split(shape: Shape, split: Split, chunked: bool) -> None:
    exchange, reply, server = await ask(Script(WORDS, shape, split, chunked=chunked, role_chunk=True))
    assert exchange.error == ""
    assert reply.error == ""
    assert [text for _, text in reply.texts] == list(WORDS)
    assert (reply.n_prompt, reply.n_out, reply.finish) == (5, len(WORDS), "length")
    times = [time for time, _ in reply.texts]
    assert times == sorted(times)
    # Same clock on both ends: no text may seem to arrive before its last byte was handed to the socket.
    sent = server.served[0].sent
    assert len(sent) == len(WORDS)
    assert all(arrived > left for arrived, left in zip(times, sent, strict=True))
    assert exchange.t_sent < exchange.t_headers <= times[0]
    assert times[-1] <= exchange.t_end


async def test_role_chunk_is_an_event_but_no_text() -> None:
    _, with_role, _ = await ask(Script(("a", "b"), "sse", role_chunk=True, gap=0.01))
    _, without, _ = await ask(Script(("a", "b"), "sse", gap=0.01))
    assert with_role.events == without.events + 1
    assert with_role.texts[0][1] == "a"
    assert with_role.t_first_event < with_role.texts[0][0]


async def test_scripted_gaps_keep_texts_apart() -> None:
    _, reply, server = await ask(Script(WORDS[:4], gap=0.005))
    sent = server.served[0].sent
    for (arrived, _), next_sent in zip(reply.texts, sent[1:], strict=False):
        assert arrived < next_sent


async def test_two_events_in_one_write_share_one_arrival() -> None:
    _, reply, _ = await ask(Script(("a", "b", "c", "d"), split="pairs", gap=0.01))
    times = [time for time, _ in reply.texts]
    assert times[0] == times[1] < times[2] == times[3]


async def test_single_json_reply() -> None:
    exchange, reply, _ = await ask(Script(WORDS, "json", "odd"))
    assert reply.text == "".join(WORDS)
    assert reply.n_out == len(WORDS)
    assert reply.native == {"eval_duration": 7}
    assert json.loads(exchange.body)["done"] is True


async def test_keep_alive_uses_one_connection() -> None:
    async with GoldenServer(Script(("a",))) as server:
        connection = Connection(server.port)
        path, body = greedy_request("ollama", "m", "p", 1, stream=True)
        first = await connection.request(path, body, timeout=20)
        second = await connection.request(path, body, timeout=20)
        assert connection.no_delay
        connection.close()
    assert (first.reused, second.reused) == (False, True)
    assert [served.connection for served in server.served] == [1, 1]


async def test_error_line_in_a_stream_is_an_error_with_the_text_so_far() -> None:
    _, reply, _ = await ask(Script(("a", "b", "c"), fail_after=2))
    assert reply.error == "scripted failure"
    assert reply.text == "ab"


@pytest.mark.parametrize("shape", ["ndjson", "sse"])
async def test_hang_up_is_an_error(shape: Shape) -> None:
    exchange, reply, _ = await ask(Script(("a", "b", "c"), shape, hang_up_after=2))
    assert "closed in the middle" in exchange.error
    assert reply.error == exchange.error
    assert exchange.t_end > exchange.t_sent


async def test_hang_up_of_an_unframed_stream_is_noticed_by_the_missing_end() -> None:
    _, reply, _ = await ask(Script(("a", "b", "c"), hang_up_after=2, chunked=False))
    assert reply.error == "the stream ended without a last event"


async def test_timeout_is_an_error_and_the_connection_is_dropped() -> None:
    async with GoldenServer(Script(("a", "b"), gap=30)) as server:
        connection = Connection(server.port)
        path, body = greedy_request("ollama", "m", "p", 2, stream=True)
        exchange = await connection.request(path, body, timeout=0.3)
        assert exchange.error == "timeout after 0.3 s"
        assert not connection.is_open
    assert read_reply(exchange).text == "a"


async def test_nobody_listens() -> None:
    exchange = await fetch(1, "/", timeout=5)
    assert exchange.error.startswith("cannot connect")
    assert read_reply(exchange).error == exchange.error


async def test_error_status_is_an_error_with_its_text() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 503 Busy\r\nContent-Length: 16\r\n\r\n{"error":"busy"}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        reply = read_reply(await fetch(server.sockets[0].getsockname()[1], "/"))
    assert reply.error == 'HTTP 503: {"error":"busy"}'


RESPONSE = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;ext=1\r\nhe\r\nl\r\n3\r\n0\r\n\r\n0\r\nTrailer: t\r\n\r\n"
)


@pytest.mark.parametrize("cut", range(1, len(RESPONSE)))
def test_framer_takes_any_cut(cut: int) -> None:
    framer = Framer()
    body = framer.feed(RESPONSE[:cut])
    assert not framer.done
    body += framer.feed(RESPONSE[cut:])
    assert framer.done
    assert body == b"he\r\nl0\r\n"
    assert framer.headers == {"x": "y", "transfer-encoding": "chunked"}


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ],
)
def test_framer_refuses_broken_http(raw: bytes) -> None:
    with pytest.raises(HttpError):
        Framer().feed(raw)


def test_lines_and_events_at_every_cut() -> None:
    raw = b"data: a\r\ndata: b\r\n\r\n: note\r\nevent: x\r\ndata:c\r\n\r\n"
    for cut in range(len(raw)):
        pieces = [(1, raw[:cut]), (2, raw[cut:])]
        assert [data for _, data in sse_data(pieces)] == [b"a\nb", b"c"]
        assert [line for _, line in lines(pieces)][:2] == [b"data: a", b"data: b"]
    assert list(lines([(1, b"x"), (3, b"y")])) == [(3, b"xy")]


def test_llama_server_and_openai_replies() -> None:
    native = [
        {"content": "a", "stop": False},
        {
            "content": "",
            "stop": True,
            "stop_type": "limit",
            "tokens_predicted": 1,
            "timings": {"cache_n": 2, "prompt_n": 7, "predicted_ms": 1.5},
        },
    ]
    reply = read_reply(exchange_of(native))
    assert (reply.text, reply.n_prompt, reply.n_cached, reply.n_out, reply.finish) == ("a", 9, 2, 1, "length")
    assert reply.native == {"eval_duration": 1_500_000}
    chat = [
        {"object": "chat.completion.chunk", "choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]},
    ]
    reply = read_reply(exchange_of(chat))
    assert reply.text == "hmok"
    assert reply.error == "the stream ended without a last event"


def exchange_of(events: list[dict[str, object]]) -> Exchange:
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    pieces = list(zip(itertools.count(1), [body[:9], body[9:]]))
    return Exchange(status=200, headers={"content-type": "text/event-stream"}, pieces=pieces)


def test_requests_ask_for_the_same_thing_in_each_dialect() -> None:
    path, raw = greedy_request("ollama", "m", "p", 9, stream=True, options={"num_ctx": 64})
    body = json.loads(raw)
    assert (path, body["raw"], body["options"]["num_predict"], body["options"]["num_ctx"]) == (
        "/api/generate",
        True,
        9,
        64,
    )
    path, raw = greedy_request("llama-server", "m", "p", 9, stream=False)
    body = json.loads(raw)
    assert (path, body["n_predict"], body["stream"], body["temperature"]) == ("/completion", 9, False, 0)
    path, raw = greedy_request("openai", "m", "p", 9, stream=False)
    assert (path, "stream_options" in json.loads(raw)) == ("/v1/completions", False)


async def test_kernel_stamps_are_used_where_the_system_has_them_and_lie_between_sending_and_reading() -> None:
    script = Script(WORDS, "sse", gap=0.002)
    async with GoldenServer(script) as server:
        path, body = greedy_request("openai", "m", "p", 8, stream=True)
        plain = Connection(server.port, kernel_stamps=False)
        best = Connection(server.port)
        exchanges = [await connection.request(path, body, timeout=20) for connection in (plain, best)]
        plain.close()
        best.close()
    assert exchanges[0].stamps == "loop"
    assert exchanges[0].lags == []
    for exchange, served in zip(exchanges, server.served, strict=True):
        reply = read_reply(exchange)
        assert reply.text == "".join(WORDS)
        assert all(arrived > left for (arrived, _), left in zip(reply.texts, served.sent, strict=True))
    if exchanges[1].stamps == "kernel":
        assert len(exchanges[1].lags) >= len(exchanges[1].pieces)
        assert min(exchanges[1].lags) >= 0


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_stamp_from_before_a_change_of_the_wall_clock_is_refused(ahead_s: int) -> None:
    now = time.monotonic_ns()
    begun = now - 1_000_000_000
    data = struct.pack("@qq", *divmod(time.time_ns() + ahead_s * 10**9, 10**9))
    assert kernel_stamps.stamp([(socket.SOL_SOCKET, 35, data)], begun, now) == 0


def test_a_good_stamp_is_on_the_monotonic_clock() -> None:
    begun = time.monotonic_ns()
    data = struct.pack("@qq", *divmod(time.time_ns(), 10**9))
    time.sleep(0.001)
    now = time.monotonic_ns()
    assert 0 < kernel_stamps.stamp([(socket.SOL_SOCKET, 35, data)], begun - 10_000_000, now) <= now
    assert kernel_stamps.stamp([], begun, now) == 0


async def test_several_events_in_one_read_are_marked() -> None:
    exchange, _, _ = await ask(Script(("a", "b", "c", "d"), split="pairs", gap=0.01))
    assert len(exchange.coalesced) >= 2
    exchange, _, _ = await ask(Script(("a", "b", "c", "d"), split="pairs", gap=0.01, chunked=False))
    assert len(exchange.coalesced) >= 2


@pytest.mark.parametrize("shape", ["ndjson", "sse"])
async def test_cancel_hangs_up_after_so_many_events_and_the_server_notices(shape: Shape) -> None:
    async with GoldenServer(Script(("a", "b", "c", "d", "e"), shape, gap=0.02)) as server:
        connection = Connection(server.port)
        path, body = greedy_request("ollama", "m", "p", 5, stream=True)
        exchange = await connection.request(path, body, timeout=20, cancel_after=2)
        assert not connection.is_open
        for _ in range(2000):
            if server.served[0].cut:
                break
            await asyncio.sleep(0.005)
        assert server.served[0].cut
    reply = read_reply(exchange)
    assert (exchange.cancelled, exchange.error, reply.error) == (True, "", "")
    assert reply.text.startswith("ab")
    assert server.served[0].words < 5
    assert exchange.t_end >= exchange.pieces[-1][0]


async def test_fresh_connections_are_never_reused() -> None:
    async with GoldenServer(Script(("a",))) as server:
        connection = Connection(server.port, keep_alive=False)
        path, body = greedy_request("ollama", "m", "p", 1, stream=True)
        exchanges = [await connection.request(path, body, timeout=20) for _ in range(3)]
        assert not connection.is_open
    assert [exchange.reused for exchange in exchanges] == [False] * 3
    assert [served.connection for served in server.served] == [1, 2, 3]
    assert all(0 < e.t_connect <= e.t_connected <= e.t_sent <= e.t_written for e in exchanges)
    assert connection.no_delay


async def test_a_body_bigger_than_the_socket_buffer_arrives_whole() -> None:
    prompt = "word " * 2_000_000
    async with GoldenServer(Script(("a",))) as server:
        path, body = greedy_request("ollama", "m", prompt, 1, stream=True)
        exchange = await fetch(server.port, path, body, timeout=60)
    assert exchange.error == ""
    assert server.served[0].body["prompt"] == prompt


async def test_a_played_model_answers_the_same_prompt_alike_and_admits_its_prefix_cache() -> None:
    replies = []
    async with GoldenServer(PlayedModel()) as server:
        for prompt in ("one two three", "one two four", "one two three", "two"):
            path, body = greedy_request("ollama", "m", prompt, 6, stream=True)
            replies.append(read_reply(await fetch(server.port, path, body)))
    assert [(r.n_prompt, r.n_cached, r.n_out) for r in replies] == [(3, 0, 6), (3, 2, 6), (3, 3, 6), (1, 0, 6)]
    assert replies[0].text == replies[2].text != replies[1].text
