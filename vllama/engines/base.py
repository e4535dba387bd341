"""The engine protocol: what every engine takes and gives.

An *engine* here is one loaded model. It knows tokens, not chats: prompts arrive rendered. Nothing in
this file knows HTTP, Ollama's JSON, templates or ctypes. All counts are tokens, all durations
nanoseconds, all times `time.monotonic_ns()` unless a docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Names, order and defaults are Ollama's (docs/engines.md).

    `temperature` 0 means greedy. `top_k` 0 means all. `repeat_last_n` is a count of tokens, 0 off,
    -1 the whole context. `seed` None means a fresh random seed for this request.
    `logit_bias` maps token id to an additive bias.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the output must match: GBNF text. `after` delays it until that text was generated (thinking).

    `schema` is the JSON schema that the grammar was made of, as JSON text, "" for any JSON object; None where there is
    none. Engines with a compiler of their own take it instead.
    """

    gbnf: str
    after: str | None = None
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation that nobody has rendered: messages and tools as OpenAI's JSON objects, for engines that take them.

    `think` None leaves it to the model; a text is the effort ("low", "medium", "high").
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    think: bool | str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One request to an engine.

    Exactly one of `prompt` (text; special tokens in it are parsed, BOS is added where the model's
    metadata asks for it) and `tokens` (ids, taken as they are) is set.

    `num_ctx` is this request's context in tokens: prompt + output never exceed it. `num_predict` < 0 means no limit of
    its own. `truncate`: a prompt of more than num_ctx - 1 tokens is cut to `num_keep` + the newest tokens as
    Ollama does (limit = num_ctx - max((num_ctx - keep) // 2, 1)); otherwise `PromptTooLong` is raised.
    `shift`: when the context is full, the oldest half after `num_keep` is dropped and generation
    goes on, where the model allows it; otherwise it finishes with "length".
    `stop` strings are cut from the output; matching them is the engine's job (hold-back included).
    `top_logprobs` None: no logprobs; 0..20: logprobs with that many alternatives.
    `want_ids`: the `Finished` event carries prompt and output token ids.
    `control`: texts of control tokens that are part of the output where the model writes them (marks of tool calls and
    thoughts); others are left out, and a text that is no control token is ignored.
    `chat` takes the place of `prompt` where `ModelFacts.takes_messages`.
    """

    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    num_ctx: int = 4096
    num_predict: int = -1
    num_keep: int = 4
    stop: tuple[str, ...] = ()
    truncate: bool = True
    shift: bool = True
    top_logprobs: int | None = None
    constraint: Constraint | None = None
    want_ids: bool = False
    control: tuple[str, ...] = ()
    chat: Chat | None = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token with its log-probability (natural logarithm). `raw` are the token's bytes, None for special tokens."""

    token: str
    logprob: float
    raw: bytes | None
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the prompt was accepted. `cached_tokens` of `prompt_tokens` came from the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    truncated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the server read out of the answer; `arguments` is decoded JSON."""

    name: str
    arguments: dict[str, Any]
    id: str = ""


class Text(NamedTuple):
    """A piece of output: valid UTF-8, never part of a stop string. `tokens` is how many tokens it took. A tuple, for
    there is one for each chunk and a frozen dataclass takes three times as long to make.

    Where the engine's server takes answers apart itself (`Generation.chat`), `thinking` is its thoughts and `calls` are
    whole tool calls.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[Logprob, ...] = ()
    thinking: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event. `prompt_ns` runs from admission to the first sampled token, `decode_ns` from there to the end."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prompt_ns: int
    decode_ns: int
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()


Event = Started | Text | Finished


@dataclass(frozen=True, slots=True)
class Embedding:
    """Texts to make vectors of; special tokens in them are parsed, and the model's own are added.

    An input of more than `num_ctx` tokens (or of more than the model was trained for) is cut at its end with
    `truncate`, refused without. More than `limit` tokens are refused even after that; 0: no such limit.
    """

    inputs: tuple[str, ...]
    num_ctx: int = 4096
    truncate: bool = True
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector for each input, in their order, pooled by the model's type and L2-normalised.

    `data` are little-endian float32, `width` of them for each input. `prompt_tokens` counts all inputs, special
    tokens included.
    """

    data: bytes
    width: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Remote:
    """A model of another server: its address (without /v1), the name that it has there, and the key, which is secret.

    `vllm` says that the server speaks vLLM's extensions. `context` is the model's length there in tokens, 0 if unknown.
    `timeout_s` are the seconds that it may be silent.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    vllm: bool = False
    context: int = 0
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Layers:
    """How a model's bytes lie, for whoever divides them between a GPU and the processor.

    `blocks`: the weights of each block, the first one first; `output`: what comes after the last one; `cell`: the keys
    and values of one KV cell in one block; `compute`: the buffers of a step, once for each device.
    """

    blocks: tuple[int, ...]
    output: int
    cell: int
    compute: int


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What to load: a GGUF file (and adapters, projector) or a directory or repository of safetensors.

    `layers` where the file says so much of itself.
    """

    path: Path
    kind: Literal["gguf", "safetensors", "remote", "scripted"] = "gguf"
    adapters: tuple[Path, ...] = ()
    projector: Path | None = None
    remote: Remote | None = None
    layers: Layers | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load it. None and 0 mean: the engine chooses. Names are Ollama's runner options.

    `num_ctx` is the largest context that one request may ask for without growing (a hint: engines
    that can grow do). `num_parallel` is how many sequences may run at once. `embedding` asks for vectors
    instead of text.
    """

    num_ctx: int = 4096
    num_parallel: int = 0
    num_batch: int = 0
    num_gpu: int = -1
    main_gpu: int | None = None
    num_thread: int = 0
    use_mmap: bool | None = None
    flash_attention: bool | None = None
    kv_cache_type: str = "f16"
    embedding: bool = False
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the engine learned by loading. `vocab_size` and contexts in tokens, sizes in bytes.

    `takes_messages`: it renders conversations itself (`Generation.chat`) where no template is known here.
    """

    train_ctx: int
    vocab_size: int
    size: int
    size_vram: int
    bos: str
    eos: str
    can_shift: bool
    can_embed: bool
    description: str = ""
    takes_messages: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /metrics, `ps` and tests. Counters count since load; gauges are now."""

    active: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    kv_cells: int = 0
    kv_used: int = 0
    pid: int = 0
    rss: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


Progress = Callable[[float], None]
"""Called with 0.0 to 1.0 while a model loads."""


class Engine(Protocol):
    """One loaded model. All methods are called on one event loop; `generate` may run many times at once."""

    @property
    def name(self) -> str:
        """The engine's name in the registry: "llama", "scripted", ..."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """Valid after `load`."""
        ...

    async def load(self, progress: Progress | None = None) -> None:
        """Load the model; returns when it can answer. Raises `ModelLoadError`."""
        ...

    def generate(self, request: Generation) -> AsyncIterator[Event]:
        """Started, then Text..., then Finished. Closing the iterator (`aclose`) cancels the sequence.

        Raises `RequestError` or `PromptTooLong` before Started, `EngineCrashed` at any point.
        """
        ...

    async def embed(self, request: Embedding) -> Vectors:
        """One vector per input. Cancelling the call stops the work between two steps.

        Raises `RequestError` if the model makes none (`facts.can_embed`), or for an input that it cannot use.
        """
        ...

    async def tokenize(self, text: str, *, add_special: bool = True, limit: int = 0) -> list[int]:
        """Token ids; special tokens in the text are parsed. With a `limit` > 0 the first `limit` + 1 are enough."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of the ids, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        ...

    async def stats(self) -> EngineStats:
        """A snapshot; cheap enough for a scrape every second."""
        ...

    async def close(self) -> None:
        """Stop at once and give all memory back. Running generations get `EngineCrashed`. Twice is fine."""
        ...

    @property
    def threads(self) -> int:
        """How many CPU threads it uses when it computes alone; 0: it does not matter."""
        ...

    def set_threads(self, count: int) -> None:
        """Use so many from the next step on, because others compute too or no longer do."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine can no longer answer (its process died, or it was closed)."""
        ...


@dataclass(frozen=True, slots=True)
class Reason:
    """Whether an engine can be used on this machine, and why or why not, in one sentence."""

    ok: bool
    text: str
