"""Sharing threads between models that compute at once, and refusing what does not fit: pure functions."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.core.memory import Need, lacks, need, never_fits
from vllama.core.threads import shares
from vllama.engines.base import LoadOptions
from vllama.hardware import Gpu, Hardware
from vllama.models.gguf import GGUFMetadata

GIB = 1 << 30
MACHINE = Hardware("linux", "x86_64", 4, 8, 16 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("alone", "expected"),
    [
        ([], []),
        ([2], [2]),
        ([2, 2], [1, 1]),
        ([8, 8], [4, 4]),
        ([8, 1], [7, 1]),
        ([1, 8], [1, 7]),
        ([4, 4, 4], [2, 1, 1]),
        ([2, 2, 2, 2], [1, 1, 1, 1]),
        ([5, 5], [3, 2]),
    ],
)
def test_threads_are_shared(alone: list[int], expected: list[int]) -> None:
    assert shares(alone) == expected


@given(st.lists(st.integers(1, 64), min_size=1, max_size=8))
def test_every_engine_gets_a_thread_and_none_is_left(alone: list[int]) -> None:
    found = shares(alone)
    assert all(1 <= got <= wanted for got, wanted in zip(found, alone, strict=True))
    most = max(alone)
    assert sum(found) <= max(most, len(alone))
    # A thread stays unused only where nobody could use it.
    assert sum(found) >= min(most, sum(alone))


def metadata(**kv: object) -> GGUFMetadata:
    values: dict[str, object] = {
        "block_count": 32,
        "embedding_length": 4096,
        "feed_forward_length": 14336,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "context_length": 131072,
    }
    values |= {name.replace("__", "."): value for name, value in kv.items()}
    named = {f"llama.{name}": value for name, value in values.items() if value is not None}
    return GGUFMetadata({"general.architecture": "llama"} | named, (), 3, 1000)


def test_what_a_usual_model_needs() -> None:
    found = need(metadata(), 5 * GIB, LoadOptions(num_ctx=8192))
    assert found.weights == 5 * GIB - 1000
    # 32 layers, 8 heads of 128, keys and values, two bytes.
    assert found.context == 32 * 8 * 256 * 8192 * 2
    assert found.compute == 4 * 512 * (2 * 4096 + 14336)
    assert found.total == found.weights + found.context + found.compute


@pytest.mark.parametrize(
    ("kv", "options", "context"),
    [
        ({}, {"kv_cache_type": "q8_0"}, 32 * 8 * 256 * 8192 * 8.5 / 8),
        ({"context_length": 2048}, {}, 32 * 8 * 256 * 2048 * 2),
        ({"attention__key_length": 64, "attention__value_length": 32}, {}, 32 * 8 * 96 * 8192 * 2),
        ({"attention__head_count_kv": None}, {}, 32 * 32 * 256 * 8192 * 2),
        ({"attention__sliding_window": 1024}, {}, 32 * 8 * 256 * 1536 * 2),
        ({"attention__kv_lora_rank": 512}, {}, 0),
        ({"ssm__state_size": 16}, {}, 0),
        ({"block_count": None}, {}, 0),
        ({"attention__head_count": "many"}, {}, 0),
        ({}, {"embedding": True}, 0),
    ],
)
def test_what_is_not_known_counts_as_nothing(kv: dict[str, object], options: dict[str, object], context: float) -> None:
    assert need(metadata(**kv), 1, replace(LoadOptions(num_ctx=8192), **options)).context == context


def test_mapped_weights_need_not_be_free_but_must_fit() -> None:
    large = Need(12 * GIB, GIB, GIB)
    assert lacks(large, LoadOptions(), MACHINE) == ""
    assert "8.0 GiB" in lacks(large, LoadOptions(use_mmap=False), MACHINE)
    assert never_fits(large, LoadOptions(), MACHINE) == ""
    text = never_fits(Need(20 * GIB, GIB, 100 << 20), LoadOptions(), MACHINE)
    assert "at least 21.1 GiB (weights 20.0 GiB, context 1.0 GiB, compute 100.0 MiB)" in text
    assert "16.0 GiB" in text
    assert "9.0 GiB" in lacks(Need(GIB, 8 * GIB, 1), LoadOptions(), MACHINE)


@pytest.mark.parametrize(
    ("options", "machine"),
    [
        (LoadOptions(), replace(MACHINE, memory_total=0)),
        (LoadOptions(), replace(MACHINE, memory_available=0)),
        (LoadOptions(), replace(MACHINE, gpus=(Gpu("G", "nvidia", 1, 1),))),
    ],
)
def test_nothing_is_refused_when_the_machine_is_not_known(options: LoadOptions, machine: Hardware) -> None:
    huge = Need(10**15, 10**15, 10**15)
    assert never_fits(huge, options, machine) == lacks(huge, options, machine) == ""


def test_a_gpu_that_may_not_be_used_changes_nothing() -> None:
    machine = replace(MACHINE, gpus=(Gpu("G", "nvidia", 1, 1),))
    assert never_fits(Need(10**15, 0, 0), LoadOptions(num_gpu=0), machine)
    shared = replace(MACHINE, gpus=(Gpu("M", "apple", 1, 1, unified=True),))
    assert never_fits(Need(10**15, 0, 0), LoadOptions(), shared)


def test_a_file_that_claims_billions_of_layers_is_only_too_large() -> None:
    """Found by fuzzing: a list with an entry for each layer took 16 GiB and a minute of the gateway's time."""
    tracemalloc.start()
    try:
        found = need(metadata(block_count=2**31), 1, LoadOptions(num_ctx=8192))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "it needs at least" in never_fits(found, LoadOptions(), MACHINE)
