"""`LlamaEngine`: the gateway's side of a llama worker. It never imports llama_cpp."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from vllama.engines.base import (
    Embedding,
    EngineStats,
    Event,
    Finished,
    Generation,
    LoadOptions,
    Logprob,
    ModelFacts,
    ModelSource,
    Progress,
    Started,
    Text,
    Vectors,
)
from vllama.engines.llama import frames
from vllama.engines.llama.stream import Stream
from vllama.engines.supervisor import Child
from vllama.errors import EngineCrashed, ModelLoadError, PromptTooLong, RequestError, ServerError, VllamaError

log = logging.getLogger("vllama.engines.llama")

LIVE = 8
"""Sequences that run at once when nobody says otherwise: on a CPU more of them bring no throughput."""

MAX_LIVE = 128
"""More bring nothing, and each has a memory of its own."""

BATCH = 512
"""Tokens in one step at most."""

CHUNK = 128
"""Prompt tokens in a step beside running decodes: larger chunks bring no throughput, only longer gaps."""

CELLS = 8192
"""KV cells to begin with; doubled when running requests need more. `LoadOptions.extra` "kv_cells" overrides it."""

LOST_GRACE_S = 1.0
"""Seconds between the end of the connection and the end of the worker."""

CRASHED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


class LlamaEngine:
    """One GGUF in one worker process. See `base.Engine`."""

    name = "llama"
    worker = "vllama.engines.llama.worker"

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        self._source = source
        self._options = options or LoadOptions()
        limit = float(dict(self._options.extra).get("step_limit_s", 0))
        self._child = Child(self.worker, "llama", step_limit=limit)
        self._link: _Link | None = None
        self._facts: ModelFacts | None = None
        self._ids = itertools.count(1)
        self._streams: dict[int, Stream] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[ModelFacts] | None = None
        self._progress: Progress | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self._threads = 0

    @property
    def facts(self) -> ModelFacts:
        """Valid after `load`."""
        assert self._facts is not None, "load() first"
        return self._facts

    @property
    def threads(self) -> int:
        """See `base.Engine`."""
        return self._threads

    @property
    def alive(self) -> bool:
        """Loaded, not closed, and the worker runs."""
        return self._facts is not None and self._link is not None and not self._closed

    @property
    def last_words(self) -> str:
        """The worker's last lines on stderr, for the log of whoever reports its death."""
        return self._child.last_words()

    async def load(self, progress: Progress | None = None) -> None:
        """Start the worker and let it load. Raises `ModelLoadError`; a cancelled load leaves no process."""
        path = os.fspath(self._source.path)
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        self._progress = progress
        threads = self._threads = self._options.num_thread or await asyncio.to_thread(_cores)
        try:
            connection = await self._child.start()
        except OSError as error:
            raise ModelLoadError(f"unable to load model: {path}: the worker cannot be started: {error}") from error
        try:
            connection.setblocking(False)
            _, self._link = await loop.create_connection(lambda: _Link(self._receive, self._lost), sock=connection)
            self._watcher = loop.create_task(self._watch())
            self._send(self._load_frame(path, threads))
            self._facts = await self._ready
        except BaseException:
            await self.close()
            raise
        finally:
            self._progress = None

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """See `base.Engine`. The request is sent now; reading the events may begin later."""
        number = next(self._ids)

        def close() -> None:
            if self._streams.pop(number, None) is not None and self._link is not None:
                self._send(frames.Cancel(number))

        def pause(on: bool) -> None:
            if self._link is not None:
                self._send(frames.Pause(number) if on else frames.Resume(number))

        stream = Stream(close, pause)
        if self._link is None or self._closed:
            stream.fail(EngineCrashed(CRASHED))
            return stream
        self._streams[number] = stream
        self._send(_submit(number, request))
        self._child.watch(self._busy)
        return stream

    async def embed(self, request: Embedding) -> Vectors:
        """See `base.Engine`."""
        number = next(self._ids)
        frame = frames.Embed(number, list(request.inputs), request.num_ctx, request.limit, request.truncate)
        try:
            return Vectors(*await self._ask(number, frame))
        except asyncio.CancelledError:
            if self._link is not None:
                self._send(frames.Cancel(number))
            raise

    async def tokenize(self, text: str, *, add_special: bool = True, limit: int = 0) -> list[int]:
        """See `base.Engine`."""
        number = next(self._ids)
        tokens: list[int] = await self._ask(number, frames.Tokenize(number, text, add_special, limit))
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """See `base.Engine`. Raises `RequestError` for ids outside the vocabulary."""
        number = next(self._ids)
        text: str = await self._ask(number, frames.Detokenize(number, list(tokens)))
        return text

    async def stats(self) -> EngineStats:
        """See `base.Engine`. Answered between two steps."""
        number = next(self._ids)
        found: dict[str, Any] = await self._ask(number, frames.Stats(number))
        known = {name: found.pop(name) for name in list(found) if name in EngineStats.__dataclass_fields__}
        return EngineStats(**known, rss=_rss(known["pid"]), extra=found)

    def set_threads(self, count: int) -> None:
        """See `base.Engine`."""
        if self._link is not None:
            self._send(frames.Threads(count))

    async def close(self) -> None:
        """See `base.Engine`."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._fail_all()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        # Nothing in it is worth a farewell: the kernel takes the memory back at once.
        self._child.kill()
        await self._child.stop()

    # What comes from the worker

    def _receive(self, frame: Any) -> None:
        if type(frame) is frames.Step:
            self._step(frame)
        elif isinstance(frame, frames.Answer):
            waiting = self._answers.pop(frame.id, None)
            if waiting is not None and not waiting.done():
                if frame.error is None:
                    waiting.set_result(frame.value)
                else:
                    waiting.set_exception(_error(frame.kind, frame.error, 0, 0))
        elif isinstance(frame, frames.Progress):
            if self._progress is not None:
                self._progress(frame.done)
        elif self._ready is not None and not self._ready.done():
            if isinstance(frame, frames.Ready):
                self._ready.set_result(_facts(frame))
            elif isinstance(frame, frames.LoadFailed):
                self._ready.set_exception(self._load_error(frame.reason))

    def _step(self, step: frames.Step) -> None:
        streams = self._streams
        for number, prompt, cached, truncated in step.started:
            stream = streams.get(number)
            if stream is not None:
                stream.push(Started(prompt, cached, truncated))
        for number, text, tokens, logprobs in step.texts:
            stream = streams.get(number)
            if stream is not None:
                stream.push(Text(text, tokens, _logprobs(logprobs) if logprobs else ()))
        for number, reason, prompt, cached, output, prompt_ns, decode_ns, prompt_ids, output_ids in step.finished:
            stream = streams.pop(number, None)
            if stream is not None:
                ids = (tuple(prompt_ids), tuple(output_ids))
                stream.push(Finished(reason, prompt, cached, output, prompt_ns, decode_ns, *ids))  # type: ignore[arg-type]
                stream.end()
        for number, kind, text, prompt, num_ctx in step.failed:
            stream = streams.pop(number, None)
            if stream is None:
                continue
            if kind == "empty":  # nothing to go on from, so there is nothing to say, as in Ollama
                stream.push(Started(0, 0))
                stream.push(Finished("stop", 0, 0, 0, 0, 0))
                stream.end()
            else:
                stream.fail(_error(kind, text, prompt, num_ctx))

    def _lost(self, error: Exception | None) -> None:
        """The socket is closed: the worker is gone, or about to go. `_watch` tells everybody."""
        self._link = None
        if error is not None:
            self._child.condemn(f"the connection to it broke: {error}")
        elif not self._closed:
            # Its end is near if it closed the socket by dying; nobody could ever reach it again otherwise.
            loop = asyncio.get_running_loop()
            loop.call_later(LOST_GRACE_S, self._child.condemn, "the connection to it was closed")

    def _busy(self) -> bool:
        return bool(self._streams or self._answers)

    async def _watch(self) -> None:
        """Wait for the worker's end; whoever still waits for it is told."""
        code = await self._child.wait()
        self._link = None
        if not self._closed:
            log.error(
                "llama worker %d ended: %s; its last words:\n%s",
                self._child.pid,
                _reason(self._child, code),
                self._child.last_words(),
            )
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(self._load_error(_reason(self._child, code)))
        self._fail_all()

    def _fail_all(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(_crash(self._child))
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_exception(_crash(self._child))

    def _load_error(self, reason: str) -> ModelLoadError:
        return ModelLoadError(f"unable to load model: {os.fspath(self._source.path)}: {reason}")

    # What goes to the worker

    def _send(self, frame: frames.Frame) -> None:
        assert self._link is not None
        self._link.send(frames.pack(frame))

    async def _ask(self, number: int, frame: frames.Frame) -> Any:
        if self._link is None or self._closed:
            raise EngineCrashed(CRASHED)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._send(frame)
        self._child.watch(self._busy)
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    def _load_frame(self, path: str, threads: int) -> frames.Load:
        options, extra = self._options, dict(self._options.extra)
        return frames.Load(
            path=path,
            adapters=[os.fspath(adapter) for adapter in self._source.adapters],
            cells=max(int(extra.get("kv_cells", CELLS)), options.num_ctx),
            live=min(options.num_parallel or LIVE, MAX_LIVE),
            batch=options.num_batch if options.num_batch > 0 else BATCH,
            gpu_layers=options.num_gpu,
            main_gpu=-1 if options.main_gpu is None else options.main_gpu,
            threads=threads,
            mmap=options.use_mmap,
            flash_attention=options.flash_attention,
            kv_cache_type=options.kv_cache_type or "f16",
            debug=extra.get("debug", "") not in ("", "0"),
            prefix_dir=extra.get("prefix_dir", ""),
            prefix_bytes=int(extra.get("prefix_bytes", 0)),
            mlock=extra.get("mlock", "") not in ("", "0"),
            layers=self._source.layers,
            chunk=int(extra.get("prefill_chunk", CHUNK)),
        )


class _Link(asyncio.Protocol):
    """Frames over the socket; decodes them as they come."""

    def __init__(self, receive: Any, lost: Any) -> None:
        self._receive = receive
        self._lost = lost
        self._splitter = frames.Splitter()
        self._decode = msgspec.msgpack.Decoder(frames.ToGateway).decode
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._splitter.feed(data):
                self._receive(self._decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            log.error("the llama worker sent something that is no frame: %s", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def send(self, data: bytes) -> None:
        """Never blocks; the loop writes what the socket does not take at once."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Drop the connection; the worker sees it and leaves."""
        if self._transport is not None:
            self._transport.abort()


def _submit(number: int, request: Generation) -> frames.Submit:
    sampling, constraint = request.sampling, request.constraint
    return frames.Submit(
        id=number,
        prompt=request.prompt,
        tokens=list(request.tokens) if request.tokens is not None else None,
        num_ctx=request.num_ctx,
        num_predict=request.num_predict,
        num_keep=request.num_keep,
        stop=list(request.stop),
        truncate=request.truncate,
        shift=request.shift,
        top_logprobs=request.top_logprobs,
        want_ids=request.want_ids,
        gbnf=constraint.gbnf if constraint is not None else None,
        after=constraint.after if constraint is not None else None,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
        repeat_last_n=sampling.repeat_last_n,
        repeat_penalty=sampling.repeat_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        logit_bias=list(sampling.logit_bias),
        control=list(request.control),
    )


def _facts(ready: frames.Ready) -> ModelFacts:
    return ModelFacts(**msgspec.structs.asdict(ready))


def _logprobs(found: list[Any]) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(token, value, raw, tuple(Logprob(*other) for other in top)) for token, value, raw, top in found
    )


def _error(kind: str, text: str, prompt_tokens: int, num_ctx: int) -> VllamaError:
    if kind == "too_long":
        return PromptTooLong(text, prompt_tokens=prompt_tokens, context=num_ctx)
    return RequestError(text) if kind == "request" else ServerError(text)


def _crash(child: Child) -> EngineCrashed:
    code = child.returncode
    error = EngineCrashed(f"{CRASHED} ({_reason(child, code)})" if code is not None else CRASHED)
    if child.stderr:
        error.add_note(child.last_words())
    return error


def _reason(child: Child, code: int) -> str:
    """Why a worker died: what it said last, or how it ended."""
    if child.verdict:
        return f"the worker was ended: {child.verdict}"
    lines = [line for line in child.stderr if line.strip()]
    # What a failed assertion says comes before what debuggers and the C library add.
    said = next((line for line in lines if "GGML_ASSERT" in line or "fatal error" in line), "")
    if code == -signal.SIGKILL and not said:
        return "the worker was killed; if nobody did, the machine ran out of memory"
    said = said or (lines[-1] if lines else "")
    end = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the worker ended with {end}" + (f": {said}" if said else "")


def _cores() -> int:
    from vllama.hardware import facts

    machine = facts()
    return machine.performance_cores or machine.physical_cores


def _rss(pid: int) -> int:
    """Resident bytes of a process, 0 if it cannot be told."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
