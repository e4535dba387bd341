"""The one table of settings: a field, its default, its readers and its help stand together.

`vllama config`, docs/configuration.md and the reader in load.py are made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vllama.config import values
from vllama.config.host import Host
from vllama.config.models import ModelSettings
from vllama.goduration import NS_PER_SECOND

Parser = Callable[[str], object]
"""Text to value; raises ValueError with the reason."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of one setting besides its default. `kind` is its type in words, for the documentation.

    `parse` reads flags, VLLAMA_* and the file, `parse_ollama` reads OLLAMA_*. `ollama` is False where Ollama has
    no such variable.
    """

    env: str
    kind: str
    help: str
    parse: Parser
    parse_ollama: Parser
    show: Callable[[object], str]
    ollama: bool
    default_text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `vllama config`: the value as text and where it came from."""

    name: str
    value: str
    source: str


def _setting(
    default: object,
    env: str,
    kind: str,
    help: str,
    parse: Parser,
    *,
    ollama: Parser | bool = False,
    show: Callable[[object], str] = values.show,
    default_text: str | None = None,
    secret: bool = False,
) -> Any:
    spec = Spec(
        env=env,
        kind=kind,
        help=help,
        parse=parse,
        parse_ollama=ollama if callable(ollama) else parse,
        show=show,
        ollama=bool(ollama),
        default_text=show(default) if default_text is None else default_text,
    )
    return field(default=default, metadata={"spec": spec}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set, typed. Durations are ns. `load_settings` makes one; `Settings()` has the defaults."""

    # _setting returns a dataclass field, not a value shared by instances.
    host: Host = _setting(  # noqa: RUF009
        Host(),
        "HOST",
        "address",
        "Where the server listens and where the commands look for it: `host:port`, `:port`, `[::1]:port`, "
        "`https://host/path`.",
        values.host,
        ollama=True,
        default_text="127.0.0.1:11434",
    )
    models_dir: Path = _setting(  # noqa: RUF009
        values.user_path("~/.ollama/models"),
        "MODELS",
        "path",
        "The model store, in Ollama's own layout; an existing one is used as it is.",
        values.user_path,
        ollama=values.path,
        default_text="~/.ollama/models",
    )
    packaged_models: bool = _setting(
        True,
        "PACKAGED_MODELS",
        "bool",
        "Whether models carried by installed Python packages are offered too, after the store's.",
        values.strict_bool,
    )
    engine: str = _setting(
        "",
        "ENGINE",
        "text",
        "The engine for every model; empty chooses one that suits the machine and the model. "
        "`vllama doctor` lists them.",
        values.text,
    )
    vllm_args: str = _setting(
        "",
        "VLLM_ARGS",
        "text",
        "Arguments added to vLLM's command line, quoted as a shell does; they win over ours. `--vllm-arg` adds one.",
        values.text,
    )
    upstream: str = _setting(
        "",
        "UPSTREAM",
        "address",
        "An OpenAI-compatible deployment whose models are offered beside one's own: `http://host:8000/v1`.",
        values.address,
    )
    upstream_key: str = _setting(
        "",
        "UPSTREAM_KEY",
        "secret",
        "The key (bearer token) that the deployment wants; never shown.",
        values.text,
        show=values.show_secret,
        secret=True,
    )
    upstream_timeout: int = _setting(
        600 * NS_PER_SECOND,
        "UPSTREAM_TIMEOUT",
        "duration",
        "How long a deployment may be silent, before its answer and within it.",
        values.timeout,
        show=values.show_duration,
    )
    preload: tuple[str, ...] = _setting(
        (),
        "PRELOAD",
        "list",
        "Models to load when the server starts.",
        values.words,
    )
    keep_alive: int = _setting(
        300 * NS_PER_SECOND,
        "KEEP_ALIVE",
        "duration",
        "How long a model stays loaded after its last request: `5m`, seconds, 0 to unload at once, negative for ever.",
        values.keep_alive,
        ollama=True,
        show=values.show_duration,
    )
    load_timeout: int = _setting(
        300 * NS_PER_SECOND,
        "LOAD_TIMEOUT",
        "duration",
        "How long loading a model may take without progress; 0 or less is no limit.",
        values.timeout,
        ollama=True,
        show=values.show_duration,
    )
    num_parallel: int = _setting(
        0,
        "NUM_PARALLEL",
        "count",
        "Sequences that one model generates at once; 0 lets the engine choose.",
        values.count,
        ollama=True,
    )
    max_loaded_models: int = _setting(
        0,
        "MAX_LOADED_MODELS",
        "count",
        "Models loaded at once; 0 is 3 for each GPU, or 3 without one.",
        values.count,
        ollama=True,
    )
    max_queue: int = _setting(
        512,
        "MAX_QUEUE",
        "count",
        "Requests that may wait; one more is answered with 503.",
        values.count,
        ollama=True,
    )
    context_length: int = _setting(
        0,
        "CONTEXT_LENGTH",
        "count",
        "Context of a request that asks for none, in tokens; 0 is 4096.",
        values.count,
        ollama=True,
    )
    flash_attention: bool | None = _setting(
        None,
        "FLASH_ATTENTION",
        "bool or auto",
        "Flash attention; auto leaves it to the engine.",
        values.tristate,
        ollama=values.ollama_bool,
    )
    kv_cache_type: str = _setting(
        "f16",
        "KV_CACHE_TYPE",
        "text",
        "Number format of the key/value cache: `f16`, `q8_0` or `q4_0` (also `bf16`, `f32`, `q4_1`, `q5_0`, `q5_1`). "
        "All but `f16`, `bf16` and `f32` need flash attention.",
        values.kv_cache_type,
        ollama=True,
    )
    prefill_chunk: int = _setting(
        0,
        "PREFILL_CHUNK",
        "count",
        "Prompt tokens that llama.cpp computes in a step beside running answers: fewer make their pauses shorter while "
        "a long prompt is read; 0 is 128.",
        values.count,
    )
    mlock: bool = _setting(
        False,
        "MLOCK",
        "bool",
        "Keep a model's weights in memory whatever else wants it; the user's limit for locked memory must allow it.",
        values.strict_bool,
    )
    prefix_cache_dir: str = _setting(
        "",
        "PREFIX_CACHE_DIR",
        "path",
        "Folder where decoded prompts are kept, so that they need not be computed again after a restart; empty keeps "
        "none. They can be read back into text: the folder's files are readable by this user only.",
        values.folder,
    )
    prefix_cache_size: int = _setting(
        4 << 30,
        "PREFIX_CACHE_SIZE",
        "bytes",
        "The most that `prefix_cache_dir` may hold, for all models together: `512M`, `4G`. The oldest go first.",
        values.size,
        show=values.show_size,
    )
    go_template: bool | None = _setting(
        None,
        "GO_TEMPLATE",
        "bool or auto",
        "Whether a model's Go TEMPLATE renders prompts rather than its Jinja chat template; auto takes the Jinja one "
        "only where it can do more.",
        values.tristate,
        ollama=values.ollama_bool,
    )
    num_thread: int = _setting(
        0,
        "NUM_THREAD",
        "count",
        "Threads that compute; 0 is one for each physical core that this process may use.",
        values.count,
    )
    origins: tuple[str, ...] = _setting(
        values.DEFAULT_ORIGINS,
        "ORIGINS",
        "list",
        "Web origins that may call the server besides this machine's own; `*` in one stands for anything.",
        values.origins,
        ollama=True,
        show=values.show_origins,
    )
    shutdown_grace: int = _setting(
        10 * NS_PER_SECOND,
        "SHUTDOWN_GRACE",
        "duration",
        "How long running answers may go on after SIGTERM or Ctrl+C before they are ended with an error line.",
        values.period,
        show=values.show_duration,
    )
    noprune: bool = _setting(
        False,
        "NOPRUNE",
        "bool",
        "Keep blobs that no model uses.",
        values.strict_bool,
        ollama=values.ollama_bool,
    )
    no_cloud: bool = _setting(
        False,
        "NO_CLOUD",
        "bool",
        "Let `/api/status` name the environment as what disabled the cloud; vLLama itself never uses it.",
        values.strict_bool,
        ollama=values.ollama_bool,
    )
    nohistory: bool = _setting(
        False,
        "NOHISTORY",
        "bool",
        "Keep no history file of the interactive prompt.",
        values.strict_bool,
        ollama=values.ollama_bool,
    )
    log_dir: str = _setting(
        "",
        "LOG_DIR",
        "path or off",
        "Where the server keeps its log for `vllama logs`; empty is the user's folder for logs, `off` keeps none.",
        values.text,
    )
    debug: int = _setting(
        0,
        "DEBUG",
        "level",
        "0 nothing extra, 1 debug lines in the log and tracebacks on the command line, 2 every step.",
        values.debug_level,
        ollama=True,
    )
    models: Mapping[str, ModelSettings] = field(default_factory=lambda: MappingProxyType({}))
    """Settings of single models, by the names in vllama.toml."""
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def source(self, name: str) -> str:
        """Where the value came from: "--host", "VLLAMA_HOST", "OLLAMA_HOST", the file's path, or "default"."""
        if name not in specs():
            raise KeyError(name)
        return self.sources.get(name, "default")

    def rows(self) -> list[Row]:
        """Every setting with its value as text and its source, in the table's order."""
        return [Row(name, spec.show(getattr(self, name)), self.source(name)) for name, spec in specs().items()]


def specs() -> Mapping[str, Spec]:
    """The table: setting name to what is known of it, in order."""
    return {f.name: _spec(f) for f in fields(Settings) if "spec" in f.metadata}


def markdown() -> str:
    """The table of docs/configuration.md."""
    lines = [
        "| Setting | Type | Default | Environment | Meaning |",
        "|---|---|---|---|---|",
    ]
    for name, spec in specs().items():
        env = f"`VLLAMA_{spec.env}`" + (f", `OLLAMA_{spec.env}`" if spec.ollama else "")
        default = f"`{spec.default_text}`" if spec.default_text else "(empty)"
        lines.append(f"| `{name}` | {spec.kind} | {default} | {env} | {spec.help} |")
    return "\n".join(lines) + "\n"


def _spec(of: Field[Any]) -> Spec:
    spec = of.metadata["spec"]
    assert isinstance(spec, Spec)
    return spec
