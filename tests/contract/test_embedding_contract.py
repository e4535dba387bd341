"""Every engine that makes vectors through the same cases; and the llama engine against plain numpy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.tools.bert import Array, reference, tiny, write
from vllama.engines.base import Embedding, Engine, Generation, ModelSource, Vectors
from vllama.engines.fitting import INPUT_NOT_SHORTER, INPUT_TOO_LONG
from vllama.engines.llama.engine import LlamaEngine
from vllama.engines.scripted import Script, ScriptedEngine
from vllama.errors import EngineCrashed, RequestError

TEXTS = ("why is the sky blue?", "the cat sat on the mat.", "a", "why is the grass green?", "xyz " * 10)
LONG = "the cat sat on the mat " * 40


def rows(vectors: Vectors) -> Array:
    return np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.width)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "tiny.gguf"
    write(tiny(), path)
    return path


@pytest.fixture(params=["scripted", "llama"])
async def engine(request: pytest.FixtureRequest, tiny_bert: Path) -> AsyncIterator[Engine]:
    made: Engine
    if request.param == "scripted":
        made = ScriptedEngine(ModelSource(Path("scripted"), "scripted"), script=Script(train_ctx=64))
    else:
        made = LlamaEngine(ModelSource(tiny_bert))
    await made.load()
    yield made
    await made.close()


async def test_one_unit_vector_for_each_input(engine: Engine) -> None:
    assert engine.facts.can_embed
    made = await engine.embed(Embedding(TEXTS))
    assert rows(made).shape == (len(TEXTS), made.width)
    assert np.allclose(np.linalg.norm(rows(made), axis=1), 1, atol=1e-5)
    assert len(np.unique(rows(made).round(4), axis=0)) == len(TEXTS)
    assert (await engine.embed(Embedding(()))).data == b""


async def test_the_same_in_one_batch_and_one_by_one(engine: Engine) -> None:
    together = await engine.embed(Embedding(TEXTS))
    alone = [await engine.embed(Embedding((text,))) for text in TEXTS]
    for row, one in zip(rows(together), alone, strict=True):
        assert float(row @ rows(one)[0]) > 0.9999
    assert together.prompt_tokens == sum(one.prompt_tokens for one in alone)


async def test_the_same_at_once_as_one_after_the_other(engine: Engine) -> None:
    together = await asyncio.gather(*(engine.embed(Embedding((text, text))) for text in TEXTS * 8))
    expected = rows(await engine.embed(Embedding(TEXTS)))
    for number, made in enumerate(together):
        for row in rows(made):
            assert float(row @ expected[number % len(TEXTS)]) > 0.9999


async def test_long_inputs_are_cut_or_refused(engine: Engine) -> None:
    cut = await engine.embed(Embedding((LONG,)))
    assert cut.prompt_tokens == engine.facts.train_ctx == 64
    assert (await engine.embed(Embedding((LONG,), num_ctx=10))).prompt_tokens == 10
    with pytest.raises(RequestError, match=INPUT_TOO_LONG):
        await engine.embed(Embedding((LONG,), truncate=False))
    with pytest.raises(RequestError, match=INPUT_NOT_SHORTER):
        await engine.embed(Embedding((LONG,), limit=4))


async def test_a_refused_input_harms_no_other_request(engine: Engine) -> None:
    bad = [engine.embed(Embedding((TEXTS[0], LONG), truncate=False)) for _ in range(4)]
    good = [engine.embed(Embedding(TEXTS)) for _ in range(4)]
    done = await asyncio.gather(*bad, *good, return_exceptions=True)
    assert all(isinstance(one, RequestError) for one in done[:4])
    assert all(isinstance(one, Vectors) for one in done[4:])


async def test_a_cancelled_request_leaves_nothing_behind(engine: Engine) -> None:
    task = asyncio.create_task(engine.embed(Embedding((LONG,) * 500)))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await engine.embed(Embedding(TEXTS))).width
    assert (await engine.stats()).active == 0


async def test_a_closed_engine_embeds_no_more(engine: Engine) -> None:
    await engine.close()
    with pytest.raises(EngineCrashed):
        await engine.embed(Embedding(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
async def test_as_computed_in_numpy(tmp_path: Path, pooling: str) -> None:
    bert = tiny(pooling, context=600)
    write(bert, tmp_path / "bert.gguf")
    engine = LlamaEngine(ModelSource(tmp_path / "bert.gguf"))
    await engine.load()
    try:
        # One is longer than a pack, one longer than the context is at first.
        texts = (*TEXTS, "", "why is " * 150, "on the mat " * 190)
        made = rows(await engine.embed(Embedding(texts)))
        for text, row in zip(texts, made, strict=True):
            assert float(row @ reference(bert, await engine.tokenize(text))) > 0.9999
    finally:
        await engine.close()


async def test_a_model_that_pools_writes_nothing(tiny_bert: Path) -> None:
    engine = LlamaEngine(ModelSource(tiny_bert))
    await engine.load()
    try:
        with pytest.raises(RequestError, match="embeddings"):
            await anext(engine.generate(Generation(prompt="a")))
        assert await engine.detokenize(await engine.tokenize("the cat", add_special=False)) == " the cat"
        with pytest.raises(RequestError, match="vocabulary"):
            await engine.detokenize([10**6])
        engine.set_threads(1)
        assert (await engine.stats()).extra["threads"] == 1
    finally:
        await engine.close()
