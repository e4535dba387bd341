"""A running answer: engine events in, deltas out, with thinking and tool calls taken apart on the way."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from vllama.core.remote_chat import calls_of
from vllama.core.replies import NO_DELTA, Delta, Done
from vllama.core.residency import GOING_DOWN, Lease
from vllama.engines.base import Event, Finished, Text
from vllama.errors import BusyError, ServerError
from vllama.prompts.messages import ToolCall
from vllama.prompts.tools import OutputParser, Piece

ContextMaker = Callable[[Finished, bool, str], Awaitable[tuple[int, ...]]]
"""Takes the end, whether the prompt had been cut, and all text; gives the ids of the whole prompt and the answer."""


def dropped(messages: int, tokens: int = 0) -> str:
    """What was left out of a prompt to make it fit, as `Reply.dropped` says it."""
    if not (messages or tokens):
        return ""
    counts = (("messages", messages), ("tokens", tokens))
    return ", ".join(f"{name}={count}" for name, count in counts if count)


@dataclass(frozen=True, slots=True)
class Instant:
    """A reply without generated text: "load", "unload" or "render"."""

    kind: Literal["load", "unload", "render"]
    rendered: str = ""
    image_count: int = 0
    dropped: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0

    async def events(self) -> AsyncIterator[Delta | Done]:
        """Nothing was generated: only the end."""
        yield Done("unload" if self.kind == "unload" else "load")

    async def aclose(self) -> None:
        """Nothing to give back."""


class Answer:
    """A generation under way. The first engine event has been seen, so the request itself was fine.

    `quiet` drops chunks in which the parsers found nothing to send (chat does, generate does not).
    """

    kind: Literal["stream"] = "stream"
    rendered = ""
    image_count = 0

    def __init__(
        self,
        events: AsyncIterator[Event],
        lease: Lease,
        *,
        began: int,
        load_ns: int,
        parser: OutputParser | None = None,
        quiet: bool = True,
        context: ContextMaker | None = None,
        draining: Callable[[], bool] | None = None,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        truncated_tokens: int = 0,
        dropped_messages: int = 0,
    ) -> None:
        self._events = events
        self._lease = lease
        self._began = began
        self._load_ns = load_ns
        self._parser = parser
        self._quiet = quiet
        self._context = context
        self._said: list[str] = []
        self._draining = draining
        self._closed = False
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.truncated_tokens = truncated_tokens
        self.dropped = dropped(dropped_messages, truncated_tokens)

    async def events(self) -> AsyncIterator[Delta | Done]:
        """Deltas, then one Done. Closing the iterator cancels the generation and gives the lease back."""
        parser = self._parser
        try:
            async for event in self._events:
                if type(event) is Text:
                    if self._context is not None:
                        self._said.append(event.text)
                    if parser is None:
                        # What a server took apart itself; () everywhere else.
                        calls = self._named(calls_of(event.calls)) if event.calls else ()
                        yield Delta(event.text, event.thinking, calls, event.logprobs)
                        continue
                    thinking, content, calls = parser.add(event.text)
                    # Quiet, as Ollama is: what is only held back or a tag makes no chunk, whatever its probability.
                    if thinking or content or calls or not self._quiet:
                        yield Delta(content, thinking, self._named(calls), event.logprobs)
                elif type(event) is Finished:
                    self._lease.account("length" if event.reason == "length" else "stop", event)
                    yield await self._done(event)
        except ServerError:
            self._lease.account("error")
            # What breaks because the server goes down shall not look like a crash.
            if self._draining is not None and self._draining():
                raise BusyError(GOING_DOWN) from None
            raise
        finally:
            await self.aclose()

    @staticmethod
    def _named(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """Every call with an id; a few formats have their own."""
        return tuple(call if call.id else replace(call, id=_call_id()) for call in calls)

    async def _done(self, event: Finished) -> Done:
        thinking, content, calls = self._parser.finish() if self._parser is not None else Piece()
        rest = Delta(content, thinking, self._named(calls)) if content or thinking or calls else NO_DELTA
        context = None
        if self._context is not None:
            context = await self._context(event, self.truncated_tokens > 0, "".join(self._said))
        return Done(
            reason="length" if event.reason == "length" else "stop",
            total_ns=time.monotonic_ns() - self._began,
            load_ns=self._load_ns,
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            prompt_ns=max(1, event.prompt_ns),
            output_tokens=event.output_tokens,
            output_ns=max(1, event.decode_ns),
            context=context,
            delta=rest,
        )

    async def aclose(self) -> None:
        """Cancel what still runs. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._lease.account("cancelled")
        try:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        finally:
            self._lease.release()


_ID_ALPHABET = string.ascii_lowercase + string.digits


def _call_id() -> str:
    """`call_` and eight random characters, as Ollama's ids look."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))
