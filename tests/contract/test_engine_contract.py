"""What every engine owes to its callers (`vllama/engines/base.py`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from vllama.engines.base import Engine, Finished, Generation, Sampling, Started, Text
from vllama.errors import EngineCrashed, PromptTooLong, RequestError

QUESTION = "<|im_start|>user\nCount slowly from one to one hundred.<|im_end|>\n<|im_start|>assistant\n"
GREEDY = Sampling(temperature=0, seed=1)


@dataclass
class Run:
    """All events of one generation."""

    started: list[Started] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.texts)

    @property
    def last(self) -> Finished:
        return self.finished[0]


async def run(engine: Engine, request: Generation) -> Run:
    """Reads to the end; the order of the events is part of the contract."""
    found = Run()
    async for event in engine.generate(request):
        assert not found.finished, "something came after Finished"
        if isinstance(event, Started):
            assert not found.texts
            found.started.append(event)
        elif isinstance(event, Text):
            assert found.started
            assert event.text, "an empty piece"
            found.texts.append(event)
        else:
            found.finished.append(event)
    assert len(found.started) == len(found.finished) == 1
    return found


async def endless(engine: Engine) -> Sampling:
    """Greedy, and no token that ends a text."""
    ends = await engine.tokenize(engine.facts.eos + "<|endoftext|>", add_special=False)
    return Sampling(temperature=0, logit_bias=tuple((token, -1e9) for token in ends))


async def test_events_and_counts(engine: Engine) -> None:
    found = await run(engine, Generation(prompt=QUESTION, num_predict=12, sampling=GREEDY))
    last = found.last
    assert last.reason == "length"
    assert last.output_tokens == 12
    assert sum(piece.tokens for piece in found.texts) == 12
    assert last.prompt_tokens == found.started[0].prompt_tokens == len(await engine.tokenize(QUESTION))
    assert last.prompt_ns >= 0
    assert last.decode_ns > 0
    assert last.prompt_ids == last.output_ids == ()


async def test_ids_are_given_when_wanted(engine: Engine) -> None:
    found = await run(engine, Generation(prompt=QUESTION, num_predict=8, sampling=GREEDY, want_ids=True))
    assert list(found.last.prompt_ids) == await engine.tokenize(QUESTION)
    assert len(found.last.output_ids) == 8
    assert await engine.detokenize(found.last.output_ids) == found.text


async def test_token_ids_may_be_the_prompt(engine: Engine) -> None:
    ids = tuple(await engine.tokenize(QUESTION))
    from_text = await run(engine, Generation(prompt=QUESTION, num_predict=6, sampling=GREEDY))
    from_ids = await run(engine, Generation(tokens=ids, num_predict=6, sampling=GREEDY))
    assert from_ids.last.prompt_tokens == len(ids)
    assert from_ids.text == from_text.text


async def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    request = Generation(prompt=QUESTION, num_predict=16, sampling=Sampling(temperature=1.5, seed=42))
    first, second = await run(engine, request), await run(engine, request)
    assert first.text == second.text


async def test_a_stop_string_is_cut_even_across_tokens(engine: Engine) -> None:
    free = await run(engine, Generation(prompt=QUESTION, num_predict=20, sampling=GREEDY))
    assert len(free.texts) > 6
    # From the middle of one piece into the next.
    edge = len("".join(piece.text for piece in free.texts[:5]))
    stop = free.text[edge - 1 : edge + 2]
    found = await run(engine, Generation(prompt=QUESTION, num_predict=20, sampling=GREEDY, stop=(stop,)))
    assert found.last.reason == "stop"
    assert found.text == free.text[: free.text.index(stop)]


async def test_a_stop_string_that_never_comes_changes_nothing(engine: Engine) -> None:
    # The bfloat16 weights end this answer by themselves before 20 tokens.
    sampling = await endless(engine)
    free = await run(engine, Generation(prompt=QUESTION, num_predict=20, sampling=sampling))
    stop = free.text[-3:] + "\x00"
    found = await run(engine, Generation(prompt=QUESTION, num_predict=20, sampling=sampling, stop=(stop,)))
    assert (found.text, found.last.reason) == (free.text, "length")
    assert sum(piece.tokens for piece in found.texts) == 20


async def test_an_empty_stop_string_stops_at_once(engine: Engine) -> None:
    found = await run(engine, Generation(prompt=QUESTION, num_predict=20, stop=("",)))
    assert (found.text, found.last.reason) == ("", "stop")


@pytest.mark.parametrize("num_predict", [-1, -2, 0])
async def test_no_limit_means_the_context_where_it_may_not_shift(engine: Engine, num_predict: int) -> None:
    prompt = len(await engine.tokenize(QUESTION))
    sampling = await endless(engine)
    request = Generation(prompt=QUESTION, num_predict=num_predict, num_ctx=prompt + 40, shift=False, sampling=sampling)
    found = await run(engine, request)
    assert found.last.reason == "length"
    assert found.last.output_tokens == 40


async def test_a_shifted_context_goes_on_past_its_size(engine: Engine) -> None:
    prompt = len(await engine.tokenize(QUESTION))
    if engine.name == "vllm":
        assert not engine.facts.can_shift, "documented: vLLM ends an answer where its context is full"
        return
    assert engine.facts.can_shift
    sampling = await endless(engine)
    request = Generation(prompt=QUESTION, num_ctx=prompt + 20, num_predict=60, shift=True, sampling=sampling)
    found = await run(engine, request)
    assert (found.last.reason, found.last.output_tokens) == ("length", 60)


async def test_a_long_prompt_is_cut(engine: Engine) -> None:
    words = " ".join(f"number {i}" for i in range(300))
    total = len(await engine.tokenize(words))
    found = await run(engine, Generation(prompt=words, num_ctx=128, num_keep=4, num_predict=3))
    assert found.last.prompt_tokens == 66
    assert found.started[0].truncated_tokens == total - 66


async def test_a_long_prompt_that_may_not_be_cut_is_refused(engine: Engine) -> None:
    words = " ".join(f"number {i}" for i in range(300))
    events = engine.generate(Generation(prompt=words, num_ctx=128, truncate=False))
    with pytest.raises(PromptTooLong) as caught:
        await anext(events)
    assert caught.value.context == 128
    assert caught.value.prompt_tokens == len(await engine.tokenize(words))
    assert caught.value.status == 400


async def test_eight_streams_progress_together(engine: Engine) -> None:
    order: list[int] = []
    sampling = await endless(engine)

    async def one(number: int) -> None:
        request = Generation(prompt=QUESTION + f"{number}:", num_predict=24, sampling=sampling)
        async for event in engine.generate(request):
            if isinstance(event, Text):
                order.append(number)  # noqa: PERF401 - at the moment when it arrives

    await asyncio.gather(*(one(number) for number in range(8)))
    first = [order.index(number) for number in range(8)]
    last = [len(order) - 1 - order[::-1].index(number) for number in range(8)]
    assert max(first) < min(last), "a stream began only when another had ended"


async def test_leaving_frees_the_sequence_within_two_steps(engine: Engine) -> None:
    other = engine.generate(Generation(prompt=QUESTION, num_predict=4000, sampling=Sampling(seed=1)))
    events = engine.generate(Generation(prompt="Once", num_predict=4000, sampling=Sampling(seed=1)))
    for stream in (events, other):
        async for event in stream:
            if isinstance(event, Text):
                break
    before = await engine.stats()
    assert before.active == 2
    await events.aclose()  # type: ignore[attr-defined]
    after = await engine.stats()
    assert after.active == 1
    assert after.steps <= before.steps + 2
    async for event in other:
        if isinstance(event, Text):
            break
    await other.aclose()  # type: ignore[attr-defined]
    assert (await engine.stats()).active == 0


async def test_a_cancelled_reader_frees_the_sequence(engine: Engine) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for event in engine.generate(Generation(prompt=QUESTION, num_predict=4000)):
            if isinstance(event, Text):
                begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(50):
        if (await engine.stats()).active == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the sequence still runs")


async def test_tokens_and_text(engine: Engine) -> None:
    text = "Hello wörld, 東京 🙂 and\n two lines"
    ids = await engine.tokenize(text, add_special=False)
    assert ids
    assert all(isinstance(token, int) for token in ids)
    assert await engine.detokenize(ids) == text
    assert await engine.tokenize("", add_special=False) == []


async def test_unknown_token_ids_are_refused(engine: Engine) -> None:
    with pytest.raises(RequestError):
        await engine.detokenize([10**8])


async def test_logprobs(engine: Engine) -> None:
    request = Generation(prompt=QUESTION, num_predict=6, sampling=GREEDY, top_logprobs=3)
    found = await run(engine, request)
    logprobs = [entry for piece in found.texts for entry in piece.logprobs]
    assert len(logprobs) == 6
    assert "".join(entry.token for entry in logprobs) == found.text
    for entry in logprobs:
        assert entry.logprob <= 0
        assert entry.raw == entry.token.encode()
        assert len(entry.top) <= 3
        # Greedy takes the likeliest.
        assert entry.top[0].token == entry.token
        values = [other.logprob for other in entry.top]
        assert values == sorted(values, reverse=True)
    plain = await run(engine, Generation(prompt=QUESTION, num_predict=6, sampling=GREEDY))
    assert all(piece.logprobs == () for piece in plain.texts)


async def test_an_empty_prompt_is_refused_or_answered(engine: Engine) -> None:
    try:
        found = await run(engine, Generation(prompt="", num_predict=2))
    except RequestError:
        return
    # A model whose vocabulary adds nothing in front has nothing to compute from: Ollama answers with nothing.
    assert found.last.prompt_tokens >= 1 or (found.last.reason, found.last.output_tokens) == ("stop", 0)


async def test_closing_ends_what_runs_and_twice_is_fine(engine: Engine) -> None:
    assert engine.alive
    events = engine.generate(Generation(prompt=QUESTION, num_predict=4000))
    async for event in events:
        if isinstance(event, Text):
            break
    await engine.close()
    assert not engine.alive
    with pytest.raises(EngineCrashed):
        async for _ in events:
            pass
    await engine.close()


async def test_progress_ends_at_one(unloaded: Engine) -> None:
    seen: list[float] = []
    assert not unloaded.alive
    await unloaded.load(seen.append)
    assert unloaded.alive
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
