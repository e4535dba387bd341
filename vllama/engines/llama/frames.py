"""What travels between the gateway and a worker: msgpack messages, each after its length in four bytes.

Messages are arrays with a tag in front (no field names on the wire). Request ids are chosen by the gateway and
never used twice. The worker sends one `Step` for each engine step with the news of all sequences in it.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from vllama.engines.base import Layers

MAX_FRAME = 256 * 1024 * 1024
"""Bytes; a longer frame means that the two sides lost each other."""

HEADER = struct.Struct("<I")


class Frame(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Base of all messages."""


# From the gateway


class Load(Frame):
    """First message. `live` sequences at most run at once; None and -1 mean the library's choice.

    `prefix_dir`: where prefix cache is kept between runs, at most `prefix_bytes` of it; "" for nowhere. `gpu_layers`
    -1: as many as fit, which `layers` tells.
    """

    path: str
    adapters: list[str]
    cells: int
    live: int
    batch: int
    gpu_layers: int
    main_gpu: int
    threads: int
    mmap: bool | None
    flash_attention: bool | None
    kv_cache_type: str
    debug: bool
    prefix_dir: str = ""
    prefix_bytes: int = 0
    mlock: bool = False
    layers: Layers | None = None
    chunk: int = 128


class Submit(Frame):
    """Start a generation; the fields are those of `base.Generation` and `base.Sampling`."""

    id: int
    prompt: str | None
    tokens: list[int] | None
    num_ctx: int
    num_predict: int
    num_keep: int
    stop: list[str]
    truncate: bool
    shift: bool
    top_logprobs: int | None
    want_ids: bool
    gbnf: str | None
    after: str | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    logit_bias: list[tuple[int, float]]
    control: list[str] = []


class Cancel(Frame):
    """The client went away; unknown ids are ignored."""

    id: int


class Pause(Frame):
    """The client reads too slowly: decode nothing more for it until `Resume`."""

    id: int


class Resume(Frame):
    """See `Pause`."""

    id: int


class Tokenize(Frame):
    """Answered by `Answer` with the ids; `limit` > 0: that many and one more are enough."""

    id: int
    text: str
    add_special: bool
    limit: int = 0


class Detokenize(Frame):
    """Answered by `Answer` with the text."""

    id: int
    tokens: list[int]


class Embed(Frame):
    """Answered by `Answer` with (vectors, width, prompt tokens); the fields are those of `base.Embedding`."""

    id: int
    inputs: list[str]
    num_ctx: int
    limit: int
    truncate: bool


class Threads(Frame):
    """Use so many threads from the next step on."""

    count: int


class Stats(Frame):
    """Answered by `Answer` with a dict."""

    id: int


class Shutdown(Frame):
    """Leave at once."""


# From the worker


class Progress(Frame):
    """0.0 to 1.0 while the model loads."""

    done: float


class Ready(Frame):
    """The model is loaded; the fields are those of `base.ModelFacts`."""

    train_ctx: int
    vocab_size: int
    size: int
    size_vram: int
    bos: str
    eos: str
    can_shift: bool
    can_embed: bool
    description: str


class LoadFailed(Frame):
    """The model cannot be loaded; `reason` is one line."""

    reason: str


class Step(Frame):
    """What one engine step brought, in this order for each id.

    started: (id, prompt_tokens, cached_tokens, truncated_tokens)
    texts: (id, text, tokens, logprobs or None); a logprob is (token, logprob, raw or None, [(token, logprob, raw)])
    finished: (id, reason, prompt_tokens, cached_tokens, output_tokens, prompt_ns, decode_ns, prompt_ids, output_ids)
    failed: (id, kind, text, prompt_tokens, num_ctx); kind "too_long", "request", "empty" (no tokens) or "server"
    """

    started: list[tuple[int, int, int, int]]
    texts: list[tuple[int, str, int, list[Any] | None]]
    finished: list[tuple[int, str, int, int, int, int, int, list[int], list[int]]]
    failed: list[tuple[int, str, str, int, int]]


class Answer(Frame):
    """The reply to `Tokenize`, `Detokenize`, `Embed` or `Stats`; `error` is set when there is none."""

    id: int
    value: Any
    error: str | None = None
    kind: str = "request"


ToWorker = Load | Submit | Cancel | Pause | Resume | Tokenize | Detokenize | Embed | Threads | Stats | Shutdown
ToGateway = Progress | Ready | LoadFailed | Step | Answer

_encoder = msgspec.msgpack.Encoder()


def pack(frame: Frame) -> bytes:
    """The frame with its length in front."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into frames' bodies. Raises ValueError for a length that cannot be right."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies that are complete now."""
        if not self._buffer and len(data) >= 4 and HEADER.unpack_from(data)[0] == len(data) - 4:
            return [data[4:]]
        buffer = self._buffer
        buffer += data
        bodies = []
        start = 0
        while len(buffer) - start >= 4:
            size = HEADER.unpack_from(buffer, start)[0]
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            if len(buffer) - start - 4 < size:
                break
            bodies.append(bytes(buffer[start + 4 : start + 4 + size]))
            start += 4 + size
        del buffer[:start]
        return bodies
