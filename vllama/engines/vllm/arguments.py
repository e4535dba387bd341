"""The command line and environment of vLLM's server for one model on one machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from vllama.engines.base import LoadOptions
from vllama.engines.completions.directory import Directory
from vllama.errors import ModelLoadError
from vllama.hardware import Hardware

GIB = 1 << 30
MODULE = "vllm.entrypoints.openai.api_server"
SPLIT = ("--tensor-parallel", "-tp", "--pipeline-parallel", "-pp")
GPU_SHARE = 0.9
"""Part of a GPU's memory that vLLM takes when nobody says otherwise."""


def command(python: str, model: Directory, socket: Path, options: LoadOptions) -> list[str]:
    """The program. What the user passes comes last, so that it wins; "auto" is the largest length that fits."""
    argv = [python, "-m", MODULE, "--model", str(model.path), "--served-model-name", "model", "--uds", str(socket)]
    argv += ["--generation-config", "vllm", "--max-model-len", "auto", "--enable-prompt-tokens-details"]
    argv += ["--disable-uvicorn-access-log", "--no-enable-log-requests"]
    if model.pooling:
        argv += ["--runner", "pooling"]
    if options.num_parallel:
        argv += ["--max-num-seqs", str(options.num_parallel)]
    return argv + passed(options)


def passed(options: LoadOptions) -> list[str]:
    """What the user added (the setting `vllm_args`, a model's own), in the shell's way to quote."""
    try:
        return shlex.split(dict(options.extra).get("vllm_args", ""))
    except ValueError as error:
        raise ModelLoadError(f"vllm_args cannot be read: {error}") from None


def environment(model: Directory, key: str, machine: Hardware, environ: Mapping[str, str]) -> dict[str, str]:
    """Ours without our own settings; the key travels here, for everybody may read a command line."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_"))}
    # Not our modules: its interpreter has its own.
    kept.pop("PYTHONPATH", None)
    kept |= {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    kept.setdefault("HF_HUB_OFFLINE", "1")
    if not machine.gpus:
        kept.setdefault("VLLM_CPU_KVCACHE_SPACE", str(cache_gib(model.size, machine)))
    return kept


def cache_gib(weights: int, machine: Hardware) -> int:
    """GiB for keys and values on a CPU: a quarter of what the weights leave free, 1 to 8."""
    return min(max((machine.memory_available - weights) // 4 // GIB, 1), 8)


def check_memory(model: Directory, machine: Hardware, options: LoadOptions) -> None:
    """Raises `ModelLoadError` when the weights alone cannot fit. GPUs count together for a model that is split."""
    own = [gpu for gpu in machine.gpus if not gpu.unified and gpu.memory_total]
    if own:
        split = any(arg.startswith(SPLIT) for arg in passed(options))
        sizes = [gpu.memory_total for gpu in own]
        room, what = int((sum(sizes) if split else max(sizes)) * GPU_SHARE), "the GPU's memory"
    else:
        room, what = machine.memory_total, "this machine's memory"
    if model.size > room:
        raise ModelLoadError(
            f"unable to load model: {model.path} does not fit: it takes {model.size / GIB:.1f} GiB, {what} "
            f"has room for {room / GIB:.1f} GiB; use a smaller or quantised model, or split it (--tensor-parallel-size)"
        )
