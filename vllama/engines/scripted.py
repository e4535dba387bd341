"""A deterministic engine with known tokens and timings: for tests, and to calibrate the benchmark.

It answers with words drawn from a fixed list by a generator that is seeded with the prompt and the seed, one
word per token, a token every `step_us`. It never pretends to be a model: it runs only when it is asked
for by name (`--engine scripted`). Settings come from VLLAMA_SCRIPTED_* variables or a `Script`.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import struct
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from vllama.engines.base import (
    Embedding,
    EngineStats,
    Event,
    Finished,
    FinishReason,
    Generation,
    LoadOptions,
    Logprob,
    ModelFacts,
    ModelSource,
    Progress,
    Reason,
    Started,
    Text,
    Vectors,
)
from vllama.engines.fitting import INPUT_NOT_SHORTER, INPUT_TOO_LONG, cut_prompt
from vllama.engines.stopping import StopBuffer
from vllama.errors import EngineCrashed, PromptTooLong, RequestError

WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which "
    "one you were all her she there would their we him been has when who will no more if out so up said what its "
    "about than into them can only other time new some could these two may first then do any like my now over such "
    "naïve café señor über 東京 Привет λόγος 🙂 📈 — …"
).split()

WIDTH = 16
"""Numbers in a vector."""

_PIECES = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class Script:
    """Timings in microseconds, lengths in tokens. `length` is where the engine stops by itself."""

    load_us: int = 0
    prefill_us: int = 0
    step_us: int = 0
    length: int = 64
    train_ctx: int = 32768

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Script:
        """VLLAMA_SCRIPTED_LOAD_US, _PREFILL_US, _STEP_US and _LENGTH; anything else keeps its default."""

        def number(name: str, default: int) -> int:
            return int(environ.get(f"VLLAMA_SCRIPTED_{name}", default))

        plain = cls()
        return cls(
            load_us=number("LOAD_US", plain.load_us),
            prefill_us=number("PREFILL_US", plain.prefill_us),
            step_us=number("STEP_US", plain.step_us),
            length=number("LENGTH", plain.length),
        )


class ScriptedEngine:
    """See the module's docstring. Token ids are handed out in the order in which pieces are first seen."""

    name = "scripted"

    def __init__(self, source: ModelSource, options: LoadOptions | None = None, script: Script | None = None) -> None:
        self._source = source
        self._options = options or LoadOptions()
        self._script = script or Script.from_environ()
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []
        self._loaded = False
        self._closed = False
        self._active = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._output_tokens = 0

    @property
    def facts(self) -> ModelFacts:
        """Made-up but constant: no weights, no device."""
        return ModelFacts(
            train_ctx=self._script.train_ctx,
            vocab_size=max(1, len(self._pieces)),
            size=1,
            size_vram=0,
            bos="",
            eos="",
            can_shift=True,
            can_embed=True,
            description="scripted",
        )

    @property
    def threads(self) -> int:
        """It sleeps, it does not compute."""
        return 0

    def set_threads(self, count: int) -> None:
        """Nothing to share."""

    @property
    def alive(self) -> bool:
        """True between load and close."""
        return self._loaded and not self._closed

    async def load(self, progress: Progress | None = None) -> None:
        """Takes `load_us`."""
        if self._script.load_us:
            await asyncio.sleep(self._script.load_us / 1e6)
        if progress is not None:
            progress(1.0)
        self._loaded = True

    def _encode(self, text: str) -> list[int]:
        ids = []
        for piece in _PIECES.findall(text):
            known = self._ids.get(piece)
            if known is None:
                known = self._ids[piece] = len(self._pieces)
                self._pieces.append(piece)
            ids.append(known)
        return ids

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Deterministic words; see `Generation` for what cuts them."""
        return self._generate(request)

    async def _generate(self, request: Generation) -> AsyncIterator[Event]:
        began = time.monotonic_ns()
        ids = list(request.tokens) if request.tokens is not None else self._encode(request.prompt or "")
        ids, dropped = _fit(ids, request)
        if not ids:
            raise RequestError("the prompt is empty")
        self._active += 1
        try:
            self._prompt_tokens += len(ids)
            yield Started(len(ids), 0, dropped)
            wait = self._script.prefill_us * len(ids)
            if wait:
                await asyncio.sleep(wait / 1e6)
            draw = _Draw(zlib.crc32(repr((ids, request.sampling.seed)).encode()))
            stops = StopBuffer(request.stop)
            limit = request.num_predict if request.num_predict > 0 else 10 * request.num_ctx
            if not request.shift:
                limit = min(limit, request.num_ctx - len(ids))
            reason: FinishReason = "stop"
            out: list[int] = []
            first = 0
            pending = 0
            while not stops.stopped:
                if len(out) >= limit:
                    reason = "length"
                    break
                if len(out) >= self._script.length:
                    break
                await asyncio.sleep(self._script.step_us / 1e6)
                if self._closed:
                    raise EngineCrashed("the scripted engine was closed")
                word = WORDS[draw.below(len(WORDS))]
                piece = word if not out else " " + word
                out.extend(self._encode(piece)[:1])
                self._steps += 1
                self._output_tokens += 1
                pending += 1
                first = first or time.monotonic_ns()
                text = stops.feed(piece)
                if text:
                    yield Text(text, pending, _logprobs(piece, request.top_logprobs))
                    pending = 0
            rest = stops.flush()
            if rest:
                yield Text(rest, pending)
            now = time.monotonic_ns()
            first = first or now
            yield Finished(
                reason=reason,
                prompt_tokens=len(ids),
                cached_tokens=0,
                output_tokens=len(out),
                prompt_ns=first - began,
                decode_ns=now - first,
                prompt_ids=tuple(ids) if request.want_ids else (),
                output_ids=tuple(out) if request.want_ids else (),
            )
        finally:
            self._active -= 1

    async def embed(self, request: Embedding) -> Vectors:
        """Vectors that mean nothing and are always the same for the same words; made as if by a model, cut and all."""
        rows = []
        count = 0
        num_ctx = min(request.num_ctx, self._script.train_ctx)
        for text in request.inputs:
            pieces = _PIECES.findall(text)
            if len(pieces) > num_ctx:
                if not request.truncate:
                    raise RequestError(INPUT_TOO_LONG)
                pieces = pieces[:num_ctx]
            if request.limit and len(pieces) > request.limit:
                raise RequestError(INPUT_NOT_SHORTER if request.truncate else INPUT_TOO_LONG)
            count += max(1, len(pieces))
            draw = _Draw(zlib.crc32(repr(pieces).encode()))
            row = [draw.below(2001) / 1000 - 1 for _ in range(WIDTH)]
            length = math.sqrt(sum(value * value for value in row)) or 1.0
            rows.append(struct.pack(f"<{WIDTH}f", *(value / length for value in row)))
        if self._script.prefill_us:
            await asyncio.sleep(self._script.prefill_us * count / 1e6)
        if self._closed:
            raise EngineCrashed("the scripted engine was closed")
        self._prompt_tokens += count
        return Vectors(b"".join(rows), WIDTH, count)

    async def tokenize(self, text: str, *, add_special: bool = True, limit: int = 0) -> list[int]:
        """One id per word with the blanks before it."""
        ids = self._encode(text)
        return ids[: limit + 1] if limit else ids

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The pieces again; an id that was never handed out is an error."""
        try:
            return "".join(self._pieces[t] for t in tokens)
        except IndexError:
            raise RequestError("token id out of range") from None

    async def stats(self) -> EngineStats:
        """Counters since load."""
        return EngineStats(
            active=self._active,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            pid=os.getpid(),
        )

    async def close(self) -> None:
        """Running generations fail at their next token."""
        self._closed = True


def _fit(ids: list[int], request: Generation) -> tuple[list[int], int]:
    """The prompt cut to the context as `Generation` says, and how many tokens that dropped."""
    if len(ids) >= request.num_ctx and not request.truncate:
        raise PromptTooLong(
            f"the prompt has {len(ids)} tokens and the context only {request.num_ctx}",
            prompt_tokens=len(ids),
            context=request.num_ctx,
        )
    cut = cut_prompt(ids, num_ctx=request.num_ctx, num_keep=request.num_keep)
    return cut, len(ids) - len(cut)


def _logprobs(piece: str, top: int | None) -> tuple[Logprob, ...]:
    if top is None:
        return ()
    raw = piece.encode()
    return (Logprob(piece, 0.0, raw, tuple(Logprob(piece, 0.0, raw) for _ in range(min(top, 1)))),)


class _Draw:
    """A linear congruential generator: the same words on every platform and Python version."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed or 1

    def below(self, n: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        return (self._state >> 33) % n


def available() -> Reason:
    """Always there; never chosen by itself."""
    return Reason(True, "built in; runs only when asked for with --engine scripted")
