"""Prefix cache that outlives the worker, with the real model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.contract.test_llama_worker import collect
from vllama.engines.base import Generation, LoadOptions, ModelSource, Sampling
from vllama.engines.llama.engine import LlamaEngine
from vllama.engines.llama.shelf import SUFFIX

pytestmark = pytest.mark.model

REQUEST = Generation(
    prompt=" ".join(f"item {n} costs {n * 7 % 50} coins," for n in range(60)) + " and item 60 costs",
    num_predict=8,
    sampling=Sampling(temperature=0),
)


async def started(model: Path, folder: Path | None, **changes: str) -> LlamaEngine:
    extra = (("prefix_dir", str(folder)), ("prefix_bytes", str(1 << 28))) if folder is not None else ()
    engine = LlamaEngine(ModelSource(model), LoadOptions(extra=extra, **changes))  # type: ignore[arg-type]
    await engine.load()
    return engine


async def run(model: Path, folder: Path | None, *, files: int = 0, **changes: str) -> tuple[str, int]:
    """The answer and how many tokens came from the cache, of a worker of its own; waits for so many files."""
    engine = await started(model, folder, **changes)
    try:
        text, began, _ = await collect(engine, REQUEST)
        for _ in range(200):
            if len(saved(folder)) >= files:
                break
            await asyncio.sleep(0.05)
        return text, began.cached_tokens
    finally:
        await engine.close()


def saved(folder: Path | None) -> list[Path]:
    return list(folder.rglob("*" + SUFFIX)) if folder is not None else []


async def test_a_prefix_outlives_its_worker_and_changes_no_answer(model_path: Path, tmp_path: Path) -> None:
    plain, cached = await run(model_path, None)
    assert cached == 0
    text, cached = await run(model_path, tmp_path, files=1)
    assert (text, cached) == (plain, 0)
    assert len(saved(tmp_path)) == 1
    text, cached = await run(model_path, tmp_path)
    assert text == plain
    assert cached > 256


async def test_it_is_off_unless_asked_for(model_path: Path, tmp_path: Path) -> None:
    await run(model_path, None)
    assert saved(tmp_path) == []


async def test_a_damaged_file_is_removed_and_the_prompt_computed(model_path: Path, tmp_path: Path) -> None:
    plain, _ = await run(model_path, tmp_path, files=1)
    [file] = saved(tmp_path)
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    text, cached = await run(model_path, tmp_path, files=0)
    assert (text, cached) == (plain, 0)
    # Removed, and perhaps written anew by now.
    assert all(path.read_bytes() != bytes(content) for path in saved(tmp_path))


async def test_another_number_format_does_not_take_it(model_path: Path, tmp_path: Path) -> None:
    await run(model_path, tmp_path, files=1)
    _, cached = await run(model_path, tmp_path, kv_cache_type="q8_0")
    assert cached == 0
