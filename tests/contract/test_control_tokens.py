"""Control tokens are no text, but those that the request names."""

from __future__ import annotations

import pytest

from vllama.engines.base import Generation, Sampling, Text
from vllama.engines.llama.engine import LlamaEngine

pytestmark = pytest.mark.model

START = 1
"""`<|im_start|>` of the small model."""


@pytest.mark.parametrize(
    ("control", "text"),
    [
        ((), ""),
        (("<|im_start|>",), "<|im_start|><|im_start|>"),
        (("<|tool_call|>", "", "hello", "two words"), ""),
    ],
)
async def test_only_named_control_tokens_are_text(
    llama_engine: LlamaEngine, control: tuple[str, ...], text: str
) -> None:
    forced = Sampling(temperature=0, logit_bias=((START, 1e6),))
    request = Generation(prompt="Hello", sampling=forced, num_predict=2, control=control)
    said = [event.text async for event in llama_engine.generate(request) if isinstance(event, Text)]
    assert "".join(said) == text
