"""`UpstreamEngine`: one model of a deployment that is not ours to start. Loading it means to see that it answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from vllama.engines.base import (
    Event,
    Finished,
    FinishReason,
    Generation,
    LoadOptions,
    Logprob,
    ModelFacts,
    ModelSource,
    Progress,
    Started,
    Text,
)
from vllama.engines.completions.client import Address, Client, error_of
from vllama.engines.completions.engine import CompletionsEngine
from vllama.engines.completions.requests import Dialect
from vllama.engines.upstream.catalog import HEALTH_S, listed
from vllama.engines.upstream.chat import CallBuilder, chat_body
from vllama.errors import EngineCrashed, ModelLoadError, ServerError, VllamaError


class UpstreamEngine(CompletionsEngine):
    """See `base.Engine`. Its server decides on prefix caches, memory and queues."""

    name = "upstream"

    def __init__(self, source: ModelSource, options: LoadOptions | None = None) -> None:
        super().__init__()
        if source.remote is None:
            raise ModelLoadError("the upstream engine serves models of another server only")
        self._remote = source.remote

    async def load(self, progress: Progress | None = None) -> None:
        """Asks for the model list. Raises `ModelLoadError` when nobody answers or the model is not there."""
        remote = self._remote
        self._client = Client(Address(remote.url, remote.key, read_s=remote.timeout_s, title="the upstream"))
        try:
            models = listed(await self._client.fetch("/v1/models", timeout=HEALTH_S))
        except VllamaError as error:
            await self.close()
            raise ModelLoadError(f"{remote.model} at {remote.url}: {error.text}") from None
        found = next((one for one in models if one.id == remote.model), None)
        if found is None:
            await self.close()
            there = ", ".join(one.id for one in models[:5]) or "none"
            raise ModelLoadError(f"the upstream at {remote.url} has no model {remote.model} (it has: {there})")
        vllm = remote.vllm or found.vllm
        self._dialect = Dialect(remote.model, vllm)
        self._tokenizes = vllm
        self._facts = ModelFacts(
            train_ctx=remote.context or found.context,
            vocab_size=0,
            size=0,
            size_vram=0,
            bos="",
            eos="",
            can_shift=False,
            can_embed=True,
            description=f"upstream {remote.url}",
            takes_messages=True,
        )
        if progress is not None:
            progress(1.0)

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """See `base.Engine`; a conversation goes to the upstream as it is."""
        return super().generate(request) if request.chat is None else self._converse(request)

    async def _converse(self, request: Generation) -> AsyncIterator[Event]:
        client, chat = self._client, request.chat
        assert chat is not None
        if client is None:
            raise EngineCrashed("the engine was closed")
        began = time.monotonic_ns()
        first = 0
        usage: dict[str, Any] = {}
        calls = CallBuilder()
        reason: FinishReason = "stop"
        started = False
        pieces = 0
        self._active += 1
        try:
            body = chat_body(request, chat, self._dialect)
            async with contextlib.aclosing(client.stream("/v1/chat/completions", body)) as stream:
                async for events in stream:
                    for event in events:
                        if "error" in event:
                            raise ServerError(error_of(event) or "the upstream failed")
                        usage = event.get("usage") or usage
                        if not started:
                            started = True
                            yield Started(usage.get("prompt_tokens") or 0, 0)
                        for choice in event.get("choices") or ():
                            delta = choice.get("delta") or {}
                            calls.add(delta.get("tool_calls"))
                            text = delta.get("content") or ""
                            thinking = delta.get("reasoning") or delta.get("reasoning_content") or ""
                            if text or thinking:
                                first = first or time.monotonic_ns()
                                pieces += 1
                                yield Text(text, 1, _logprobs(choice), thinking=thinking)
                            if choice.get("finish_reason") == "length":
                                reason = "length"
            if whole := calls.finish():
                first = first or time.monotonic_ns()
                yield Text("", 1, calls=whole)
            now = time.monotonic_ns()
            first = first or now
            prompt, output = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or pieces
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self._prompt_tokens += prompt
            self._output_tokens += output
            yield Finished(reason, prompt, cached, output, first - began, now - first)
        finally:
            self._active -= 1


def _logprobs(choice: dict[str, Any]) -> tuple[Logprob, ...]:
    """The chat form of log-probabilities, which names the bytes itself."""
    rows = (choice.get("logprobs") or {}).get("content") or ()
    return tuple(
        Logprob(
            row["token"],
            row["logprob"],
            _raw(row),
            tuple(Logprob(o["token"], o["logprob"], _raw(o)) for o in row.get("top_logprobs") or ()),
        )
        for row in rows
    )


def _raw(row: dict[str, Any]) -> bytes | None:
    found = row.get("bytes")
    return bytes(found) if found is not None else None
