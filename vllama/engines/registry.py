"""Which engines exist, whether each can run here, and which one a model gets. Nothing falls back silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllama.engines.base import Engine, LoadOptions, ModelSource, Reason
from vllama.errors import ConfigError

Factory = Callable[[ModelSource, LoadOptions], Engine]


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One entry: how to make the engine, whether it can run here, which kinds of files it reads, whether it takes
    the memory that a file's weights need, whether its models are another server's and load nothing here, and
    whether it is ever chosen without being named."""

    name: str
    title: str
    reads: tuple[str, ...]
    available: Callable[[], Reason]
    create: Factory
    takes_memory: bool = True
    remote: bool = False
    automatic: bool = True


def _llama_available() -> Reason:
    from vllama.engines.llama.availability import available

    return available()


def _llama(source: ModelSource, options: LoadOptions) -> Engine:
    from vllama.engines.llama.engine import LlamaEngine

    return LlamaEngine(source, options)


def _scripted_available() -> Reason:
    from vllama.engines.scripted import available

    return available()


def _scripted(source: ModelSource, options: LoadOptions) -> Engine:
    from vllama.engines.scripted import ScriptedEngine

    return ScriptedEngine(source, options)


def _vllm_available() -> Reason:
    from vllama.engines.vllm.availability import available

    return available()


def _vllm(source: ModelSource, options: LoadOptions) -> Engine:
    from vllama.engines.vllm.engine import VllmEngine

    return VllmEngine(source, options)


def _max_available() -> Reason:
    from vllama.engines.max.availability import available

    return available()


def _max(source: ModelSource, options: LoadOptions) -> Engine:
    from vllama.engines.max.engine import MaxEngine

    return MaxEngine(source, options)


def _upstream_available() -> Reason:
    return Reason(True, "serves the models of the setting `upstream` and of vllama.toml, and no others")


def _upstream(source: ModelSource, options: LoadOptions) -> Engine:
    from vllama.engines.upstream.engine import UpstreamEngine

    return UpstreamEngine(source, options)


KINDS = (
    EngineKind("llama", "llama.cpp", ("gguf",), _llama_available, _llama),
    EngineKind("vllm", "vLLM", ("safetensors",), _vllm_available, _vllm),
    EngineKind("max", "MAX", ("safetensors",), _max_available, _max, automatic=False),
    EngineKind("upstream", "upstream", ("remote",), _upstream_available, _upstream, False, remote=True),
    EngineKind("scripted", "scripted", ("gguf", "scripted"), _scripted_available, _scripted, False, automatic=False),
)
"""In order of preference. MAX (experimental) and the scripted engine are never chosen automatically."""


def all_engines() -> list[tuple[str, Reason]]:
    """Every engine with its reason, for `vllama doctor`."""
    return [(kind.name, kind.available()) for kind in KINDS]


def by_name(name: str) -> EngineKind:
    """Raises `ConfigError` that lists the names."""
    wanted = name.lower()
    wanted = {"llama.cpp": "llama", "llamacpp": "llama"}.get(wanted, wanted)
    for kind in KINDS:
        if kind.name == wanted:
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    raise ConfigError(f"unknown engine {name!r}: choose one of {known}")


def choose(kind_of_file: str, forced: str = "") -> EngineKind:
    """The engine for a file. `forced` names one and is never overridden; its reason is the error if it cannot run."""
    if forced:
        engine = by_name(forced)
        reason = engine.available()
        if not reason.ok:
            raise ConfigError(f"engine {engine.name} cannot run here: {reason.text}")
        return engine
    reasons = []
    for engine in KINDS:
        if not engine.automatic or kind_of_file not in engine.reads:
            continue
        reason = engine.available()
        if reason.ok:
            return engine
        reasons.append(f"{engine.name}: {reason.text}")
    detail = "; ".join(reasons) or f"no engine reads {kind_of_file} files"
    raise ConfigError(f"no engine can run this model ({detail}); see `vllama doctor`")
