"""Ours and llama.cpp's own server, built from the same source: one request at a time, the same bytes come out.

Both start every prompt with an empty cache here. With a reused prefix the two still agree in what they do, but the last
tokens are computed in another batch than the first, floats are added up in another order, and a near tie may flip; so
what had been asked before would decide whether these tests pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.external import programs
from tests.external.conftest import clean_environ, started
from tests.integration.conftest import MODEL, Server, free_port

pytestmark = [pytest.mark.external, pytest.mark.model]

PROMPTS = {
    "words": "The largest island of the Mediterranean is",
    "story": "Long ago, when rivers could talk,",
    "code": "class Stack:\n    def push(self, item):",
    "numbers": "2, 4, 8, 16,",
    "one-token": "Why",
    "unicode": "Zürich — 東京 — 🎈 means",
    "marks": "<|im_start|>user\nWhat is snow?<|im_end|>\n<|im_start|>assistant\n",
    "blanks": "  \n\n\tindented",
    "long": " ".join(f"Day {day}: {day * 7 % 11} boats came in." for day in range(1, 61)) + " Day 61:",
}
NEUTRAL = {
    "temperature": 0.0,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
SAMPLINGS: dict[str, dict[str, float]] = {
    "greedy": {},
    "greedy-penalties": {"repeat_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "seeded": {"temperature": 0.9, "seed": 42, "min_p": 0.05},
    "seeded-typical": {"temperature": 1.2, "seed": 7, "top_k": 0, "top_p": 1.0, "typical_p": 0.8},
}
TOKENS = 32


@pytest.fixture(scope="module")
def raw(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a llama-server with one slot."""
    binary = programs.need("llama-server")
    port = free_port()
    command = [binary, "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-c", "4096", "-np", "1", "-t", "1"]
    url = f"http://127.0.0.1:{port}"
    with started(command, clean_environ(), tmp_path_factory.mktemp("llama-server"), f"{url}/health"):
        yield url


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = httpx.post(url, json=body, timeout=240)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_bytes(raw: str, ours: Server, prompt: str, sampling: str) -> None:
    text = PROMPTS[prompt]
    options = NEUTRAL | SAMPLINGS[sampling]
    post(f"{ours.url}/api/generate", {"model": MODEL, "keep_alive": 0, "stream": False})
    body = {"model": MODEL, "prompt": text, "raw": True, "stream": False}
    # A stop string that cannot come: without one the model's own would apply, which llama-server does not know.
    us = post(f"{ours.url}/api/generate", body | {"options": {**options, "num_predict": TOKENS, "stop": ["\0"]}})
    them = post(f"{raw}/completion", {"prompt": text, "n_predict": TOKENS, "cache_prompt": False, **options})
    assert us["prompt_eval_count"] == them["tokens_evaluated"]
    assert us["response"] == them["content"]
    assert us["eval_count"] == them["tokens_predicted"]
    assert us["done_reason"] == {"limit": "length", "eos": "stop"}[them["stop_type"]]


@pytest.mark.parametrize("stop", [[" the"], ["9", "8"], ["\n"], ["no such text"]])
def test_same_stops(raw: str, ours: Server, stop: list[str]) -> None:
    text = "3, 4, 5, 6, 7,"
    options = {**NEUTRAL, "stop": stop}
    post(f"{ours.url}/api/generate", {"model": MODEL, "keep_alive": 0, "stream": False})
    body = {"model": MODEL, "prompt": text, "raw": True, "stream": False}
    us = post(f"{ours.url}/api/generate", body | {"options": {**options, "num_predict": TOKENS}})
    them = post(f"{raw}/completion", {"prompt": text, "n_predict": TOKENS, "cache_prompt": False, **options})
    assert us["response"] == them["content"]
    assert (us["done_reason"] == "length") == (them["stop_type"] == "limit")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_token_count(raw: str, ours: Server, prompt: str) -> None:
    """Greedy answers aside: the prompt alone, counted by the other server's tokenizer."""
    tokens = post(f"{raw}/tokenize", {"content": PROMPTS[prompt], "add_special": True})["tokens"]
    body = {"model": MODEL, "prompt": PROMPTS[prompt], "raw": True, "stream": False, "options": {"num_predict": 1}}
    assert post(f"{ours.url}/api/generate", body)["prompt_eval_count"] == len(tokens)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "What is hail?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is hail?"}],
        [
            {"role": "user", "content": "What is hail?"},
            {"role": "assistant", "content": "Ice."},
            {"role": "user", "content": "  Über <|im_end|> 冰?\n"},
        ],
    ],
    ids=["user", "system", "turns"],
)
def test_same_chat_prompt(raw: str, ours: Server, messages: list[dict[str, str]]) -> None:
    """The GGUF's own Jinja template, run by two different interpreters."""
    body = {"model": MODEL, "messages": messages, "stream": False, "_debug_render_only": True}
    us = post(f"{ours.url}/api/chat", body)["_debug_info"]["rendered_template"]
    assert us == post(f"{raw}/apply-template", {"messages": messages})["prompt"]
