"""The same question in each API's words, and the answers of each, as the servers really send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllama.bench.client import Exchange
from vllama.bench.dialects import (
    Api,
    chat_request,
    constrained_request,
    embed_request,
    greedy_request,
    read_reply,
)

APIS: tuple[Api, ...] = ("ollama", "llama-server", "openai")
MESSAGES = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def body_of(request: tuple[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request[1])
    return found


def exchange(*events: object, kind: str = "application/json", cancelled: bool = False) -> Exchange:
    """A response of these events (bytes as they are), one read each, 10 ns apart."""
    made = Exchange(t_sent=1, status=200, headers={"content-type": kind}, cancelled=cancelled)
    for number, event in enumerate(events, 1):
        raw = event if isinstance(event, bytes) else json.dumps(event).encode()
        if "event-stream" in kind:
            raw = b"data: " + raw + b"\n\n"
        made.pieces.append((number * 10, raw + b"\n"))
    return made


def sse(*events: object, cancelled: bool = False) -> Exchange:
    return exchange(*events, kind="text/event-stream; charset=utf-8", cancelled=cancelled)


def test_paths() -> None:
    assert [greedy_request(api, "m", "p", 4, stream=True)[0] for api in APIS] == [
        "/api/generate",
        "/completion",
        "/v1/completions",
    ]
    assert [chat_request(api, "m", MESSAGES, 4, stream=True)[0] for api in APIS] == [
        "/api/chat",
        "/v1/chat/completions",
        "/v1/chat/completions",
    ]
    assert [embed_request(api, "m", ["a", "b"])[0] for api in APIS] == [
        "/api/embed",
        "/v1/embeddings",
        "/v1/embeddings",
    ]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [True, False])
def test_every_request_samples_greedily(api: Api, stream: bool) -> None:
    for request in (
        greedy_request(api, "m", "p", 4, stream=stream),
        chat_request(api, "m", MESSAGES, 4, stream=stream),
        constrained_request(api, "m", MESSAGES, SCHEMA, 4, stream=stream),
    ):
        body = body_of(request)
        said = body.get("options", body)
        assert (said["temperature"], said["seed"]) == (0, 0)
        assert 4 in (said.get("num_predict"), said.get("n_predict"), said.get("max_tokens"))
        assert body["stream"] is stream
        if api != "openai":
            assert (said["top_k"], said["repeat_penalty"]) == (1, 1.0)
        # Without it, OpenAI's streams carry no token counts.
        counted = body.get("stream_options") == {"include_usage": True}
        assert counted == (stream and "max_tokens" in body)


def test_options_go_where_the_api_has_them() -> None:
    assert (
        body_of(greedy_request("ollama", "m", "p", 4, stream=True, options={"num_ctx": 9}))["options"]["num_ctx"] == 9
    )
    for api in APIS[1:]:
        assert body_of(greedy_request(api, "m", "p", 4, stream=True, options={"top_k": 7}))["top_k"] == 7
        assert body_of(chat_request(api, "m", MESSAGES, 4, stream=True, options={"top_k": 7}))["top_k"] == 7
    assert body_of(embed_request("ollama", "m", ["a"], options={"num_ctx": 9}))["options"] == {"num_ctx": 9}


def test_each_api_has_its_own_word_for_a_schema() -> None:
    bodies = {api: body_of(constrained_request(api, "m", MESSAGES, SCHEMA, 40, stream=False)) for api in APIS}
    assert bodies["ollama"]["format"] == SCHEMA
    assert bodies["llama-server"]["json_schema"] == SCHEMA
    assert bodies["openai"]["response_format"]["json_schema"]["schema"] == SCHEMA
    assert all(body["messages"] == MESSAGES for body in bodies.values())


def test_chat_of_ollama() -> None:
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    counts = {"prompt_eval_count": 12, "eval_count": 3, "load_duration": 5, "eval_duration": 7}
    events = [
        {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"message": {"role": "assistant", "content": "Hi"}, "done": False},
        {**last, **counts},
    ]
    reply = read_reply(exchange(*events, kind="application/x-ndjson"))
    assert reply.texts == [(10, "hm"), (20, "Hi")]
    assert (reply.n_prompt, reply.n_out, reply.finish, reply.error) == (12, 3, "stop", "")
    assert reply.native == {"load_duration": 5, "eval_duration": 7}


def test_chat_of_llama_server_brings_its_own_timings() -> None:
    chunk = {"object": "chat.completion.chunk"}
    reply = read_reply(
        sse(
            {**chunk, "choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]},
            {**chunk, "choices": [{"delta": {"content": "Hello"}, "finish_reason": None}]},
            {**chunk, "choices": [{"delta": {}, "finish_reason": "length"}]},
            {
                **chunk,
                "choices": [],
                "usage": {"prompt_tokens": 33, "completion_tokens": 8},
                "timings": {"cache_n": 30, "prompt_n": 3, "prompt_ms": 1.5, "predicted_ms": 2.0},
            },
            b"[DONE]",
        )
    )
    assert reply.texts == [(20, "Hello")]
    assert (reply.n_prompt, reply.n_cached, reply.n_out, reply.finish, reply.error) == (33, 30, 8, "length", "")
    assert reply.native == {"prompt_eval_duration": 1_500_000, "eval_duration": 2_000_000}


def test_a_stream_that_was_cut_is_not_taken_for_a_short_answer() -> None:
    """llama_cpp.server ends a stream that it interrupts like a whole one, with [DONE]."""
    chunk = {"object": "text_completion"}
    texts = [{**chunk, "choices": [{"text": word, "finish_reason": None}]} for word in ("a", "b")]
    cut = read_reply(sse(*texts, b"[DONE]"))
    assert cut.error == "the answer was cut after 2 events: no finish_reason"
    assert cut.text == "ab"
    whole = read_reply(sse(*texts, {**chunk, "choices": [{"text": "", "finish_reason": "length"}]}, b"[DONE]"))
    assert (whole.error, whole.finish, whole.n_out) == ("", "length", -1)
    assert read_reply(sse(*texts)).error == "the stream ended without a last event"


def test_a_reader_that_hung_up_gets_what_came() -> None:
    reply = read_reply(
        exchange({"response": "a", "done": False}, b'{"respon', kind="application/x-ndjson", cancelled=True)
    )
    assert (reply.text, reply.error) == ("a", "")


@pytest.mark.parametrize("usage", [{}, {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}])
def test_chat_in_one_piece(usage: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "hm "}
    body = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}], **usage}
    reply = read_reply(exchange(body))
    assert (reply.text, reply.finish, reply.error) == ("hm Hi", "stop", "")
    assert reply.n_out == (2 if usage else -1)


def test_embeddings() -> None:
    native = read_reply(exchange({"model": "m", "embeddings": [[1, 2, 3], [4, 5, 6]], "prompt_eval_count": 7}))
    openai = read_reply(
        exchange({"data": [{"embedding": [1, 2]}, {"embedding": [3, 4]}], "usage": {"prompt_tokens": 7}})
    )
    assert (native.vectors, native.dimensions, native.n_prompt, native.error) == (2, 3, 7, "")
    assert (openai.vectors, openai.dimensions, openai.n_prompt, openai.error) == (2, 2, 7, "")
    assert read_reply(exchange({"embeddings": [[1], []]})).error == "an embedding is empty"
    refused = Exchange(status=501, pieces=[(1, b'{"error":"This server does not support embeddings."}')])
    assert "does not support embeddings" in read_reply(refused).error


def test_cached_tokens_of_ollamas_api_stand_in_a_header() -> None:
    last = {"response": "a", "done": True, "done_reason": "length", "prompt_eval_count": 9, "eval_count": 1}
    assert read_reply(exchange(last)).n_cached == -1
    answer = exchange(last)
    answer.headers["x-vllama-cached-tokens"] = "7"
    reply = read_reply(answer)
    assert (reply.n_cached, reply.n_prompt) == (7, 9)
    answer.headers["x-vllama-cached-tokens"] = "many"
    assert read_reply(answer).n_cached == -1
