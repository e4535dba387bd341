"""Prompts that do not fit their context, and sampling options as a chain."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from vllama.engines.llama.prefix import common_prefix
from vllama.engines.llama.prompt import RequestFault, fit
from vllama.engines.llama.sampling import penalty_window, seed, stages


@pytest.mark.parametrize(
    ("length", "num_ctx", "keep", "kept"),
    [
        (127, 128, 4, 127),
        (128, 128, 4, 66),
        (386, 128, 4, 66),
        (386, 128, 8, 68),
        (386, 128, 0, 64),
        (386, 128, -1, 127),
        (386, 2, 4, 1),
        (386, 4, 4, 3),
    ],
)
def test_a_long_prompt_keeps_its_beginning_and_its_end(length: int, num_ctx: int, keep: int, kept: int) -> None:
    tokens = list(range(length))
    cut = fit(tokens, num_ctx=num_ctx, num_keep=keep, truncate=True)
    assert len(cut) == kept
    assert len(cut) < num_ctx
    if length >= num_ctx and 0 <= keep < kept:
        assert cut[:keep] == tokens[:keep]
        assert cut[keep:] == tokens[length - (kept - keep) :]


def test_a_long_prompt_that_may_not_be_cut_is_an_error() -> None:
    with pytest.raises(RequestFault) as caught:
        fit(list(range(200)), num_ctx=128, num_keep=4, truncate=False)
    assert (caught.value.kind, caught.value.prompt_tokens) == ("too_long", 200)


@dataclass
class Options:
    """Ollama's defaults."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = 7
    logit_bias: list[tuple[int, float]] = field(default_factory=list)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (Options(), ["top_k", "top_p", "temp", "dist"]),
        (Options(temperature=0), ["greedy"]),
        (Options(temperature=-1, repeat_penalty=1.1), ["penalties", "greedy"]),
        (Options(temperature=1, top_k=0, top_p=1), ["dist"]),
        (Options(repeat_penalty=1.1, repeat_last_n=0), ["top_k", "top_p", "temp", "dist"]),
        (
            Options(logit_bias=[(1, 2.0)], presence_penalty=1, typical_p=0.5, min_p=0.1),
            ["logit_bias", "penalties", "top_k", "typical", "top_p", "min_p", "temp", "dist"],
        ),
    ],
)
def test_the_chain_has_the_order_of_llama_cpp(options: Options, names: list[str]) -> None:
    assert [name for name, _ in stages(options, 4096)] == names


def test_penalties_look_back_as_far_as_the_context_when_asked() -> None:
    assert penalty_window(Options(repeat_penalty=1.1, repeat_last_n=-1), 2048) == 2048
    assert stages(Options(frequency_penalty=0.5, temperature=0), 4096)[0] == ("penalties", (64, 1.0, 0.5, 0.0))


def test_seeds() -> None:
    assert seed(42) == 42
    assert seed(-2) == 0xFFFFFFFE
    assert len({seed(None) for _ in range(8)} | {seed(-1) for _ in range(8)}) > 8


@pytest.mark.parametrize("same", [0, 1, 2, 15, 16, 17, 18, 100, 999, 1000])
def test_common_prefix(same: int) -> None:
    left = list(range(1000))
    right = [*left[:same], *([-1] * (1000 - same))]
    assert common_prefix(left, right, 1000) == same
    assert common_prefix(left, right, 10) == min(same, 10)
