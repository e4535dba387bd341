"""Fifty greedy answers of 64 tokens, ours and llama-server's: as good as all are the same text.

Both add the same floats up in the same order when one request runs at a time, so what differs must be a near tie: two
tokens whose probabilities both servers see as almost equal. With `-s` it prints what was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external import programs
from tests.external.conftest import clean_environ, started
from tests.external.test_beside_llama_server import NEUTRAL, post
from tests.integration.conftest import MODEL, Server, free_port

pytestmark = [pytest.mark.external, pytest.mark.model]

TOKENS = 64
EQUAL = 0.95
TIE = 0.1
"""Difference of log-probabilities up to which two tokens are a near tie."""

BEGINNINGS = (
    "The capital of France is",
    "Once upon a time there was a miller who",
    "def fibonacci(n):\n",
    "To make bread you need",
    "The first law of thermodynamics says that",
    "Dear Sir or Madam,\n\nI am writing to",
    "Q: Why is the sky blue?\nA:",
    "1, 1, 2, 3, 5, 8,",
    "In the year 1492",
    "SELECT name, age FROM",
)
QUESTIONS = (
    "What is snow?",
    "Write a haiku about rivers.",
    "List three uses of a hammer.",
    "Explain photosynthesis to a child.",
    "Translate 'good morning' into Spanish.",
    "What is 17 times 3?",
    "Name a famous painter and one of the paintings.",
    "How do bees make honey?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet?",
    "What should I pack for a week in Norway in winter?",
    "Write a function in Python that reverses a string.",
    "Why do cats purr?",
    "Summarise the plot of Cinderella in two sentences.",
    "What is the difference between weather and climate?",
    "Suggest a name for a grey kitten.",
    "How far away is the moon?",
    "Write the opening line of a detective story.",
    "What does HTTP stand for?",
    "Describe the taste of a lemon.",
)
TOPICS = ("lighthouses", "the Roman army", "compilers", "tea", "glaciers", "jazz", "bicycles", "owls", "money", "sleep")
PROMPTS = (
    *BEGINNINGS,
    *(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS),
    *(f"A short history of {topic}\n\nChapter 1\n\n" for topic in TOPICS),
    *(
        f"The following is a table of {topic}.\n\n"
        + "\n".join(f"{row} | {topic} {row * 37 % 101} | {row * row}" for row in range(1, 25))
        + "\n25 |"
        for topic in TOPICS
    ),
)


@pytest.fixture(scope="module")
def theirs(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a llama-server with one slot."""
    binary, port = programs.need("llama-server"), free_port()
    command = [binary, "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-c", "4096"]
    # One thread each: two that wait for each other are slow where other programs want the cores too.
    command += ["-np", "1", "-t", "1"]
    url = f"http://127.0.0.1:{port}"
    with started(command, clean_environ(), tmp_path_factory.mktemp("llama-server"), f"{url}/health"):
        yield url


def test_fifty_greedy_answers_are_the_same(theirs: str, ours: Server) -> None:
    assert len(set(PROMPTS)) == 50
    notes, ties = [], 0
    for prompt in PROMPTS:
        options = {**NEUTRAL, "num_predict": TOKENS, "stop": ["\0"], "num_thread": 1}
        body = {"model": MODEL, "prompt": prompt, "raw": True, "stream": False, "logprobs": True, "top_logprobs": 5}
        us = post(f"{ours.url}/api/generate", body | {"options": options})
        them = post(
            f"{theirs}/completion",
            {"prompt": prompt, "n_predict": TOKENS, "cache_prompt": False, "n_probs": 5, "post_sampling_probs": False}
            | NEUTRAL,
        )
        assert us["prompt_eval_count"] == them["tokens_evaluated"]
        if us["response"] != them["content"]:
            at, gaps = divergence(us["logprobs"], them["completion_probabilities"])
            ties += max(gaps) <= TIE
            notes.append(f"{prompt[:40]!r}: from token {at}, log-probabilities apart by {gaps[0]:.3f}, {gaps[1]:.3f}")
    print(f"\n{len(PROMPTS) - len(notes)} of {len(PROMPTS)} texts are equal", *notes, sep="\n")
    assert len(notes) <= (1 - EQUAL) * len(PROMPTS), notes
    assert ties == len(notes), notes


def divergence(us: list[dict[str, Any]], them: list[dict[str, Any]]) -> tuple[int, tuple[float, float]]:
    """Where two answers part, and by how much each server preferred its own token to the other's (inf: not in its
    five likeliest)."""
    for at, (mine, other) in enumerate(zip(us, them, strict=False)):
        if mine["token"] != other["token"]:
            first = gap({top["token"]: top["logprob"] for top in mine["top_logprobs"]}, mine["token"], other["token"])
            tops = {top["token"]: top["logprob"] for top in other["top_logprobs"]}
            return at, (first, gap(tops, other["token"], mine["token"]))
    return min(len(us), len(them)), (float("inf"), float("inf"))


def gap(tops: dict[str, float], chosen: str, rival: str) -> float:
    """By how much the chosen token was likelier."""
    return tops[chosen] - tops[rival] if rival in tops else float("inf")
