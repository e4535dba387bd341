"""How many layers a GPU takes, and what a file says about its layers: pure functions, made-up devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.core.layers import layers
from vllama.core.memory import cell_size
from vllama.engines.base import Layers, LoadOptions
from vllama.engines.llama.offloading import RESERVE, fewer, fitting, share
from vllama.models.gguf import GGUFMetadata, TensorInfo

MIB = 1 << 20
MODEL = Layers(blocks=(100 * MIB,) * 32, output=200 * MIB, cell=4096, compute=300 * MIB)
CELLS = 8192
"""Their keys and values take 32 MiB in each block of `MODEL`."""


def device(room: int) -> int:
    """The free memory that leaves so much room for layers."""
    return int((room + MODEL.compute) / (1 - RESERVE)) + 1


@pytest.mark.parametrize(
    ("room", "count"),
    [
        (0, 0),
        (199 * MIB, 0),
        (200 * MIB, 1),
        (331 * MIB, 1),
        (332 * MIB, 2),
        (200 * MIB + 132 * MIB * 32 - 1 * MIB, 32),
        (200 * MIB + 132 * MIB * 32, 33),
        (100_000 * MIB, 33),
    ],
)
def test_output_and_last_blocks_come_first_and_each_brings_its_cells(room: int, count: int) -> None:
    assert fitting(MODEL, cells=CELLS, free=[device(room)]) == count


def test_longer_contexts_leave_room_for_fewer_layers() -> None:
    free = [device(2000 * MIB)]
    counts = [fitting(MODEL, cells=cells, free=free) for cells in (0, 8192, 32768, 131072)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_two_devices_take_more_than_one_and_less_than_one_of_their_size() -> None:
    one, two = device(1000 * MIB), device(2000 * MIB)
    assert (
        fitting(MODEL, cells=CELLS, free=[one])
        < fitting(MODEL, cells=CELLS, free=[one, one])
        <= fitting(MODEL, cells=CELLS, free=[two])
    )


def test_a_device_without_room_for_the_buffers_of_a_step_counts_for_nothing() -> None:
    full, empty = device(1000 * MIB), 100 * MIB
    assert fitting(MODEL, cells=CELLS, free=[full, empty]) == fitting(MODEL, cells=CELLS, free=[full])
    assert fitting(MODEL, cells=CELLS, free=[]) == 0


@given(
    blocks=st.lists(st.integers(1, 500), min_size=1, max_size=80),
    output=st.integers(0, 500),
    cell=st.integers(0, 5),
    cells=st.integers(0, 100),
    free=st.lists(st.integers(0, 50_000), min_size=1, max_size=4),
)
def test_never_more_than_there_is(blocks: list[int], output: int, cell: int, cells: int, free: list[int]) -> None:
    model = Layers(tuple(blocks), output, cell, compute=10)
    count = fitting(model, cells=cells, free=free)
    assert 0 <= count <= len(blocks) + 1
    placed = (output, *(block + cell * cells for block in reversed(blocks)))[:count]
    assert sum(placed) <= sum(free)
    assert fitting(model, cells=cells, free=[size * 2 for size in free]) >= count


def test_what_is_tried_after_a_failure_ends_at_none() -> None:
    count, tried = 33, []
    while count:
        count = fewer(count)
        tried.append(count)
    assert tried == sorted(tried, reverse=True)
    assert tried[-1] == 0
    assert len(tried) < 20


def test_the_share_on_the_gpu() -> None:
    assert [share(MODEL, count) for count in (-1, 33, 99)] == [1.0, 1.0, 1.0]
    assert share(MODEL, 0) == 0.0
    assert share(MODEL, 17) == pytest.approx((200 + 16 * 100) / 3400)


def file(*tensors: tuple[str, int, tuple[int, ...]], **kv: object) -> GGUFMetadata:
    values = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "feed_forward_length": 128} | kv
    named = {f"llama.{name}": value for name, value in values.items()}
    infos = tuple(TensorInfo(name, kind, shape, 0) for name, kind, shape in tensors)
    return GGUFMetadata({"general.architecture": "llama"} | named, infos, 3, 0)


F32, Q4_1 = 0, 3
USUAL = (
    ("token_embd.weight", Q4_1, (64, 100)),
    ("output_norm.weight", F32, (64,)),
    ("blk.0.attn_q.weight", Q4_1, (64, 64)),
    ("blk.0.attn_norm.weight", F32, (64,)),
    ("blk.1.attn_q.weight", F32, (64, 64)),
)


def test_what_a_file_says_of_its_layers() -> None:
    found = layers(file(*USUAL), LoadOptions())
    assert found is not None
    assert found.blocks == (64 * 64 // 32 * 20 + 64 * 4, 64 * 64 * 4)
    # No output of its own: the embedding is there a second time.
    assert found.output == 64 * 4 + 6400 // 32 * 20
    assert found.cell == 4 * (16 + 16) * 2
    assert found.compute > 0
    own = layers(file(*USUAL, ("output.weight", Q4_1, (64, 100))), LoadOptions())
    assert own is not None
    assert own.output == 64 * 4 + 6400 // 32 * 20
    half = layers(file(*USUAL), replace(LoadOptions(), kv_cache_type="q8_0"))
    assert half is not None
    assert half.cell < found.cell


@pytest.mark.parametrize(
    "metadata",
    [
        file(*USUAL, block_count=0),
        file(*USUAL, block_count=1 << 40),
        file(*USUAL, block_count=3),
        file(*USUAL, ("blk.0.ffn_up.weight", 999, (64, 64))),
        file(),
    ],
)
def test_a_file_that_does_not_say_enough_leaves_it_to_the_library(metadata: GGUFMetadata) -> None:
    assert layers(metadata, LoadOptions()) is None


def test_cells_of_models_that_keep_something_smaller_are_bounded_from_above() -> None:
    assert cell_size(file(*USUAL, **{"attention.kv_lora_rank": 8}), LoadOptions()) == 2 * 4 * 32 * 2
