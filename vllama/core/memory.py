"""Whether a model fits into the machine's memory, told before it is loaded. Sizes are bytes.

Every figure is a lower bound, and what is not known counts as nothing: a model that might run is never refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllama.engines.base import LoadOptions
from vllama.hardware import Hardware
from vllama.models.gguf import GGUFArray, GGUFMetadata

BATCH = 512
"""Tokens of a step when nobody says otherwise."""

_BITS = {"f32": 32.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5, "q4_1": 5.0, "q4_0": 4.5}


@dataclass(frozen=True, slots=True)
class Need:
    """What a loaded model takes: its weights, the KV memory of one context, the buffers of a step."""

    weights: int
    context: int
    compute: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.context + self.compute


def need(metadata: GGUFMetadata, file_size: int, options: LoadOptions) -> Need:
    """What this model needs at least with these options."""
    width = metadata.arch_int("embedding_length")
    batch = options.num_batch or BATCH
    compute = 4 * batch * (2 * width + metadata.arch_int("feed_forward_length"))
    return Need(max(0, file_size - metadata.data_offset), _context(metadata, options, batch), compute)


def cell_size(metadata: GGUFMetadata, options: LoadOptions) -> int:
    """The keys and values of one KV cell in all blocks at most; 0 when the file does not say."""
    layers, heads = metadata.arch_int("block_count"), _numbers(metadata.arch("attention.head_count"))
    if not layers or not heads or options.embedding:
        return 0
    held = _numbers(metadata.arch("attention.head_count_kv")) or heads
    # The number of layers is whatever the file says: nothing may be laid out for each of them.
    held_by_all = sum(held) if len(held) == layers else held[0] * layers
    head = metadata.arch_int("embedding_length") // max(1, heads[0])
    key = metadata.arch_int("attention.key_length") or head
    value = metadata.arch_int("attention.value_length") or head
    return int(held_by_all * (key + value) * _BITS.get(options.kv_cache_type, 16.0) / 8)


def _context(metadata: GGUFMetadata, options: LoadOptions, batch: int) -> int:
    if metadata.arch("attention.kv_lora_rank") or metadata.arch("ssm.state_size") or metadata.arch("wkv.head_size"):
        return 0  # these keep something smaller
    trained = metadata.arch_int("context_length")
    cells = min(options.num_ctx, trained) if trained else options.num_ctx
    window = metadata.arch_int("attention.sliding_window")
    if window:
        cells = min(cells, window + batch)  # some layers keep all; how many is not in the file
    return cell_size(metadata, options) * cells


def _numbers(value: Any) -> list[int]:
    found = value.values() if isinstance(value, GGUFArray) else [value]
    return [number for number in found if isinstance(number, int) and not isinstance(number, bool) and number >= 0]


def never_fits(need: Need, options: LoadOptions, machine: Hardware) -> str:
    """Why the model can never be loaded here, "" if it can."""
    if _unknown(options, machine) or need.total <= machine.memory_total:
        return ""
    return f"it needs at least {_told(need)}, and this machine has {_size(machine.memory_total)}"


def lacks(need: Need, options: LoadOptions, machine: Hardware) -> str:
    """Why the model cannot be loaded just now, "" if it can.

    Weights that are mapped from the file live in the page cache, which gives way and comes back; only what is
    allocated must be free.
    """
    mapped = options.use_mmap is not False
    allocated = need.total - (need.weights if mapped else 0)
    if _unknown(options, machine) or allocated <= machine.memory_available:
        return ""
    mapping = ", its weights can stay in the file" if mapped else ""
    return f"it needs at least {_told(need)}{mapping}, and {_size(machine.memory_available)} of memory are free"


def _unknown(options: LoadOptions, machine: Hardware) -> bool:
    # How much of it a GPU with memory of its own takes, only the library finds out.
    offloads = options.num_gpu != 0 and any(not gpu.unified for gpu in machine.gpus)
    return offloads or machine.memory_total <= 0 or machine.memory_available <= 0


def _told(need: Need) -> str:
    return (
        f"{_size(need.total)} (weights {_size(need.weights)}, context {_size(need.context)}, "
        f"compute {_size(need.compute)})"
    )


def _size(count: int) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):.1f} MiB"
