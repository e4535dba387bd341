"""What the bodies mean: requests to, and replies from, each API that the harness speaks.

Parsing happens after the slot, from the stamped pieces of an `Exchange`. An event's time is the arrival of
the read that completed it. Token counts come from the server; a chunk is never taken for a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from vllama.bench.client import Exchange

Api = Literal["ollama", "llama-server", "openai"]


@dataclass(slots=True)
class Reply:
    """What one response said. Times in ns on the client's clock; -1 = the server did not say.

    `texts` are the times and texts of the events that carried non-empty text, thinking included.
    `native` are the server's own durations in ns. `events` counts events of any kind.
    """

    texts: list[tuple[int, str]] = field(default_factory=list)
    events: int = 0
    t_first_event: int = 0
    n_prompt: int = -1
    n_cached: int = -1
    n_out: int = -1
    finish: str = ""
    native: dict[str, int] = field(default_factory=dict)
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
    `options` are extra native options (Ollama's API only), such as the context length.
    """
    if api == "ollama":
        sampling = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "seed": 0, "num_predict": n_out}
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "raw": True,
            "stream": stream,
            "options": {**sampling, **(options or {})},
        }
        return "/api/generate", _encode(body)
    if api == "llama-server":
        sampling = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "seed": 0, "n_predict": n_out}
        return "/completion", _encode({"prompt": prompt, "stream": stream, **sampling})
    body = {
        "model": model,
        "prompt": prompt,
        "stream": stream,
        "temperature": 0,
        "seed": 0,
        "max_tokens": n_out,
        "stream_options": {"include_usage": True},
    }
    if not stream:
        del body["stream_options"]
    return "/v1/completions", _encode(body)


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


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
    ended = False
    for arrival, raw in source:
        if not raw.strip():
            continue
        if raw == b"[DONE]":
            ended = True
            continue
        try:
            event = json.loads(raw)
        except ValueError:
            reply.error = reply.error or f"not JSON: {raw[:80]!r}"
            continue
        if not isinstance(event, dict):
            reply.error = reply.error or f"not an object: {raw[:80]!r}"
            continue
        reply.events += 1
        reply.t_first_event = reply.t_first_event or arrival
        ended = _read_event(reply, arrival, event) or ended
    if not ended and not reply.error:
        reply.error = "the stream ended without a last event"
    return reply


def _read_event(reply: Reply, arrival: int, event: dict[str, Any]) -> bool:
    """Adds one event to the reply; True if it is the last one of its API."""
    if "error" in event:
        error = event["error"]
        reply.error = str(error.get("message", error) if isinstance(error, dict) else error)
        return True
    if "choices" in event:
        return _read_openai(reply, arrival, event)
    if "content" in event:
        return _read_llama_server(reply, arrival, event)
    return _read_ollama(reply, arrival, event)


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
    timings = event.get("timings") or {}
    reply.finish = {"limit": "length", "eos": "stop", "word": "stop"}.get(event.get("stop_type", ""), "")
    reply.n_cached = timings.get("cache_n", -1)
    # `prompt_n` counts processed tokens only; the prompt's length includes the cached ones.
    if "prompt_n" in timings:
        reply.n_prompt = timings["prompt_n"] + max(0, reply.n_cached)
    reply.n_out = event.get("tokens_predicted", timings.get("predicted_n", -1))
    for ours, theirs in (("prompt_eval_duration", "prompt_ms"), ("eval_duration", "predicted_ms")):
        if theirs in timings:
            reply.native[ours] = round(timings[theirs] * 1e6)
    return True


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
        reply.n_cached = details.get("cached_tokens", -1)
    return event.get("object") in ("chat.completion", "text_completion") and bool(usage)
