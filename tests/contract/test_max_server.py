"""The real MAX behind vLLama (`nox -s tests_max`): one server for all cases, killed in the last of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.contract.served import START_S, chat, lines, model_directory, programs, serving, wait_until_loaded
from tests.integration.conftest import Server

pytestmark = [pytest.mark.max, pytest.mark.timeout(3 * START_S)]


@pytest.fixture(scope="module")
def phases() -> list[str]:
    """What /api/ps said while the server started."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, phases: list[str]) -> Iterator[Server]:
    """`vllama serve --engine max --model DIR`, loaded."""
    arguments = ("--engine", "max", "--model", str(model_directory()), "--keep-alive", "-1")
    with serving(tmp_path_factory.mktemp("max"), *arguments) as running:
        phases.extend(wait_until_loaded(running))
        yield running


@pytest.fixture
def model(server: Server) -> str:
    """The name under which the directory is served."""
    [row] = httpx.get(f"{server.url}/api/ps").json()["models"]
    return str(row["name"])


def test_its_start_was_told(server: Server, phases: list[str]) -> None:
    assert "compiling the model" in phases
    assert len(phases) > 2


def test_a_conversation(server: Server, model: str) -> None:
    answer = chat(server, model, "Name the capital of France.", stream=False, options={"num_predict": 12}).json()
    assert "Paris" in answer["message"]["content"]
    assert answer["done_reason"] in ("stop", "length")
    assert 0 < answer["eval_count"] <= 12
    assert answer["prompt_eval_count"] > 20


def test_a_stream_comes_in_pieces_and_is_the_same(server: Server, model: str) -> None:
    options = {"num_predict": 16}
    whole = chat(server, model, "Count from one to ten.", stream=False, options=options).json()
    pieces = lines(chat(server, model, "Count from one to ten.", options=options))
    assert len(pieces) > 4
    assert "".join(piece["message"]["content"] for piece in pieces) == whole["message"]["content"]
    assert pieces[-1]["eval_count"] == whole["eval_count"]
    assert pieces[-1]["done_reason"] == whole["done_reason"]


def test_generate_raw_and_openai(server: Server, model: str) -> None:
    asked = {"model": model, "prompt": "The sky is", "stream": False, "options": {"temperature": 0, "num_predict": 6}}
    raw = httpx.post(f"{server.url}/api/generate", json=asked | {"raw": True}, timeout=60).json()
    assert raw["response"].startswith(" ")
    assert (raw["eval_count"], raw["done_reason"], raw["prompt_eval_count"]) == (6, "length", 3)
    there = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=there, timeout=60).json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 5


def test_options_reach_it(server: Server, model: str) -> None:
    free = chat(server, model, "Count from one to ten.", stream=False, options={"num_predict": 24}).json()
    stop = free["message"]["content"][4:8]
    cut = chat(server, model, "Count from one to ten.", stream=False, options={"num_predict": 24, "stop": [stop]})
    assert cut.json()["message"]["content"] == free["message"]["content"].split(stop)[0]
    assert cut.json()["done_reason"] == "stop"
    drawn = {"temperature": 1.5, "seed": 7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "num_predict": 12}
    twice = [chat(server, model, "Say something.", stream=False, options=drawn).json() for _ in range(2)]
    assert twice[0]["message"] == twice[1]["message"]
    # Heavy penalties must change what a greedy answer repeats.
    heavy = {"num_predict": 24, "repeat_penalty": 2.0, "presence_penalty": 2.0}
    other = chat(server, model, "Count from one to ten.", stream=False, options=heavy).json()
    assert other["message"] != free["message"]


def test_what_it_cannot_do_is_said(server: Server, model: str) -> None:
    constrained = chat(server, model, "Describe Paris.", format="json", stream=False)
    assert constrained.status_code == 400
    assert "leave format out" in constrained.json()["error"]
    body = {"model": model, "prompt": "Hi", "context": [1, 2], "stream": False}
    assert httpx.post(f"{server.url}/api/generate", json=body, timeout=60).status_code == 400
    missing = chat(server, "nothing-of-this-name", "Hi")
    assert missing.status_code == 404
    assert chat(server, model, "Hi", stream=False, options={"num_predict": 3}).status_code == 200


def test_a_prompt_that_is_too_long_is_refused_and_harms_nobody(server: Server, model: str) -> None:
    body = {"model": model, "prompt": "word " * 20000, "raw": True, "stream": False}
    refused = httpx.post(f"{server.url}/api/generate", json=body, timeout=120)
    assert refused.status_code == 400
    assert refused.json()["error"]
    assert chat(server, model, "Hi", stream=False, options={"num_predict": 3}).status_code == 200


def test_killed_in_a_stream_it_is_started_again(server: Server, model: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Write a very long story."}],
        "options": {"num_predict": 2000, "temperature": 1, "seed": 1},
    }
    found = []
    with httpx.stream("POST", f"{server.url}/api/chat", json=body, timeout=120) as response:
        for line in response.iter_lines():
            found.append(json.loads(line))
            if len(found) == 3:
                programs(server, "serve --model")[0].kill()
    assert "error" in found[-1]
    assert not any("error" in line for line in found[:-1])
    assert chat(server, model, "Hi", stream=False, options={"num_predict": 3}).status_code == 200
    assert len(programs(server, "serve --model")) == 1
