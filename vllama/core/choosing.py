"""Which engine a model gets, and what to do about one that no engine here can run."""

from __future__ import annotations

from vllama.engines.registry import KINDS, EngineKind, by_name, choose
from vllama.errors import ModelLoadError
from vllama.models.model import Model
from vllama.models.names import DEFAULT_TAG


def engine_for(model: Model, forced: str) -> EngineKind:
    """Raises `ConfigError` for an engine that cannot run, `ModelLoadError` for weights that it cannot read."""
    if model.remote is not None:
        return by_name("upstream")
    if model.gguf is not None:
        return choose("gguf", forced)
    if model.directory is None:
        return choose("scripted", forced)
    readers = [kind for kind in KINDS if "safetensors" in kind.reads]
    chosen = by_name(forced) if forced else None
    if chosen is not None and (chosen in readers or "scripted" in chosen.reads):
        return choose("safetensors", forced)
    if chosen is None and any(kind.available().ok for kind in readers):
        return choose("safetensors")
    title = chosen.title if chosen is not None else "llama.cpp"
    raise ModelLoadError(
        f"model '{model.name.shortest}' is safetensors, which {title} cannot run: {_next_step(model)}, "
        "or serve it with vLLM (vllama[vllm]) on a machine that has a GPU for it"
    )


def _next_step(model: Model) -> str:
    """How to have the same model as a GGUF."""
    repo = model.parent.partition("/")[2] or model.name.namespace_model
    # under this name the GGUF would take the place of the safetensors
    same = model.name.tag == DEFAULT_TAG
    return f"pull a GGUF of it (vllama pull hf.co/{repo}:{'Q4_K_M' if same else DEFAULT_TAG})"
