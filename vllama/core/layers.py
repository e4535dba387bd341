"""How a GGUF file's bytes lie, block by block, for the division between a GPU and the processor."""

from __future__ import annotations

import re

from vllama.core.memory import cell_size, need
from vllama.engines.base import Layers, LoadOptions
from vllama.models.gguf import GGUFMetadata, TensorInfo
from vllama.models.gguf_types import TENSOR_TYPES

_BLOCK = re.compile(r"blk\.(\d{1,4})\.")

MAX_BLOCKS = 4096
"""More than any model has: nothing is laid out for a number that a file merely claims."""


def layers(metadata: GGUFMetadata, options: LoadOptions) -> Layers | None:
    """None when the file does not say enough: it is then the library's choice."""
    count = metadata.arch_int("block_count")
    if not 0 < count <= MAX_BLOCKS:
        return None
    blocks, output, embedding = [0] * count, 0, 0
    for tensor in metadata.tensors:
        size = _size(tensor)
        if size is None:
            return None
        match = _BLOCK.match(tensor.name)
        if match is not None and int(match[1]) < count:
            blocks[int(match[1])] += size
        elif tensor.name.startswith("token_embd."):
            embedding += size
        else:
            output += size
    if not all(blocks):
        return None
    if not any(tensor.name.startswith("output.") for tensor in metadata.tensors):
        output += embedding  # used at both ends; the one at the end is a copy
    cell = -(-cell_size(metadata, options) // count)
    return Layers(tuple(blocks), output, cell, need(metadata, 0, options).compute)


def _size(tensor: TensorInfo) -> int | None:
    known = TENSOR_TYPES.get(tensor.type)
    return None if known is None else -(-tensor.elements // known[1]) * known[2]
