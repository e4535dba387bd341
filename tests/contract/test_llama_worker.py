"""What only the llama engine can get wrong: its process, its memory, its grammar."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vllama.engines.base import (
    Constraint,
    Embedding,
    Finished,
    Generation,
    LoadOptions,
    ModelSource,
    Sampling,
    Started,
    Text,
)
from vllama.engines.llama import stream
from vllama.engines.llama.availability import available
from vllama.engines.llama.engine import CRASHED, LlamaEngine
from vllama.errors import EngineCrashed, ModelLoadError, RequestError

pytestmark = pytest.mark.model

QUESTION = "<|im_start|>user\nWrite a long story.<|im_end|>\n<|im_start|>assistant\n"
LONG = Sampling(seed=3, logit_bias=((0, -1e9), (2, -1e9)))
"""The small model's end tokens never come."""


def gone(pid: int) -> bool:
    """No such process, or a zombie that nobody has waited for yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def collect(engine: LlamaEngine, request: Generation) -> tuple[str, Started, Finished]:
    """Text, first and last event."""
    text = ""
    async for event in engine.generate(request):
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Text):
            text += event.text
        else:
            return text, started, event
    raise AssertionError("no Finished")


def test_available() -> None:
    assert available().ok
    assert "llama-cpp-python" in available().text


def test_the_gateway_does_not_load_the_library() -> None:
    program = "import sys, vllama.engines.llama.engine, vllama.engines.llama.availability as a; a.available(); "
    program += "print([m for m in ('llama_cpp', 'ctypes', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_a_killed_worker_ends_its_streams_with_an_error(llama_engine: LlamaEngine) -> None:
    pid = (await llama_engine.stats()).pid
    streams = [llama_engine.generate(Generation(prompt=QUESTION, sampling=LONG)) for _ in range(3)]
    for events in streams:
        async for event in events:
            if isinstance(event, Text):
                break
    os.kill(pid, signal.SIGKILL)
    for events in streams:
        with pytest.raises(EngineCrashed) as caught:
            async for _ in events:
                pass
        assert caught.value.text.startswith(CRASHED)
    assert not llama_engine.alive
    with pytest.raises(EngineCrashed):
        await llama_engine.tokenize("x")
    with pytest.raises(EngineCrashed):
        await collect(llama_engine, Generation(prompt=QUESTION))


async def test_no_process_is_left_after_close(llama_engine: LlamaEngine) -> None:
    pid = (await llama_engine.stats()).pid
    await anext(llama_engine.generate(Generation(prompt=QUESTION, sampling=LONG)))
    await llama_engine.close()
    assert gone(pid)


async def test_a_killed_gateway_leaves_no_worker(model_path: Path) -> None:
    program = f"""
import asyncio
from pathlib import Path
from vllama.engines.base import *
from vllama.engines.llama.engine import LlamaEngine
async def main():
    engine = LlamaEngine(ModelSource(Path({str(model_path)!r})), LoadOptions())
    await engine.load()
    stream = engine.generate(Generation(prompt="Once", num_ctx=8000, num_predict=-1))
    await anext(stream)
    print((await engine.stats()).pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    try:
        assert gateway.stdout is not None
        worker = int(await gateway.stdout.readline())
        assert not gone(worker)
    finally:
        gateway.kill()
        await gateway.wait()
    for _ in range(200):
        if gone(worker):
            return
        await asyncio.sleep(0.05)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived the gateway")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "unable to load model"),
        (b"this is no model" * 100, "unable to load model"),
        (b"GGUF" + b"\xff" * 200, "unable to load model"),
    ],
)
async def test_a_bad_file_is_a_load_error(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    engine = LlamaEngine(ModelSource(path), LoadOptions())
    with pytest.raises(ModelLoadError) as caught:
        await engine.load()
    assert str(path) in caught.value.text
    assert reason in caught.value.text
    assert "gave no reason" not in caught.value.text
    assert not engine.alive


@pytest.fixture
def half_a_model(tmp_path: Path, model_path: Path) -> Path:
    """A download that broke off."""
    path = tmp_path / "half.gguf"
    whole = model_path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


async def test_a_truncated_model_is_a_load_error(half_a_model: Path) -> None:
    path = half_a_model
    engine = LlamaEngine(ModelSource(path), LoadOptions())
    with pytest.raises(ModelLoadError, match=r"half\.gguf"):
        await engine.load()


async def test_a_cancelled_load_leaves_no_process(model_path: Path) -> None:
    engine = LlamaEngine(ModelSource(model_path), LoadOptions())
    task = asyncio.create_task(engine.load())
    for _ in range(5000):
        if engine._child.pid:
            break
        await asyncio.sleep(0.001)
    pid = engine._child.pid
    assert pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


async def test_the_same_prompt_again_comes_from_the_cache(llama_engine: LlamaEngine) -> None:
    prompt = " ".join(f"word{i}" for i in range(100))
    request = Generation(prompt=prompt, num_predict=2, sampling=Sampling(temperature=0))
    first, began, _ = await collect(llama_engine, request)
    second, again, _ = await collect(llama_engine, request)
    assert (began.cached_tokens, again.cached_tokens) == (0, again.prompt_tokens - 1)
    assert first == second


async def test_eight_clients_share_a_long_prefix(llama_engine: LlamaEngine) -> None:
    prefix = " ".join(f"word{i}" for i in range(100))
    requests = [Generation(prompt=f"{prefix} {i}", num_predict=4) for i in range(8)]
    found = await asyncio.gather(*(collect(llama_engine, request) for request in requests))
    cached = sorted(started.cached_tokens for _, started, _ in found)
    shared = found[0][1].prompt_tokens - 3
    assert cached[0] == 0
    assert all(count >= shared for count in cached[1:])


async def test_the_context_grows_under_running_sequences(model_path: Path) -> None:
    engine = LlamaEngine(
        ModelSource(model_path), LoadOptions(num_ctx=256, num_parallel=2, extra=(("kv_cells", "512"),))
    )
    await engine.load()
    try:
        request = Generation(prompt=QUESTION, num_predict=40, sampling=LONG)
        assert (await engine.stats()).kv_cells == 512
        tokens = 0
        large: asyncio.Task[tuple[str, Started, Finished]] | None = None
        async for event in engine.generate(request):
            if isinstance(event, Text):
                tokens += event.tokens
                if large is None:
                    filler = Generation(tokens=(100,) * 600, num_ctx=2048, num_predict=1)
                    large = asyncio.create_task(collect(engine, filler))
        assert tokens == 40
        assert large is not None
        assert (await large)[2].output_tokens == 1
        assert (await engine.stats()).kv_cells == 2048
        # The moved sequence still serves as prefix cache.
        _, again, _ = await collect(engine, request)
        assert again.cached_tokens == again.prompt_tokens - 1
    finally:
        await engine.close()


async def test_a_slow_reader_is_paused_and_loses_nothing(
    llama_engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HIGH", 10)
    monkeypatch.setattr(stream, "LOW", 3)
    events = llama_engine.generate(Generation(prompt="Once", num_predict=60, sampling=LONG))
    await anext(events)
    before = -1
    while (steps := (await llama_engine.stats()).steps) != before:
        before = steps
        await asyncio.sleep(0.5)
    assert steps < 40, "it was to be held up"
    assert (await llama_engine.stats()).active == 1
    tokens = 0
    async for event in events:
        if isinstance(event, Text):
            tokens += event.tokens
        elif isinstance(event, Finished):
            assert event.output_tokens == 60
    assert tokens == 60


async def test_a_grammar_is_obeyed(llama_engine: LlamaEngine) -> None:
    grammar = Constraint(r'root ::= "{" [ \n]* "\"n\":" [ ]* [0-9]{1,3} [ \n]* "}"')
    for seed in range(3):
        sampling = Sampling(seed=seed, temperature=1.2)
        request = Generation(prompt=QUESTION, num_predict=60, sampling=sampling, constraint=grammar)
        text, _, last = await collect(llama_engine, request)
        if last.reason == "stop":
            assert isinstance(json.loads(text)["n"], int)
        assert text.startswith("{")


async def test_a_grammar_can_wait_for_a_text(llama_engine: LlamaEngine) -> None:
    first, _, _ = await collect(
        llama_engine, Generation(prompt=QUESTION, num_predict=8, sampling=Sampling(temperature=0))
    )
    after = first[:6]
    constraint = Constraint('root ::= "!"+', after=after)
    request = Generation(prompt=QUESTION, num_predict=12, sampling=Sampling(temperature=0), constraint=constraint)
    text, _, _ = await collect(llama_engine, request)
    assert text.startswith(after)
    assert text.rstrip("!") == first[: len(text.rstrip("!"))]
    assert text.endswith("!!")


@pytest.mark.parametrize("gbnf", ["root ::= (", "", "nothing ::= [a]", "root ::= missing", "root ::= root"])
async def test_a_bad_grammar_fails_its_request_alone(llama_engine: LlamaEngine, gbnf: str) -> None:
    other = llama_engine.generate(Generation(prompt=QUESTION, num_predict=10, sampling=LONG))
    await anext(other)
    with pytest.raises(RequestError, match="grammar"):
        await collect(llama_engine, Generation(prompt=QUESTION, constraint=Constraint(gbnf)))
    assert isinstance([event async for event in other][-1], Finished)


async def test_what_cannot_be_is_refused(llama_engine: LlamaEngine) -> None:
    with pytest.raises(RequestError, match="vocabulary"):
        await collect(llama_engine, Generation(tokens=(1, 10**6)))
    with pytest.raises(RequestError, match="embedding"):
        await llama_engine.embed(Embedding(("hi",)))


async def test_penalties_see_the_prompt(llama_engine: LlamaEngine) -> None:
    prompt = "one two one two one two one two one"
    free, _, _ = await collect(llama_engine, Generation(prompt=prompt, num_predict=3, sampling=Sampling(temperature=0)))
    assert "two" in free
    sampling = Sampling(temperature=0, repeat_penalty=1e6, repeat_last_n=-1)
    other, _, _ = await collect(llama_engine, Generation(prompt=prompt, num_predict=3, sampling=sampling))
    assert "two" not in other


async def test_threads_can_be_changed(llama_engine: LlamaEngine) -> None:
    llama_engine.set_threads(1)
    await collect(llama_engine, Generation(prompt=QUESTION, num_predict=2))
    assert (await llama_engine.stats()).extra["threads"] == 1


async def test_more_requests_than_may_run_wait_in_order(model_path: Path) -> None:
    engine = LlamaEngine(ModelSource(model_path), LoadOptions(num_parallel=2))
    await engine.load()
    try:
        ended: list[int] = []

        async def one(number: int) -> None:
            await collect(engine, Generation(prompt=f"{number}", num_predict=3 + number, sampling=LONG))
            ended.append(number)

        await asyncio.gather(*(one(number) for number in range(5)))
        assert ended == [0, 1, 2, 3, 4]
    finally:
        await engine.close()
