"""Loading with as many layers as fit: the worker's loop against a library that has too little device memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllama.engines.base import Layers, LoadOptions, ModelSource
from vllama.engines.llama import bindings, frames, worker
from vllama.engines.llama.engine import LlamaEngine

LAYERS = Layers(blocks=(10,) * 30, output=20, cell=0, compute=0)


def load(gpu_layers: int = -1, layers: Layers | None = LAYERS) -> frames.Load:
    return frames.Load(
        path="model.gguf",
        adapters=[],
        cells=100,
        live=1,
        batch=8,
        gpu_layers=gpu_layers,
        main_gpu=-1,
        threads=1,
        mmap=None,
        flash_attention=None,
        kv_cache_type="f16",
        debug=False,
        layers=layers,
    )


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts of layers that were tried; more than ten do not fit."""
    counts: list[int] = []

    def loaded(load: frames.Load, gpu_layers: int, progress: Any, log: Any) -> str:
        counts.append(gpu_layers)
        if gpu_layers > 10 or gpu_layers < 0:
            raise bindings.LoadError("out of device memory")
        return "loaded"

    monkeypatch.setattr(worker, "_loaded", loaded)
    monkeypatch.setattr(worker, "free_device_memory", lambda: (250,))
    return counts


def test_fewer_layers_are_tried_until_they_fit(tried: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    assert worker._fitted(load(), lambda done: None, bindings.Log(False)) == "loaded"  # type: ignore[comparison-overlap]
    assert tried == [22, 16, 12, 9]
    assert capfd.readouterr().err.count("trying fewer") == 3


def test_a_users_own_number_is_final(tried: list[int]) -> None:
    with pytest.raises(bindings.LoadError, match="out of device memory"):
        worker._fitted(load(12), lambda done: None, bindings.Log(False))
    assert tried == [12]


def test_without_devices_or_knowledge_it_is_the_librarys_choice(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(bindings.LoadError):
        worker._fitted(load(layers=None), lambda done: None, bindings.Log(False))
    monkeypatch.setattr(worker, "free_device_memory", lambda: ())
    with pytest.raises(bindings.LoadError):
        worker._fitted(load(), lambda done: None, bindings.Log(False))
    assert tried == [-1, -1]


def test_the_library_says_what_its_devices_have_free() -> None:
    free = bindings.free_device_memory()
    assert bool(free) == bindings.offloads(-1)
    assert all(size >= 0 for size in free)


async def test_a_model_whose_layers_are_known_loads(model_path: Path) -> None:
    engine = LlamaEngine(ModelSource(model_path, layers=LAYERS), LoadOptions(num_parallel=1))
    await engine.load()
    try:
        facts = engine.facts
        assert 0 <= facts.size_vram <= facts.size
        assert bool(facts.size_vram) == bindings.offloads(-1)
    finally:
        await engine.close()
