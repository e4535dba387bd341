"""What the bodies mean: requests to, and replies from, each API that the harness speaks.

Parsing happens after the slot, from the stamped pieces of an `Exchange`. An event's time is the arrival of
the read that completed it. Token counts come from the server; a chunk is never taken for a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vllama.bench.client import Exchange

Api = Literal["ollama", "llama-server", "openai"]


@dataclass(slots=True)
class Reply:
    """What one response said. Times in ns on the client's clock; -1 = the server did not say.

    `texts` are the times and texts of the events that carried non-empty text, thinking included.
    `native` are the server's own durations in ns. `events` counts events of any kind. `vectors` and `dimensions` are
    the number of embeddings and the length of each.
    """

    texts: list[tuple[int, str]] = field(default_factory=list)
    events: int = 0
    t_first_event: int = 0
    n_prompt: int = -1
    n_cached: int = -1
    n_out: int = -1
    finish: str = ""
    native: dict[str, int] = field(default_factory=dict)
    vectors: int = 0
    dimensions: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        """All text in order."""
        return "".join(text for _, text in self.texts)


def greedy_request(
    api: Api, model: str, prompt: str, n_out: int, *, stream: bool, options: dict[str, Any] | None = None
) -> tuple[str, bytes]:
    """(path, body) that asks for `n_out` tokens after exactly this prompt text, sampling greedily.

    Every adapter says the same in its own words: no template, temperature 0, top_k 1, no penalties, seed 0.
    `options` are extra options in the API's own words, such as the context length: in Ollama's `options`, for the
    others at the top level.
    """
    if api == "ollama":
        body = _ollama(model, n_out, stream, options)
        return "/api/generate", _encode({**body, "prompt": prompt, "raw": True})
    if api == "llama-server":
        body = {"prompt": prompt, "stream": stream, **_GREEDY, "n_predict": n_out, **(options or {})}
        return "/completion", _encode(body)
    return "/v1/completions", _encode({**_openai(model, n_out, stream, options), "prompt": prompt})


def chat_request(
    api: Api,
    model: str,
    messages: Sequence[dict[str, Any]],
    n_out: int,
    *,
    stream: bool,
    options: dict[str, Any] | None = None,
) -> tuple[str, bytes]:
    """Like `greedy_request`, for a conversation: the server applies the model's template."""
    if api == "ollama":
        return "/api/chat", _encode({**_ollama(model, n_out, stream, options), "messages": list(messages)})
    extra = _GREEDY if api == "llama-server" else {}
    body = {**_openai(model, n_out, stream, None), **extra, **(options or {}), "messages": list(messages)}
    return "/v1/chat/completions", _encode(body)


def constrained_request(
    api: Api,
    model: str,
    messages: Sequence[dict[str, Any]],
    schema: dict[str, Any],
    n_out: int,
    *,
    stream: bool,
    options: dict[str, Any] | None = None,
) -> tuple[str, bytes]:
    """`chat_request` for an answer that follows a JSON schema and ends when it is complete."""
    if api == "ollama":
        body = {**_ollama(model, n_out, stream, options), "messages": list(messages), "format": schema}
        return "/api/chat", _encode(body)
    if api == "llama-server":
        form: dict[str, Any] = {"json_schema": schema}
    else:
        form = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            }
        }
    return chat_request(api, model, messages, n_out, stream=stream, options={**form, **(options or {})})


def embed_request(
    api: Api, model: str, inputs: Sequence[str], *, options: dict[str, Any] | None = None
) -> tuple[str, bytes]:
    """(path, body) for the embeddings of several texts in one request."""
    body: dict[str, Any] = {"model": model, "input": list(inputs)}
    if api == "ollama":
        return "/api/embed", _encode({**body, "options": options} if options else body)
    return "/v1/embeddings", _encode(body)


_GREEDY: dict[str, Any] = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "seed": 0}


def _ollama(model: str, n_out: int, stream: bool, options: dict[str, Any] | None) -> dict[str, Any]:
    return {"model": model, "stream": stream, "options": {**_GREEDY, "num_predict": n_out, **(options or {})}}


def _openai(model: str, n_out: int, stream: bool, options: dict[str, Any] | None) -> dict[str, Any]:
    body = {"model": model, "stream": stream, "temperature": 0, "seed": 0, "max_tokens": n_out, **(options or {})}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


CACHED_HEADER = "x-vllama-cached-tokens"
"""Ollama's API has no field for them; vLLama says them beside it (docs/http.md)."""


def lines(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(arrival, line) for each line, without its LF or CRLF; split anywhere; a last line without LF counts."""
    held = bytearray()
    arrival = 0
    for arrival, piece in pieces:
        held += piece
        if b"\n" not in piece:
            continue
        *whole, rest = bytes(held).split(b"\n")
        for line in whole:
            yield arrival, line.removesuffix(b"\r")
        held = bytearray(rest)
    if held:
        yield arrival, bytes(held).removesuffix(b"\r")


def sse_data(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """(arrival, data) of each server-sent event; several data lines are joined, comments and other fields dropped."""
    data: list[bytes] = []
    last = 0
    for arrival, line in lines(pieces):
        last = arrival
        if not line:
            if data:
                yield arrival, b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"error:"):  # llama-server's own way to end a stream that failed
            data.append(line[6:].removeprefix(b" "))
    if data:
        yield last, b"\n".join(data)


def read_reply(exchange: Exchange) -> Reply:
    """The reply in an exchange: Ollama's NDJSON, SSE of llama-server or OpenAI, or one JSON object."""
    reply = Reply()
    if exchange.error:
        reply.error = exchange.error
    if exchange.status not in (0, 200):
        text = exchange.body.decode("utf-8", "replace")[:300]
        reply.error = reply.error or f"HTTP {exchange.status}: {text}"
        return reply
    is_sse = "event-stream" in exchange.headers.get("content-type", "")
    source = sse_data(exchange.pieces) if is_sse else lines(exchange.pieces)
    ended = choices = False
    for arrival, raw in source:
        if not raw.strip():
            continue
        if raw == b"[DONE]":
            ended = True
            continue
        try:
            event = json.loads(raw)
        except ValueError:
            # A reader that hangs up leaves half a line.
            if not exchange.cancelled:
                reply.error = reply.error or f"not JSON: {raw[:80]!r}"
            continue
        if not isinstance(event, dict):
            reply.error = reply.error or f"not an object: {raw[:80]!r}"
            continue
        reply.events += 1
        reply.t_first_event = reply.t_first_event or arrival
        choices = choices or bool(event.get("choices"))
        ended = _read_event(reply, arrival, event) or ended
    if reply.n_cached < 0 and (said := exchange.headers.get(CACHED_HEADER, "")).isdecimal():
        reply.n_cached = int(said)
    if not reply.error and not exchange.cancelled:
        if not ended:
            reply.error = "the stream ended without a last event"
        elif choices and not reply.finish:
            # OpenAI's API names a reason in the last event of every whole answer; [DONE] alone may follow half of one.
            reply.error = f"the answer was cut after {len(reply.texts)} events: no finish_reason"
    return reply


def _read_event(reply: Reply, arrival: int, event: dict[str, Any]) -> bool:
    """Adds one event to the reply; True if it is the last one of its API."""
    if event.get("error"):
        error = event["error"]
        reply.error = str(error.get("message", error) if isinstance(error, dict) else error)
        return True
    if "choices" in event:
        return _read_openai(reply, arrival, event)
    if "embeddings" in event:
        return _read_vectors(reply, event["embeddings"], event.get("prompt_eval_count", -1))
    if "data" in event:
        rows = [row.get("embedding") or [] for row in event["data"]]
        return _read_vectors(reply, rows, (event.get("usage") or {}).get("prompt_tokens", -1))
    if "content" in event:
        return _read_llama_server(reply, arrival, event)
    return _read_ollama(reply, arrival, event)


def _read_vectors(reply: Reply, rows: list[list[Any]], n_prompt: int) -> bool:
    reply.vectors = len(rows)
    reply.dimensions = min((len(row) for row in rows), default=0)
    reply.n_prompt = n_prompt
    if rows and not reply.dimensions:
        reply.error = "an embedding is empty"
    return True


def _read_ollama(reply: Reply, arrival: int, event: dict[str, Any]) -> bool:
    message = event.get("message") or {}
    text = (event.get("thinking") or message.get("thinking") or "") + (
        event.get("response") or message.get("content") or ""
    )
    if text:
        reply.texts.append((arrival, text))
    if not event.get("done"):
        return False
    reply.finish = event.get("done_reason", "")
    reply.n_prompt = event.get("prompt_eval_count", -1)
    reply.n_cached = event.get("prompt_eval_cached_count", -1)
    reply.n_out = event.get("eval_count", -1)
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        if name in event:
            reply.native[name] = event[name]
    return True


def _read_llama_server(reply: Reply, arrival: int, event: dict[str, Any]) -> bool:
    if event["content"]:
        reply.texts.append((arrival, event["content"]))
    if not event.get("stop"):
        return False
    timings = _read_timings(reply, event)
    reply.finish = {"limit": "length", "eos": "stop", "word": "stop"}.get(event.get("stop_type", ""), "")
    # `prompt_n` counts processed tokens only; the prompt's length includes the cached ones.
    if "prompt_n" in timings:
        reply.n_prompt = timings["prompt_n"] + max(0, reply.n_cached)
    reply.n_out = event.get("tokens_predicted", timings.get("predicted_n", -1))
    return True


def _read_timings(reply: Reply, event: dict[str, Any]) -> dict[str, Any]:
    """llama-server's own numbers, which it adds to the last event of every API."""
    timings: dict[str, Any] = event.get("timings") or {}
    reply.n_cached = timings.get("cache_n", reply.n_cached)
    for ours, theirs in (("prompt_eval_duration", "prompt_ms"), ("eval_duration", "predicted_ms")):
        if theirs in timings:
            reply.native[ours] = round(timings[theirs] * 1e6)
    return timings


def _read_openai(reply: Reply, arrival: int, event: dict[str, Any]) -> bool:
    for choice in event["choices"]:
        delta = choice.get("delta") or choice.get("message") or {}
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
        text = thinking + (delta.get("content") or choice.get("text") or "")
        if text:
            reply.texts.append((arrival, text))
        reply.finish = choice.get("finish_reason") or reply.finish
    if usage := event.get("usage"):
        reply.n_prompt = usage.get("prompt_tokens", -1)
        reply.n_out = usage.get("completion_tokens", -1)
        details = usage.get("prompt_tokens_details") or {}
        reply.n_cached = details.get("cached_tokens", reply.n_cached)
    _read_timings(reply, event)
    # A stream ends with [DONE]; an answer in one piece is whole when it says why it ended.
    whole = event.get("object") in ("chat.completion", "text_completion")
    return whole and bool(usage or (event["choices"] and "message" in event["choices"][0]))
