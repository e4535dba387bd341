"""Which engine a model gets and why, and what to do about one that no engine here can run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from vllama.config import ModelSettings, Settings
from vllama.engines.registry import KINDS, EngineKind, by_name, choose
from vllama.errors import ModelLoadError, VllamaError
from vllama.hardware import Hardware, facts
from vllama.models.model import Model
from vllama.models.names import DEFAULT_TAG, Name


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and in one sentence why this one."""

    kind: EngineKind
    reason: str


@functools.cache
def _machine() -> Hardware:
    """What does not change while the server runs: which GPUs there are."""
    return facts()


def own_settings(model: Model, settings: Settings) -> ModelSettings:
    """The model's table in vllama.toml, or an empty one."""
    for text, own in settings.models.items():
        if Name.parse(text).key == model.name.key:
            return own
    return ModelSettings()


def choose_engine(model: Model, settings: Settings, machine: Callable[[], Hardware] = _machine) -> Choice:
    """Raises `ConfigError` for an engine that cannot run, `ModelLoadError` for weights that it cannot read."""
    if model.remote is not None:
        return Choice(by_name("upstream"), f"another server has it: {model.remote.url}")
    own = own_settings(model, settings).engine
    forced, who = (own, "vllama.toml") if own else (settings.engine, settings.source("engine"))
    kind = engine_for(model, forced)
    if forced:
        return Choice(kind, f"{who} says so")
    if model.gguf is not None:
        return Choice(kind, "GGUF, which llama.cpp reads" + _where(machine()))
    return Choice(kind, f"safetensors, which {kind.title} reads{_where(machine(), vllm=True)}: {kind.available().text}")


def explained(model: Model, settings: Settings, machine: Callable[[], Hardware] = _machine) -> str:
    """One line: the engine's name and why it, or why none can run the model and what to do."""
    try:
        choice = choose_engine(model, settings, machine)
    except VllamaError as error:
        return f"none: {error.text}"
    return f"{choice.kind.name}: {choice.reason}"


def engine_for(model: Model, forced: str) -> EngineKind:
    """Raises `ConfigError` for an engine that cannot run, `ModelLoadError` for weights that it cannot read."""
    if model.remote is not None:
        return by_name("upstream")
    if model.gguf is not None:
        chosen = by_name(forced) if forced else None
        if chosen is not None and "gguf" not in chosen.reads:
            raise ModelLoadError(
                f"model '{model.name.shortest}' is a GGUF, which {chosen.title} does not read: leave the engine to "
                "vLLama (llama.cpp runs it), or pull safetensors (vllama pull org/name:safetensors)"
            )
        return choose("gguf", forced)
    if model.directory is None:
        return choose("scripted", forced)
    readers = [kind for kind in KINDS if "safetensors" in kind.reads]
    chosen = by_name(forced) if forced else None
    if chosen is not None and (chosen in readers or "scripted" in chosen.reads):
        return choose("safetensors", forced)
    if chosen is None and any(kind.automatic and kind.available().ok for kind in readers):
        return choose("safetensors")
    title = chosen.title if chosen is not None else "llama.cpp"
    missing = "" if chosen is not None else f" ({readers[0].available().text})"
    raise ModelLoadError(
        f"model '{model.name.shortest}' is safetensors, which {title} cannot run: {_next_step(model)}, "
        f"or serve it with vLLM (vllama[vllm]) on a machine that has a GPU for it{missing}"
    )


def prefers_safetensors(settings: Settings, machine: Callable[[], Hardware] = _machine) -> bool:
    """Whether a repository that has both forms is pulled for vLLM: it was chosen, or Linux, NVIDIA and vLLM meet."""
    if settings.engine:
        return by_name(settings.engine).reads == ("safetensors",)
    here = machine()
    nvidia = here.os == "linux" and any(gpu.vendor == "nvidia" for gpu in here.gpus)
    return nvidia and by_name("vllm").available().ok


def _where(machine: Hardware, *, vllm: bool = False) -> str:
    """On which part of the machine it will run."""
    for gpu in machine.gpus:
        if gpu.vendor == "nvidia":
            return f", on {gpu.name}"
        if gpu.vendor == "apple" and not vllm:
            return f", on {gpu.name} by Metal"
    return ", on the processor"


def _next_step(model: Model) -> str:
    """How to have the same model as a GGUF."""
    repo = model.parent.partition("/")[2] or model.name.namespace_model
    # under this name the GGUF would take the place of the safetensors
    same = model.name.tag == DEFAULT_TAG
    return f"pull a GGUF of it (vllama pull hf.co/{repo}:{'Q4_K_M' if same else DEFAULT_TAG})"
