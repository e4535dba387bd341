"""How the model is held: mapped, copied, locked; the number format of its KV memory; flash attention.

One thread: those that wait for each other are slow where other programs want the cores too, and change no result.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_llama_worker import collect
from vllama.engines.base import Generation, LoadOptions, Logprob, ModelSource, Sampling, Started, Text
from vllama.engines.llama.engine import LlamaEngine
from vllama.errors import ModelLoadError

pytestmark = pytest.mark.model

PROMPT = "The largest island of the Mediterranean Sea is Sicily, and the second largest is"
REQUEST = Generation(prompt=PROMPT, num_predict=12, top_logprobs=5, sampling=Sampling(temperature=0))


async def answered(model: Path, options: LoadOptions) -> tuple[str, dict[str, float]]:
    """The text and the likeliest first tokens of an engine of its own."""
    engine = LlamaEngine(ModelSource(model), options)
    try:
        await engine.load()
        first: tuple[Logprob, ...] = ()
        text = ""
        async for event in engine.generate(REQUEST):
            if isinstance(event, Text):
                text += event.text
                first = first or event.logprobs
        return text, {other.token: other.logprob for other in first[0].top}
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The answer with the defaults, once asked for."""
    return {}


async def default(model: Path, kept: dict[str, Any]) -> tuple[str, dict[str, float]]:
    if not kept:
        kept["text"], kept["tops"] = await answered(model, LoadOptions(num_thread=1))
    return kept["text"], kept["tops"]


@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(num_thread=1, use_mmap=True),
        LoadOptions(num_thread=1, use_mmap=False),
        LoadOptions(num_thread=1, extra=(("mlock", "1"),)),
        LoadOptions(num_thread=1, use_mmap=False, extra=(("mlock", "1"),)),
    ],
    ids=["mapped", "copied", "mapped and locked", "copied and locked"],
)
async def test_where_the_weights_are_changes_no_text(
    model_path: Path, plain: dict[str, Any], options: LoadOptions
) -> None:
    assert await answered(model_path, options) == await default(model_path, plain)


@pytest.fixture
def size(model_path: Path) -> int:
    """Bytes of the model's file."""
    return model_path.stat().st_size


async def test_locked_weights_are_locked(model_path: Path, size: int) -> None:
    reason = may_not_lock(size)
    if reason:
        pytest.skip(reason)
    engine = LlamaEngine(ModelSource(model_path), LoadOptions(num_thread=1, extra=(("mlock", "1"),)))
    try:
        await engine.load()
        assert locked((await engine.stats()).pid) > 0.8 * size
    finally:
        await engine.close()


def may_not_lock(size: int) -> str:
    """Why nothing can be locked here, or nothing seen of it; "" if it can."""
    if not os.path.exists("/proc/self/status"):
        return "only Linux says how much of a process is locked"
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "this user may not lock so much" if limit != resource.RLIM_INFINITY and limit < size else ""


def locked(pid: int) -> int:
    """Bytes of a process that stay in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmLck:"))


@pytest.mark.parametrize(("kv_type", "near"), [("f16", 0.3), ("bf16", 0.5), ("f32", 0.3), ("q8_0", 0.5), ("q4_0", 2.5)])
async def test_a_kv_type_rounds_and_does_not_change_the_meaning(
    model_path: Path, plain: dict[str, Any], kv_type: str, near: float
) -> None:
    _, tops = await answered(model_path, LoadOptions(num_thread=1, kv_cache_type=kv_type))
    _, expected = await default(model_path, plain)
    same = tops.keys() & expected.keys()
    assert len(same) >= 3
    assert max(math.fabs(tops[token] - expected[token]) for token in same) < near


async def test_quantised_kv_takes_less_memory(model_path: Path, size: int) -> None:
    sizes = []
    for kv_type in ("f16", "q8_0", "q4_0"):
        engine = LlamaEngine(ModelSource(model_path), LoadOptions(num_thread=1, kv_cache_type=kv_type))
        try:
            await engine.load()
            sizes.append(engine.facts.size - size)
        finally:
            await engine.close()
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("flash", [True, False])
async def test_flash_attention_changes_rounding_only(model_path: Path, plain: dict[str, Any], flash: bool) -> None:
    _, tops = await answered(model_path, LoadOptions(num_thread=1, flash_attention=flash))
    _, expected = await default(model_path, plain)
    same = tops.keys() & expected.keys()
    assert len(same) >= 4
    assert max(math.fabs(tops[token] - expected[token]) for token in same) < 0.3


async def test_quantised_kv_without_flash_attention_is_a_clear_error(model_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="flash"):
        await answered(model_path, LoadOptions(num_thread=1, flash_attention=False, kv_cache_type="q8_0"))


async def test_an_unknown_kv_type_is_a_clear_error(model_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no KV cache type 'q9'; there are f32, f16"):
        await answered(model_path, LoadOptions(num_thread=1, kv_cache_type="q9"))


async def test_what_comes_from_the_prefix_cache_changes_no_text(model_path: Path) -> None:
    engine = LlamaEngine(ModelSource(model_path), LoadOptions(num_thread=1))
    differ = []
    try:
        await engine.load()
        for number, topic in enumerate(
            ("tea", "owls", "jazz", "snow", "money", "bees", "glass", "rust", "maps", "salt")
        ):
            prompt = f"{number}. What everybody should know about {topic}, told in a few plain sentences:"
            request = Generation(prompt=prompt, num_predict=32, top_logprobs=3, sampling=Sampling(temperature=0))
            without, began, _ = await collect(engine, request)
            assert began.cached_tokens < 4
            within, began, _ = await collect(engine, request)
            assert began.cached_tokens == began.prompt_tokens - 1
            if without != within:
                differ.append((topic, without, within))
    finally:
        await engine.close()
    # The last token of a prompt is computed alone then, not with the others: floats are added up in another order.
    assert len(differ) <= 1, differ


async def test_a_prompt_beside_a_running_answer_is_computed_in_chunks_of_the_wanted_size(model_path: Path) -> None:
    chunk, words = 16, 200
    engine = LlamaEngine(ModelSource(model_path), LoadOptions(num_thread=1, extra=(("prefill_chunk", str(chunk)),)))
    try:
        await engine.load()
        never = tuple((token, -math.inf) for token in await engine.tokenize(engine.facts.eos, add_special=False))
        endless = Sampling(temperature=0, logit_bias=never)
        running = engine.generate(replace(REQUEST, num_predict=-1, top_logprobs=None, sampling=endless))
        async for event in running:
            if isinstance(event, Text):
                break
        before = (await engine.stats()).steps
        long = replace(REQUEST, prompt="sea " * words, num_predict=1, top_logprobs=None)
        events = [event async for event in engine.generate(long)]
        after = (await engine.stats()).steps
        await running.aclose()  # type: ignore[attr-defined]
    finally:
        await engine.close()
    prompt = next(event.prompt_tokens for event in events if isinstance(event, Started))
    assert prompt >= words
    assert after - before >= prompt // chunk
