"""One model behind an OpenAI-compatible server: requests out, events in. What serves it is the subclass's business.

num_ctx is enforced here: a prompt that may be too long is tokenised first and cut or refused, and an answer that fills
the context is ended by closing its request, so that no server is ever restarted for another length.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from vllama.engines.base import (
    Embedding,
    EngineStats,
    Event,
    Finished,
    FinishReason,
    Generation,
    ModelFacts,
    Started,
    Text,
    Vectors,
)
from vllama.engines.completions.client import Client, error_of
from vllama.engines.completions.logprobs import Vocabulary, logprobs_of
from vllama.engines.completions.requests import MOST_STOPS, Dialect, body_of
from vllama.engines.completions.vectors import packed
from vllama.engines.fitting import INPUT_NOT_SHORTER, INPUT_TOO_LONG, cut_prompt
from vllama.engines.stopping import StopBuffer
from vllama.errors import EngineCrashed, ModelNotFound, PromptTooLong, RequestError, ServerError, VllamaError

TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"


class _Count:
    """What is known of one answer while it comes."""

    __slots__ = ("began", "cached", "first", "ids", "output", "prompt", "prompt_ids", "reason", "stopped_by", "text")

    def __init__(self) -> None:
        self.began = time.monotonic_ns()
        self.first = 0
        self.prompt = self.cached = self.output = 0
        self.prompt_ids: list[int] = []
        self.ids: list[int] = []
        self.reason: FinishReason | None = None
        self.stopped_by: Any = None
        self.text = ""


class CompletionsEngine:
    """The shared half, see `base.Engine`. The subclass sets `_client`, `_facts` and `_dialect` in `load`."""

    name = "completions"

    def __init__(self) -> None:
        self._client: Client | None = None
        self._facts: ModelFacts | None = None
        self._dialect = Dialect("")
        self._vocabulary: Vocabulary | None = None
        self._closed = False
        self._active = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._output_tokens = 0
        self._tokenizes = True

    @property
    def facts(self) -> ModelFacts:
        """Valid after `load`."""
        assert self._facts is not None, "load() first"
        return self._facts

    @property
    def threads(self) -> int:
        """The server sees to its threads itself."""
        return 0

    def set_threads(self, count: int) -> None:
        """Nothing to share."""

    @property
    def alive(self) -> bool:
        """Between load and close; a subclass with a process knows more."""
        return self._facts is not None and not self._closed

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """See `base.Engine`. Closing the iterator closes the request, which ends it at the server too."""
        return self._generate(request)

    async def _generate(self, request: Generation) -> AsyncIterator[Event]:
        if self._client is None or self._closed:
            raise EngineCrashed("the engine was closed")
        if request.constraint is not None and not self._dialect.vllm:
            # It would be passed over without a word.
            raise RequestError("this model's server cannot constrain its output: leave format out")
        self._active += 1
        count = _Count()
        try:
            prompt, dropped = await self._fit(request)
            if "" in request.stop:
                size = len(prompt) if isinstance(prompt, list) else len(await self.tokenize(prompt))
                yield Started(size, 0, dropped)
                yield Finished("stop", size, 0, 0, time.monotonic_ns() - count.began, 0)
                return
            async with contextlib.aclosing(self._phases(request, prompt, count)) as pieces:
                started = False
                async for piece in pieces:
                    if not started:
                        started = True
                        yield Started(count.prompt, count.cached, dropped)
                    if piece is not None:
                        yield piece
            if not started:
                yield Started(count.prompt, count.cached, dropped)
            now = time.monotonic_ns()
            first = count.first or now
            yield Finished(
                reason=count.reason or "stop",
                prompt_tokens=count.prompt,
                cached_tokens=count.cached,
                output_tokens=count.output,
                prompt_ns=first - count.began,
                decode_ns=now - first,
                prompt_ids=tuple(count.prompt_ids) if request.want_ids else (),
                output_ids=tuple(count.ids) if request.want_ids else (),
            )
        except ServerError as error:
            raise self.broken(error) from None
        finally:
            self._active -= 1
            self._prompt_tokens += count.prompt
            self._cached_tokens += count.cached
            self._output_tokens += count.output

    async def _phases(
        self, request: Generation, prompt: str | list[int], count: _Count
    ) -> AsyncGenerator[Text | None, None]:
        """One request; two where a constraint waits for a mark: freely up to the mark, then on from there."""
        limit = request.num_predict if request.num_predict > 0 else None
        constraint = request.constraint
        if constraint is None or not constraint.after:
            async with contextlib.aclosing(self._answer(request, prompt, count, limit, bool(constraint), ())) as pieces:
                async for piece in pieces:
                    yield piece
            return
        mark = constraint.after
        async with contextlib.aclosing(self._answer(request, prompt, count, limit, False, (mark,))) as pieces:
            async for piece in pieces:
                yield piece
        if count.reason != "stop" or count.stopped_by != mark:
            return
        if limit is not None and (limit := limit - count.output) <= 0:
            count.reason = "length"
            return
        # Its ids are what the server has in its prefix cache; a text would perhaps be cut into others.
        if count.prompt_ids and count.ids:
            prompt = [*count.prompt_ids, *count.ids]
        else:
            prompt = (prompt if isinstance(prompt, str) else await self.detokenize(prompt)) + count.text
        later = _Count()
        try:
            async with contextlib.aclosing(self._answer(request, prompt, later, limit, True, ())) as pieces:
                async for piece in pieces:
                    if piece is not None:
                        yield piece
        finally:
            count.output += later.output
            count.ids += later.ids
            count.reason = later.reason

    async def _answer(
        self,
        request: Generation,
        prompt: str | list[int],
        count: _Count,
        limit: int | None,
        constrained: bool,
        marks: tuple[str, ...],
    ) -> AsyncGenerator[Text | None, None]:
        """The pieces of one request to the server; None for one that has no text but the counts."""
        client = self._client
        assert client is not None
        most = request.num_ctx - (len(prompt) if isinstance(prompt, list) else 1)
        if self._dialect.vllm or limit is not None:
            limit = min(limit, most) if limit is not None else most
            train = self.facts.train_ctx
            if train and request.num_ctx >= train and limit == most and self._dialect.vllm:
                limit = None  # the server itself stops at its length, and refuses a number that goes beyond it
        stops = (*request.stop, *marks)
        # Stop strings beyond what the server takes are matched here; MAX shows one that spans tokens, so all of its.
        sent = stops if self._dialect.vllm else () if self._dialect.max else stops[:MOST_STOPS]
        ours = StopBuffer(request.stop if len(stops) > len(sent) else ())
        body = body_of(
            request,
            self._dialect,
            prompt=prompt,
            limit=limit,
            add_special=not (self.facts.bos and isinstance(prompt, str) and prompt.startswith(self.facts.bos)),
            constraint=request.constraint if constrained else None,
            stop=sent,
            include_stop=bool(marks),
        )
        pending = 0
        async with contextlib.aclosing(client.stream("/v1/completions", body)) as stream:
            async for events in stream:
                for event in events:
                    if "error" in event:
                        raise _refused(event)
                    tokens = self._account(event, count)
                    pending += tokens
                    for choice in event.get("choices") or ():
                        count.first = count.first or time.monotonic_ns()
                        text = self._shown(choice.get("text") or "", request)
                        count.text += text if marks else ""
                        if marks and choice.get("stop_reason") in request.stop:
                            # The stop string itself is only wanted where it is the mark.
                            text = text.removesuffix(choice["stop_reason"])
                        text = ours.feed(text)
                        logprobs = logprobs_of(choice, request.top_logprobs, await self._words(request))
                        if text or logprobs:
                            yield Text(text, pending, logprobs)
                            pending = 0
                        else:
                            yield None
                        if reason := choice.get("finish_reason"):
                            if reason in ("abort", "error"):
                                raise ServerError(f"the model server ended the answer: {reason}")
                            count.reason = "length" if reason == "length" else "stop"
                            count.stopped_by = choice.get("stop_reason")
                    if ours.stopped:
                        count.reason = "stop"
                        return
                    if count.reason is None and count.prompt and count.prompt + count.output >= request.num_ctx:
                        count.reason = "length"
                        return
        if rest := ours.flush():
            yield Text(rest, pending)

    def _account(self, event: dict[str, Any], count: _Count) -> int:
        """Reads ids and usage; returns how many tokens this event brought."""
        before = count.output
        usage = event.get("usage")
        for choice in event.get("choices") or ():
            if found := choice.get("prompt_token_ids"):
                count.prompt_ids = found
            if found := choice.get("token_ids"):
                count.ids += found
            if usage is None:
                # A server that counts only at the end: by ids where it sends them, else a token for each piece.
                count.output += len(found) if found else bool(choice.get("text"))
                count.prompt = count.prompt or len(count.prompt_ids)
        if usage:
            count.prompt = usage.get("prompt_tokens") or count.prompt
            count.output = usage.get("completion_tokens") or count.output
            details = usage.get("prompt_tokens_details") or {}
            count.cached = details.get("cached_tokens") or count.cached
        return max(0, count.output - before)

    def broken(self, error: ServerError) -> ServerError:
        """The error that the reader of an answer gets; a subclass knows what it means for the server."""
        return error

    def _shown(self, text: str, request: Generation) -> str:
        """Without control tokens that nobody asked for: the server shows all of them or none."""
        if not request.control or self._vocabulary is None or "<" not in text:
            return text
        for special in self._vocabulary.special.values():
            if special in text and special not in request.control:
                text = text.replace(special, "")
        return text

    async def _words(self, request: Generation) -> Vocabulary | None:
        """The vocabulary, where log-probabilities need it."""
        return self._vocabulary if request.top_logprobs is not None else None

    async def _fit(self, request: Generation) -> tuple[str | list[int], int]:
        """The prompt as it is sent, and how many tokens were cut from it."""
        if request.tokens is None:
            text = request.prompt or ""
            # A token is at least one byte, and one may be put in front.
            if len(text.encode()) + 1 < request.num_ctx or not self._tokenizes:
                if not text and not self.facts.bos:
                    raise RequestError("the prompt is empty")
                return text, 0
            ids = await self.tokenize(text)
            if not ids:
                return text, 0
        else:
            ids = list(request.tokens)
        if not ids:
            raise RequestError("the prompt is empty")
        if len(ids) >= request.num_ctx and not request.truncate:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens and the context only {request.num_ctx}",
                prompt_tokens=len(ids),
                context=request.num_ctx,
            )
        cut = cut_prompt(ids, num_ctx=request.num_ctx, num_keep=request.num_keep)
        return cut, len(ids) - len(cut)

    async def embed(self, request: Embedding) -> Vectors:
        """See `base.Engine`."""
        if self._client is None or self._closed:
            raise EngineCrashed("the engine was closed")
        inputs: list[Any] = [await self._input(text, request) for text in request.inputs]
        mixed = any(isinstance(one, list) for one in inputs)
        if mixed:
            inputs = [one if isinstance(one, list) else await self.tokenize(one) for one in inputs]
        body = {"model": self._dialect.model, "input": inputs, "encoding_format": "base64"}
        reply = await self._client.fetch("/v1/embeddings", body)
        vectors = await asyncio.to_thread(packed, reply, len(inputs))
        self._prompt_tokens += vectors.prompt_tokens
        return vectors

    async def _input(self, text: str, request: Embedding) -> str | list[int]:
        """An input, as ids where it had to be cut at its end."""
        most = min(request.num_ctx, self.facts.train_ctx or request.num_ctx)
        bound = min(most, request.limit or most)
        if len(text.encode()) + 2 <= bound or not self._tokenizes:
            return text
        ids = await self.tokenize(text)
        if len(ids) > most:
            if not request.truncate:
                raise RequestError(INPUT_TOO_LONG)
            # The last one marks the end of the input.
            ids = [*ids[: most - 1], ids[-1]]
        if request.limit and len(ids) > request.limit:
            raise RequestError(INPUT_NOT_SHORTER if request.truncate else INPUT_TOO_LONG)
        return ids

    async def tokenize(self, text: str, *, add_special: bool = True, limit: int = 0) -> list[int]:
        """See `base.Engine`; nothing where the server has no tokenizer to ask."""
        if not text or not self._tokenizes:
            return []
        special = add_special and not (self.facts.bos and text.startswith(self.facts.bos))
        body = {"model": self._dialect.model, "prompt": text, "add_special_tokens": special}
        try:
            reply = await self._post(TOKENIZE, body)
        except ModelNotFound:
            self._tokenizes = False
            return []
        return [int(token) for token in reply["tokens"]]

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """See `base.Engine`. Raises `RequestError` where the server has no tokenizer to ask."""
        if not tokens:
            return ""
        if self.facts.vocab_size and not all(0 <= token < self.facts.vocab_size for token in tokens):
            raise RequestError("token id out of range")
        try:
            reply = await self._post(DETOKENIZE, {"model": self._dialect.model, "tokens": list(tokens)})
        except ModelNotFound:
            self._tokenizes = False
            raise RequestError("this model's server cannot turn token ids into text: leave context out") from None
        return str(reply["prompt"])

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._client is None or self._closed:
            raise EngineCrashed("the engine was closed")
        reply = await self._client.fetch(path, body)
        if not isinstance(reply, dict):
            raise ServerError(f"the model server answered {path} with something else than an object")
        return reply

    async def stats(self) -> EngineStats:
        """What passed through this engine."""
        return EngineStats(
            active=self._active,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
        )

    async def close(self) -> None:
        """See `base.Engine`: running answers lose their connection."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _refused(event: dict[str, Any]) -> VllamaError:
    """An error inside a stream: the status was already sent, its code says whose mistake it is."""
    found = event["error"]
    code = found.get("code") if isinstance(found, dict) else None
    text = error_of(event) or "the model server ended the answer with an error"
    return RequestError(text) if isinstance(code, int) and 400 <= code < 500 else ServerError(text)
