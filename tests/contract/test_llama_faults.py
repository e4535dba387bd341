"""Faults: what breaks hurts the request that is to blame, and nobody else; and the next request works."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_llama_worker import LONG, QUESTION, collect, gone
from vllama.engines import supervisor
from vllama.engines.base import Constraint, Finished, Generation, LoadOptions, ModelSource, Sampling, Text
from vllama.engines.llama import stream
from vllama.engines.llama.engine import LlamaEngine
from vllama.errors import EngineCrashed, PromptTooLong, RequestError, ServerError

pytestmark = pytest.mark.model

POISON = 4321
"""A token that no other prompt or answer here has: logit bias keeps it away."""

SAFE = Sampling(seed=3, logit_bias=((0, -1e9), (2, -1e9), (POISON, -1e9)))
ALONE = LoadOptions(num_thread=1)
"""Threads that wait for each other are slow where other programs want the cores too."""

CULPRIT = Generation(tokens=(100, 101, POISON, 102), num_predict=4)


class FaultyEngine(LlamaEngine):
    """Its worker has faults."""

    worker = "tests.contract.faulty_worker"


Start = Callable[..., Awaitable[LlamaEngine]]


@pytest.fixture
async def start(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts an engine with the given faults; closes it afterwards."""
    made: list[LlamaEngine] = []

    async def start(options: LoadOptions | None = None, **faults: Any) -> LlamaEngine:
        monkeypatch.setenv("FAULTS", json.dumps(faults))
        engine = FaultyEngine(ModelSource(model_path), options or LoadOptions())
        made.append(engine)
        await engine.load()
        return engine

    yield start
    for engine in made:
        await engine.close()


def long(number: int, tokens: int = 40) -> Generation:
    return Generation(prompt=f"{QUESTION}{number}:", num_predict=tokens, sampling=SAFE)


async def first_text(events: AsyncIterator[Any]) -> None:
    async for event in events:
        if isinstance(event, Text):
            return
    raise AssertionError("no text")


async def quiet(engine: LlamaEngine) -> None:
    """Nothing runs or waits any more."""
    for _ in range(200):
        found = await engine.stats()
        if not found.active and not found.waiting:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"still there: {found}")


# What llama_decode may say


@pytest.mark.parametrize(("code", "dirty"), [(-1, False), (-2, True), (-3, False), (-3, True), (2, True)])
async def test_a_step_that_fails_costs_only_the_sequence_to_blame(start: Start, code: int, dirty: bool) -> None:
    engine = await start(decode=[{"code": code, "token": POISON, "dirty": dirty}])
    others = [asyncio.create_task(collect(engine, long(number))) for number in range(5)]
    for _ in range(2):
        with pytest.raises(ServerError, match="could not be evaluated"):
            await collect(engine, CULPRIT)
    for _, _, last in await asyncio.gather(*others):
        assert (last.reason, last.output_tokens) == ("length", 40)
    assert (await collect(engine, long(9, 5)))[2].output_tokens == 5
    assert (await engine.stats()).extra["faults"] > 2


async def test_a_failed_step_changes_no_text(start: Start) -> None:
    greedy = Generation(prompt=QUESTION, num_predict=30, sampling=Sampling(temperature=0))
    engine = await start(decode=[{"code": -3, "dirty": True, "times": 0}, {"code": -3, "token": POISON, "dirty": True}])
    expected = await collect(engine, greedy)
    await engine.close()
    engine = await start(decode=[{"code": -3, "token": POISON, "dirty": True}])
    events = engine.generate(greedy)
    await anext(events)
    with pytest.raises(ServerError):
        await collect(engine, CULPRIT)
    text = "".join([event.text async for event in events if isinstance(event, Text)])
    assert text == expected[0]


async def test_a_library_that_always_fails_fails_everybody_and_then_recovers(start: Start) -> None:
    engine = await start(decode=[{"code": -3, "times": 3}])
    found = await asyncio.gather(*(collect(engine, long(n, 5)) for n in range(2)), return_exceptions=True)
    assert [type(one) for one in found if isinstance(one, BaseException)] in ([ServerError] * 2, [ServerError])
    assert (await collect(engine, long(3, 5)))[2].output_tokens == 5


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_no_room_for_a_moment_costs_nobody_anything(start: Start, times: int) -> None:
    engine = await start(decode=[{"code": 1, "token": POISON, "times": times}])
    running = [engine.generate(long(number)) for number in range(4)]
    for events in running:
        await first_text(events)
    assert (await collect(engine, CULPRIT))[2].output_tokens
    for events in running:
        last = [event async for event in events][-1]
        assert isinstance(last, Finished)
        assert last.output_tokens == 40


async def test_no_room_for_good_is_an_error_and_no_endless_loop(start: Start) -> None:
    engine = await start(cells=True, decode=[{"code": 1, "token": POISON}])
    with pytest.raises(ServerError, match="more memory"):
        await collect(engine, CULPRIT)
    assert (await collect(engine, long(1, 5)))[2].output_tokens == 5


async def test_sixteen_long_requests_without_room_to_grow_all_end(start: Start) -> None:
    options = LoadOptions(num_ctx=512, extra=(("kv_cells", "1024"),))
    engine = await start(options, cells=True)
    requests = [
        Generation(tokens=tuple(range(200 + n, 300 + n)), num_ctx=512, num_predict=170, sampling=SAFE)
        for n in range(16)
    ]
    found = await asyncio.gather(*(collect(engine, request) for request in requests))
    assert [last.output_tokens for _, _, last in found] == [170] * 16


async def test_without_any_room_only_what_is_too_long_fails(start: Start) -> None:
    options = LoadOptions(num_ctx=512, extra=(("kv_cells", "1024"),))
    engine = await start(options, cells=True, shape=True)
    requests = [
        Generation(tokens=tuple(range(200 + n, 300 + n)), num_ctx=512, num_predict=400 if n == 2 else 20, sampling=SAFE)
        for n in range(4)
    ]
    found = await asyncio.gather(*(collect(engine, request) for request in requests), return_exceptions=True)
    assert isinstance(found[2], ServerError)
    assert "lower num_ctx" in found[2].text
    assert [answer[2].output_tokens for answer in found if not isinstance(answer, BaseException)] == [20] * 3


async def test_a_request_that_never_fits_is_told_so_and_others_run(start: Start) -> None:
    options = LoadOptions(num_ctx=512, extra=(("kv_cells", "512"),))
    engine = await start(options, cells=True, shape=True)
    other = asyncio.create_task(collect(engine, long(1)))
    with pytest.raises(ServerError, match="lower num_ctx"):
        await collect(engine, Generation(tokens=(100,) * 900, num_ctx=2048, num_predict=5))
    assert (await other)[2].output_tokens == 40


# The worker's end


async def test_a_failed_assertion_is_told_to_its_streams(start: Start) -> None:
    engine = await start(decode=[{"code": "abort", "token": POISON}])
    events = engine.generate(long(1, 2000))
    await first_text(events)
    with pytest.raises(EngineCrashed, match=r"GGML_ASSERT\(sound\) failed"):
        await collect(engine, CULPRIT)
    with pytest.raises(EngineCrashed, match=r"GGML_ASSERT\(sound\) failed"):
        await first_text_forever(events)
    assert not engine.alive


async def first_text_forever(events: AsyncIterator[Any]) -> None:
    async for _ in events:
        pass


async def test_a_stopped_worker_is_found_and_ended(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK_S", 0.05)
    engine = await start()
    pid = (await engine.stats()).pid
    events = engine.generate(long(1, 2000))
    await first_text(events)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineCrashed, match="did not answer"):
        await first_text_forever(events)
    assert gone(pid)
    assert not engine.alive


async def test_a_step_without_end_is_found(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK_S", 0.05)
    options = LoadOptions(extra=(("step_limit_s", "1.5"),))
    engine = await start(options, decode=[{"code": "hang", "token": POISON}])
    assert (await collect(engine, long(1, 5)))[2].output_tokens == 5
    with pytest.raises(EngineCrashed, match="a step has taken"):
        await collect(engine, CULPRIT)


async def test_an_idle_worker_is_left_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK_S", 0.01)
    monkeypatch.setattr(supervisor, "SILENT_TICKS", 3)
    engine = await start()
    pid = (await engine.stats()).pid
    await asyncio.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(0.5)
    assert not gone(pid)
    os.kill(pid, signal.SIGCONT)
    monkeypatch.setattr(supervisor, "SILENT_TICKS", 3000)
    assert (await collect(engine, long(1, 3)))[2].output_tokens == 3


@pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_WR, socket.SHUT_RD])
async def test_a_cut_socket_ends_the_streams_and_the_worker(start: Start, how: int) -> None:
    engine = await start()
    pid = (await engine.stats()).pid
    events = engine.generate(long(1, 2000))
    await first_text(events)
    assert engine._link is not None
    assert engine._link._transport is not None
    engine._link._transport.get_extra_info("socket").shutdown(how)
    with pytest.raises(EngineCrashed):
        await first_text_forever(events)
    assert not engine.alive
    for _ in range(200):
        if gone(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the worker is still there")


# What must not hold up the others


async def test_a_long_text_does_not_stop_running_streams(start: Start) -> None:
    # In the step loop this would wait for steps that never come.
    engine = await start(hold={"text": "MARK", "steps": 20})
    running = [engine.generate(long(number, 2000)) for number in range(7)]
    for events in running:
        await first_text(events)
    _, began, _ = await collect(engine, Generation(prompt="MARK" + "word " * 3000, num_ctx=1024, num_predict=1))
    assert began.truncated_tokens > 0
    for events in running:
        await first_text(events)
        await events.aclose()  # type: ignore[attr-defined]
    await quiet(engine)


async def test_a_short_request_does_not_wait_for_a_long_text(start: Start) -> None:
    engine = await start(hold={"text": "MARK", "steps": 10})
    held = asyncio.create_task(collect(engine, Generation(prompt="MARK" + "word " * 100_000, num_predict=1)))
    await asyncio.sleep(0.05)
    assert (await collect(engine, Generation(prompt="word " * 2000, num_predict=20, sampling=SAFE)))[2].output_tokens
    assert (await held)[2].output_tokens == 1


async def test_a_huge_prompt_is_not_tokenised_whole(start: Start) -> None:
    engine = await start()
    running = [engine.generate(long(number, 2000)) for number in range(6)]
    for events in running:
        await first_text(events)
    huge = "word " * 10_000_000
    with pytest.raises(PromptTooLong) as caught:
        await collect(engine, Generation(prompt=huge, truncate=False, num_ctx=512))
    assert caught.value.prompt_tokens > 512
    _, began, _ = await collect(engine, Generation(prompt=huge, num_ctx=512, num_predict=1))
    assert began.prompt_tokens < 512
    assert len(await engine.tokenize(huge, limit=1000)) == 1001
    assert (await engine.stats()).extra["longest_text"] < 1_000_000
    for events in running:
        await first_text(events)
        await events.aclose()  # type: ignore[attr-defined]


async def test_a_clipped_prompt_gives_the_tokens_of_the_whole_one(start: Start) -> None:
    engine = await start()
    whole = " ".join(str(number * 7919 % 100_003) for number in range(60_000))
    ids = await engine.tokenize(whole)
    request = Generation(prompt=whole, num_ctx=64, num_keep=5, num_predict=1, want_ids=True)
    _, began, last = await collect(engine, request)
    assert began.truncated_tokens > 1000
    assert (await engine.stats()).extra["longest_text"] == len(whole)
    assert list(last.prompt_ids) == ids[:5] + ids[-(last.prompt_tokens - 5) :]


async def test_a_grammar_without_end_has_a_deadline(start: Start) -> None:
    engine = await start(stuck="stuck", grammar_s=0.5)
    events = engine.generate(long(1, 2000))
    await first_text(events)
    stuck = Generation(prompt="x", constraint=Constraint('root ::= "stuck"'))
    good = Generation(prompt="x", num_predict=4, constraint=Constraint('root ::= "fine"'))
    for _ in range(4):
        with pytest.raises(RequestError, match="takes too long"):
            await collect(engine, stuck)
        # The lane goes on with a new thread.
        assert (await collect(engine, good))[0] == "fine"
    with pytest.raises(RequestError, match="takes too long"):
        await collect(engine, stuck)
    with pytest.raises(RequestError, match="busy with grammars"):
        await collect(engine, good)
    await first_text(events)
    await events.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("tokens", [0, 3])
async def test_a_grammar_that_allows_nothing_more_costs_its_request_alone(start: Start, tokens: int) -> None:
    engine = await start(ALONE, deny={"text": "denied", "tokens": tokens})
    other = asyncio.create_task(collect(engine, long(1)))
    denied = Generation(prompt="x", num_predict=30, constraint=Constraint('root ::= "denied" [a-z]*'))
    with pytest.raises(ServerError, match="the grammar allows no further token"):
        await collect(engine, denied)
    assert (await other)[2].output_tokens == 40
    good = Generation(prompt="x", num_predict=4, constraint=Constraint('root ::= "fine"'))
    assert (await collect(engine, good))[0] == "fine"
    await quiet(engine)


@pytest.mark.parametrize(
    ("gbnf", "reason"),
    [
        ('root ::= "' + "x" * (1 << 20) + '"', "characters"),
        ("root ::= r1\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(1, 10_001)) + 'r10001 ::= "x"', "rules"),
        ("root ::= " + "(" * 600 + '"x"' + ")" * 600, "nested"),
    ],
)
async def test_a_grammar_too_large_fails_its_request_alone(llama_engine: LlamaEngine, gbnf: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        await collect(llama_engine, Generation(prompt="x", constraint=Constraint(gbnf)))
    assert (await collect(llama_engine, Generation(prompt="x", num_predict=2, sampling=LONG)))[2].output_tokens == 2


@pytest.mark.parametrize(
    "gbnf",
    [
        "root ::= r1\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(1, 9_900)) + 'r9900 ::= "x"',
        "root ::= " + "(" * 500 + '"x"' + ")" * 500,
        'root ::= ("x"{0,2000} "y"{0,2000}){0,2000}',
        "root ::= " + '"("' * 2000,
    ],
)
async def test_the_largest_grammars_do_no_harm(llama_engine: LlamaEngine, gbnf: str) -> None:
    request = Generation(prompt="x", num_predict=2, constraint=Constraint(gbnf))
    with suppress(RequestError):
        await collect(llama_engine, request)
    assert (await collect(llama_engine, Generation(prompt="x", num_predict=2, sampling=LONG)))[2].output_tokens == 2


async def test_a_reader_that_never_reads_holds_a_bounded_number_of_events(
    llama_engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HIGH", 10)
    events = llama_engine.generate(Generation(prompt="Once", num_predict=4000, sampling=LONG))
    assert isinstance(events, stream.Stream)
    before = -1
    while (steps := (await llama_engine.stats()).steps) != before:
        before = steps
        await asyncio.sleep(0.5)
    # What was under way when it was paused still arrives.
    assert len(events._events) < 20
    await events.aclose()
    await quiet(llama_engine)


# Cancelling


async def test_cancel_while_it_is_prepared(start: Start) -> None:
    engine = await start(hold={"text": "MARK", "steps": 10})
    for prompt in ("MARK" + "word " * 3000, "MARK" + "word " * 100_000):
        await engine.generate(Generation(prompt=prompt)).aclose()  # type: ignore[attr-defined]
    assert (await collect(engine, long(1, 30)))[2].output_tokens == 30
    await quiet(engine)


async def test_cancel_while_its_grammar_is_compiled(start: Start) -> None:
    engine = await start(stuck="stuck", grammar_s=1.0)
    events = engine.generate(Generation(prompt="x", constraint=Constraint('root ::= "stuck"')))
    await asyncio.sleep(0.05)
    await events.aclose()  # type: ignore[attr-defined]
    assert (await collect(engine, long(1, 5)))[2].output_tokens == 5
    await quiet(engine)


async def test_cancel_while_it_waits_fills_decodes_and_follows(start: Start) -> None:
    engine = await start(LoadOptions(num_parallel=3, num_batch=64))
    shared = tuple(range(1000, 1400))
    decoding = engine.generate(long(1, 2000))
    await first_text(decoding)
    filling = engine.generate(Generation(tokens=shared, num_predict=2))
    following = engine.generate(Generation(tokens=(*shared, 5), num_predict=2))
    waiting = engine.generate(Generation(tokens=(*shared, 6), num_predict=2))
    for events in (waiting, following, filling, decoding):
        await events.aclose()  # type: ignore[attr-defined]
    await quiet(engine)
    filling = engine.generate(Generation(tokens=shared, num_predict=2))
    follower = asyncio.create_task(collect(engine, Generation(tokens=(*shared, 7), num_predict=2)))
    # Its leader goes: it has to do the work itself.
    await filling.aclose()  # type: ignore[attr-defined]
    assert (await follower)[2].output_tokens
    await quiet(engine)


async def test_cancel_while_it_is_paused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HIGH", 4)
    engine = await start()
    events = engine.generate(long(1, 2000))
    before = -1
    while (steps := (await engine.stats()).steps) != before:
        before = steps
        await asyncio.sleep(0.3)
    async with aclosing(events):  # type: ignore[type-var]
        pass
    await quiet(engine)
    last = [event async for event in engine.generate(long(2, 5))][-1]
    assert isinstance(last, Finished)
