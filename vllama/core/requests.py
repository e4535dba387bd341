"""What the APIs hand to the core: one frozen dataclass per kind of request, already read and checked for type.

None always means "not given" (JSON null or absent). Durations are nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vllama.prompts.messages import Message, Think, Tool


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What the output must be where it is no JSON: a text that a regular expression matches as a whole, one of several
    texts (`value` is a tuple), or what a GBNF grammar allows."""

    kind: Literal["regex", "choice", "grammar"]
    value: str | tuple[str, ...]


FOREVER = -1
"""A keep_alive that never ends (any negative value in a request)."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """POST /api/generate, and what /v1/completions becomes. Field meanings are Ollama's.

    `format` is the decoded JSON of the field: "json", a schema object, or None for "", null and absent. What
    `structured_outputs` asks for stands in it too; an `OutputRule` where that is no JSON.
    `options` is the decoded JSON object as it came; `core.options` checks it.
    `keep_alive` in ns, negative = forever, 0 = unload afterwards, None = the server's default.
    `constrained_from_start` is for format together with thinking.
    """

    model: str
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: tuple[int, ...] | None = None
    stream: bool | None = None
    raw: bool = False
    format: Any = None
    keep_alive: int | None = None
    images: tuple[bytes, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    think: Think | None = None
    truncate: bool | None = None
    shift: bool | None = None
    debug_render_only: bool = False
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """POST /api/chat, and what the /v1 chat routes become."""

    model: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    stream: bool | None = None
    format: Any = None
    keep_alive: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    think: Think | None = None
    truncate: bool | None = None
    shift: bool | None = None
    debug_render_only: bool = False
    logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """POST /api/show. `system`, `template` and `options` replace the model's in the printed Modelfile."""

    model: str
    system: str = ""
    template: str = ""
    verbose: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """POST /api/embed and what /v1/embeddings becomes; with `legacy` POST /api/embeddings, which never cuts an input.

    `dimensions` is how many numbers of each vector are wanted, counted from the first; 0, negative or too many: all.
    """

    model: str
    inputs: tuple[str, ...] = ()
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    legacy: bool = False
