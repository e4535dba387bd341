"""The embedding worker's engine with a context that fails where it is told to; no weights are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vllama.engines.llama import embedder, frames
from vllama.engines.llama.bindings import LoadError
from vllama.engines.llama.embedder import Embedder

BAD, NAN = 66, 78
"""Tokens ("B", "N") that the context cannot evaluate, or makes nonsense of."""


class FakeModel:
    """A token is a character; [1] and [2] stand at the ends."""

    train_ctx = 2000
    vocab_size = 200
    size = 1
    bos = 1
    eos = 2
    on_gpu = 0.0

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        body = [ord(char) for char in text]
        return [1, *body, 2] if add_special else body

    def spell(self, token: int) -> str:
        return str(token)

    def description(self) -> str:
        return "fake"


class FakeContext:
    """The vector is (number of tokens, their sum)."""

    made: list[FakeContext]
    most = 1 << 20

    def __init__(self, model: Any, *, tokens: int, inputs: int, threads: int, flash_attention: bool | None) -> None:
        if tokens > self.most:
            raise LoadError("no memory")
        self.tokens, self.inputs, self.threads = tokens, inputs, threads
        self.width, self.pooling = 2, 1
        self.packs: list[int] = []
        self.closed = False
        self.made.append(self)

    def pool(self, pack: Sequence[Sequence[int]]) -> list[Any] | None:
        assert sum(len(ids) for ids in pack) <= self.tokens
        self.packs.append(len(pack))
        if any(BAD in ids for ids in pack):
            return None
        return [np.array([np.nan if NAN in ids else len(ids), sum(ids)], dtype=np.float32) for ids in pack]

    def set_threads(self, count: int) -> None:
        self.threads = count

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Embedder:
    FakeContext.made = []
    monkeypatch.setattr(embedder, "EmbeddingContext", FakeContext)
    return Embedder(FakeModel(), threads=1, flash_attention=None)  # type: ignore[arg-type]


def embed(engine: Embedder, id: int, *inputs: str, num_ctx: int = 4096, truncate: bool = True) -> frames.Answer | None:
    return engine.handle(frames.Embed(id, list(inputs), num_ctx, 0, truncate))


def answers(engine: Embedder) -> dict[int, frames.Answer]:
    found = {}
    while engine.runnable:
        news = engine.step()
        if isinstance(news, frames.Answer):
            found[news.id] = news
    return found


def test_many_requests_share_a_decode(engine: Embedder) -> None:
    for id in range(10):
        embed(engine, id, "a", "bc")
    found = answers(engine)
    assert engine.context.packs == [20]
    vectors, width, tokens = found[3].value
    assert (width, tokens) == (2, 7)
    rows = np.frombuffer(vectors, "<f4").reshape(-1, 2)
    assert np.allclose(rows[0], np.array([3, 100]) / np.hypot(3, 100))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


def test_a_bad_input_costs_only_its_request(engine: Embedder) -> None:
    embed(engine, 1, "a")
    embed(engine, 2, "a", "B", "c")
    embed(engine, 3, "c")
    found = answers(engine)
    assert found[2].error == embedder.FAULT
    assert found[2].kind == "server"
    assert found[1].error is None
    assert found[3].error is None
    assert engine.faults == 2


def test_numbers_that_are_none(engine: Embedder) -> None:
    embed(engine, 1, "N")
    embed(engine, 2, "a")
    found = answers(engine)
    assert found[1].error == "embedding contains NaN or Inf values"
    assert found[2].error is None


def test_a_long_input_grows_the_context_until_there_is_nothing_to_do(engine: Embedder) -> None:
    embed(engine, 1, "a" * 1500, "b")
    assert answers(engine)[1].value[2] == 1505
    assert [context.tokens for context in FakeContext.made] == [512, 2048]
    assert FakeContext.made[0].closed
    assert engine.untidy
    engine.tidy()
    assert engine.context.tokens == 512
    assert not engine.untidy


def test_no_memory_for_a_long_input(engine: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "most", 512)
    embed(engine, 1, "a" * 1500)
    embed(engine, 2, "a")
    found = answers(engine)
    assert found[1].error == embedder.NO_MEMORY
    assert found[2].error is None


def test_an_input_is_cut_to_what_the_model_was_trained_for(engine: Embedder) -> None:
    embed(engine, 1, "a" * 100_000)
    assert answers(engine)[1].value[2] == 2000


def test_only_the_beginning_of_a_text_is_tokenised(engine: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tokenize = FakeModel.tokenize

    def spy(self: FakeModel, text: str, *, add_special: bool) -> list[int]:
        seen.append(len(text))
        return tokenize(self, text, add_special=add_special)

    monkeypatch.setattr(FakeModel, "tokenize", spy)
    embed(engine, 1, "a" * 200_000, num_ctx=64)
    answers(engine)
    assert max(seen) <= 4096


def test_cancelled_requests_are_forgotten(engine: Embedder) -> None:
    embed(engine, 1, "a")
    engine.handle(frames.Cancel(1))
    assert not engine.runnable
    embed(engine, 2, *("a" * 100 for _ in range(5)))
    engine.step()
    engine.handle(frames.Cancel(2))
    assert answers(engine) == {}


def test_more_vectors_than_a_frame_can_take(engine: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder, "LARGEST", 80)
    answer = embed(engine, 1, *("a" for _ in range(11)))
    assert answer is not None
    assert answer.error == "11 inputs are too many, 10 can be embedded at once"
    assert embed(engine, 2, *("a" for _ in range(10))) is None


def test_models_that_do_not_pool(engine: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.context, "pooling", 0)
    answer = embed(engine, 1, "a")
    assert answer is not None
    assert answer.error == embedder.UNPOOLED


def test_it_generates_nothing(engine: Embedder) -> None:
    submit = frames.Submit(
        id=7, prompt="a", tokens=None, num_ctx=64, num_predict=1, num_keep=0, stop=[], truncate=True, shift=True,
        top_logprobs=None, want_ids=False, gbnf=None, after=None, temperature=0, top_k=0, top_p=1, min_p=0,
        typical_p=1, repeat_last_n=0, repeat_penalty=1, presence_penalty=0, frequency_penalty=0, seed=None,
        logit_bias=[],
    )  # fmt: skip
    engine.handle(submit)
    step = engine.step()
    assert isinstance(step, frames.Step)
    assert step.failed == [(7, "request", embedder.NO_TEXT, 0, 64)]
