"""What the core gives back: for generate and chat a stream of deltas and one end, for embed the vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from vllama.engines.base import Logprob, Vectors
from vllama.prompts.messages import ToolCall

DoneReason = Literal["stop", "length", "load", "unload"]


class Delta(NamedTuple):
    """A piece of the answer. Any part may be empty; `content` is text for both generate and chat.

    A tuple, as there is one for each chunk and a frozen dataclass takes three times as long to make.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


NO_DELTA = Delta()


@dataclass(frozen=True, slots=True)
class Done:
    """The end. Durations in ns; counts in tokens, `prompt_tokens` includes `cached_tokens`.

    `delta` holds what the parsers still had (Ollama sends it in the last line).
    `context` (generate only, None when raw): ids of prompt and answer.
    """

    reason: DoneReason
    total_ns: int = 0
    load_ns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_ns: int = 0
    output_tokens: int = 0
    output_ns: int = 0
    context: tuple[int, ...] | None = None
    delta: Delta = NO_DELTA


class Reply(Protocol):
    """A running answer. Everything that can fail with an HTTP status has already been checked when it exists.

    kind "stream": iterate `events()`; closing the iterator cancels the work.
    kind "load"/"unload": nothing was generated; one JSON reply even when streaming was asked for.
    kind "render": `rendered` is the prompt (`_debug_render_only`), `image_count` how many images it has.
    """

    @property
    def kind(self) -> Literal["stream", "load", "unload", "render"]: ...

    @property
    def rendered(self) -> str: ...

    @property
    def image_count(self) -> int: ...

    @property
    def dropped(self) -> str:
        """What was left out of the prompt to make it fit: "messages=3", "tokens=120", both with ", "; "" if nothing."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has, 0 where nothing is generated. Known before the first delta."""
        ...

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens came from the prefix cache."""
        ...

    def events(self) -> AsyncIterator[Delta | Done]:
        """Deltas, then exactly one Done; or raises VllamaError at any point."""
        ...

    async def aclose(self) -> None:
        """Cancel what still runs and give everything back. Needed when `events()` was never begun; twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """What came of an `EmbedRequest`; `vectors` is None when there was no input. Durations in ns."""

    vectors: Vectors | None = None
    total_ns: int = 0
    load_ns: int = 0
