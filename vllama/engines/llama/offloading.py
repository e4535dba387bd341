"""How many of a model's layers a GPU takes: what fits into the memory that its devices have free. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vllama.engines.base import Layers

RESERVE = 0.08
"""Share of a device's free memory that stays free: drivers, displays and rounding want some."""


def fitting(layers: Layers, *, cells: int, free: Sequence[int]) -> int:
    """The library's `n_gpu_layers`: 0 for none; 1 is the output alone, then the blocks from the last to the first.

    `free`: bytes of each device, among which the library spreads the layers. `cells`: of the KV memory, whose part of a
    block lies beside its weights.
    """
    rooms = [room for room in (int(size * (1 - RESERVE)) - layers.compute for size in free) if room > 0]
    # A layer lies on one device as a whole: on each but the last, up to one layer's room stays unused.
    largest = max(layers.blocks) + layers.cell * cells
    room = sum(rooms) - largest * max(len(rooms) - 1, 0)
    count = 0
    for size in (layers.output, *(block + layers.cell * cells for block in reversed(layers.blocks))):
        room -= size
        if room < 0:
            break
        count += 1
    return count


def fewer(count: int) -> int:
    """What to try when so many did not fit after all."""
    return count * 3 // 4


def share(layers: Layers, count: int) -> float:
    """How much of the model lies on the GPU with so many layers there, from 0 to 1. Negative counts mean all."""
    sizes = (layers.output, *reversed(layers.blocks))
    if count < 0 or count >= len(sizes):
        return 1.0
    return sum(sizes[:count]) / max(1, sum(sizes))
