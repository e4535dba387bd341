"""Cuts a GGUF file into pieces, as llama-gguf-split does: all metadata in the first, the tensors spread over all."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.tools.gguf import text
from vllama.models.gguf import TensorInfo, read_metadata

_UINT16, _INT32 = 2, 5


def _info(tensor: TensorInfo, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return text(tensor.name) + shape + struct.pack("<IQ", tensor.type, offset)


def split_gguf(source: Path, folder: Path, stem: str, count: int) -> list[Path]:
    """Writes STEM-00001-of-0000N.gguf and so on; the paths in order."""
    metadata = read_metadata(source)
    raw = source.read_bytes()
    start = raw.index(_info(metadata.tensors[0], metadata.tensors[0].offset), 24)
    own_pairs, own_count = raw[24:start], len(metadata.kv)
    tensors = sorted(metadata.tensors, key=lambda tensor: tensor.offset)
    ends = [tensor.offset for tensor in tensors[1:]] + [len(raw) - metadata.data_offset]
    share = -(-len(tensors) // count)
    paths = []
    for number in range(count):
        mine = range(number * share, min(len(tensors), (number + 1) * share))
        split = text("split.no") + struct.pack("<IH", _UINT16, number)
        split += text("split.count") + struct.pack("<IH", _UINT16, count)
        split += text("split.tensors.count") + struct.pack("<Ii", _INT32, len(tensors))
        pairs, pair_count = (own_pairs + split, own_count + 3) if number == 0 else (split, 3)
        base = tensors[mine[0]].offset
        head = b"GGUF" + struct.pack("<IQQ", metadata.version, len(mine), pair_count) + pairs
        head += b"".join(_info(tensors[i], tensors[i].offset - base) for i in mine)
        head += bytes(-len(head) % 32)
        first, last = metadata.data_offset + base, metadata.data_offset + ends[mine[-1]]
        path = folder / f"{stem}-{number + 1:05}-of-{count:05}.gguf"
        path.write_bytes(head + raw[first:last])
        paths.append(path)
    return paths
