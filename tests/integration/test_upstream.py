"""Another server's models: vLLama in front of vLLama's own OpenAI API, and of servers that break in each way."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Server, start_server

KEY = "sk-a-key-that-nobody-may-see"
EVENT = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}


class Broken(ThreadingHTTPServer):
    """A deployment whose chat route does what `answer` says; `seen` are the requests that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.answer: Callable[[_Handler, int], None] = well
        self.refuses_key = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Broken
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.server.refuses_key:
            self.reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
            return
        rows = [
            {"id": "org/Some-Model-7B", "created": 1700000000, "owned_by": "somebody"},
            {"id": "a strange/name of it", "created": 0, "max_model_len": 4096},
        ]
        self.reply(200, {"object": "list", "data": rows})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body | {"path": self.path})
        self.server.keys.append(self.headers.get("Authorization", ""))
        self.server.answer(self, len(self.server.seen))

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def event(self, body: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()

    def cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def well(handler: _Handler, number: int) -> None:
    handler.begin()
    handler.event(EVENT)
    handler.event({"choices": [{"index": 0, "delta": {"content": " there"}, "finish_reason": "stop"}]})
    handler.event(USAGE)
    handler.wfile.write(b"data: [DONE]\n\n")
    handler.close_connection = True


@pytest.fixture
def broken() -> Iterator[Broken]:
    with Broken() as made:
        yield made
        made.shutdown()


@pytest.fixture
def front(broken: Broken, tmp_path: Path) -> Iterator[Server]:
    """vLLama in front of it, with nothing of its own."""
    env = {
        "VLLAMA_UPSTREAM": broken.url,
        "VLLAMA_UPSTREAM_KEY": KEY,
        "VLLAMA_UPSTREAM_TIMEOUT": "1s",
        "VLLAMA_PACKAGED_MODELS": "0",
    }
    running = start_server(tmp_path, env=env)
    yield running
    assert running.stop() == 0
    assert KEY not in running.log.read_text()


def ask(server: Server, **more: Any) -> httpx.Response:
    body = {"model": "org/some-model-7b", "messages": [{"role": "user", "content": "Hi"}]} | more
    return httpx.post(f"{server.url}/api/chat", json=body, timeout=30)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_its_models_are_ours(front: Server, broken: Broken) -> None:
    models = httpx.get(f"{front.url}/api/tags").json()["models"]
    assert {model["name"] for model in models} == {"org/Some-Model-7B:latest", "name-of-it:latest"}
    shown = httpx.post(f"{front.url}/api/show", json={"model": "name-of-it"})
    assert shown.json()["capabilities"] == ["completion", "tools"]
    assert 4096 in shown.json()["model_info"].values()
    answer = ask(front, stream=False).json()
    assert answer["message"] == {"role": "assistant", "content": "Hello there"}
    assert (answer["prompt_eval_count"], answer["eval_count"], answer["done_reason"]) == (7, 2, "stop")
    loaded = httpx.get(f"{front.url}/api/ps").json()["models"]
    assert [model["name"] for model in loaded] == ["org/Some-Model-7B:latest"]
    assert broken.seen[0]["model"] == "org/Some-Model-7B"
    assert broken.keys == [f"Bearer {KEY}"]
    said = [httpx.get(f"{front.url}{path}").text for path in ("/api/tags", "/api/ps", "/metrics", "/health")]
    assert not [text for text in (*said, shown.text) if KEY in text]


def test_what_a_request_becomes(front: Server, broken: Broken) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": {"type": "object"}}}
    turns = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": {"at": 1}}}]},
        {"role": "tool", "tool_name": "look", "content": "a cat"},
    ]
    options = {"temperature": 0, "num_predict": 9, "stop": ["END"], "seed": 4, "top_k": 3, "presence_penalty": 0.5}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask(front, messages=turns, tools=[tool], options=options, format=schema, stream=False)
    sent = broken.seen[0]
    assert (sent["temperature"], sent["max_tokens"], sent["stop"], sent["seed"]) == (0, 9, ["END"], 4)
    assert sent["presence_penalty"] == 0.5
    assert "top_k" not in sent, "a field that OpenAI's API does not have"
    assert sent["response_format"]["json_schema"]["schema"] == schema
    assert sent["tools"][0]["function"]["name"] == "look"
    call = sent["messages"][1]["tool_calls"][0]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look", {"at": 1})
    assert sent["messages"][2]["tool_call_id"] == call["id"] != ""


def test_calls_and_thoughts_come_back_as_ollamas(front: Server, broken: Broken) -> None:
    def answer(handler: _Handler, number: int) -> None:
        handler.begin()
        handler.event({"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]})
        first = {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"at"'}}
        handler.event({"choices": [{"index": 0, "delta": {"tool_calls": [first]}}]})
        rest = {"index": 0, "function": {"arguments": ": 1}"}}
        handler.event({"choices": [{"index": 0, "delta": {"tool_calls": [rest]}, "finish_reason": "tool_calls"}]})
        handler.event(USAGE)
        handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    broken.answer = answer
    message = ask(front, stream=False).json()["message"]
    assert message["thinking"] == "Hm."
    assert message["tool_calls"][0]["function"] == {"index": 0, "name": "look", "arguments": {"at": 1}}


def test_a_stream_that_dies_ends_with_an_error_line_and_is_not_sent_again(front: Server, broken: Broken) -> None:
    def answer(handler: _Handler, number: int) -> None:
        handler.begin()
        handler.event(EVENT)
        handler.cut()

    broken.answer = answer
    found = lines(ask(front))
    assert found[0]["message"]["content"] == "Hello"
    assert "upstream" in found[-1]["error"]
    assert len(broken.seen) == 1
    broken.answer = well
    assert ask(front, stream=False).status_code == 200


def test_before_the_first_byte_it_is_tried_again(front: Server, broken: Broken) -> None:
    def answer(handler: _Handler, number: int) -> None:
        if number == 1:
            handler.cut()
        elif number == 2:
            handler.reply(503, {"error": {"message": "warming up"}})
        else:
            well(handler, number)

    broken.answer = answer
    assert ask(front, stream=False).json()["message"]["content"] == "Hello there"
    assert len(broken.seen) == 3


@pytest.mark.parametrize(
    ("status", "body", "becomes", "text"),
    [
        (400, {"error": {"message": "too long for us"}}, 400, "too long for us"),
        (429, {"error": {"message": "slow down"}}, 503, "slow down"),
        (500, {"error": {"message": "CUDA error"}}, 500, "CUDA error"),
        (404, {"error": {"message": "no such model"}}, 404, "no such model"),
        (401, {"error": {"message": f"bad key {KEY}"}}, 500, "refused the key"),
    ],
)
def test_errors_keep_their_meaning(
    front: Server, broken: Broken, status: int, body: dict[str, Any], becomes: int, text: str
) -> None:
    broken.answer = lambda handler, number: handler.reply(status, body)
    answer = ask(front, stream=False)
    assert answer.status_code == becomes
    assert text in answer.json()["error"]
    assert KEY not in answer.text


def test_a_silent_one_is_given_up(front: Server, broken: Broken) -> None:
    let_go = threading.Event()

    def answer(handler: _Handler, number: int) -> None:
        handler.begin()
        handler.event(EVENT)
        let_go.wait(20)

    broken.answer = answer
    found = lines(ask(front))
    let_go.set()
    assert found[0]["message"]["content"] == "Hello"
    assert "sent nothing for 1 s" in found[-1]["error"]


def test_who_leaves_ends_the_request_there(front: Server, broken: Broken) -> None:
    gone = threading.Event()

    def answer(handler: _Handler, number: int) -> None:
        handler.begin()
        try:
            while True:
                handler.event(EVENT)
                time.sleep(0.02)
        except OSError:
            gone.set()

    broken.answer = answer
    body = {"model": "org/Some-Model-7B", "messages": [{"role": "user", "content": "Hi"}]}
    with httpx.stream("POST", f"{front.url}/api/chat", json=body, timeout=30) as response:
        next(response.iter_bytes())
    assert gone.wait(20)


def test_one_that_refuses_the_key_is_named_and_does_not_keep_us_from_starting(broken: Broken, tmp_path: Path) -> None:
    broken.refuses_key = True
    running = start_server(tmp_path, "--upstream", broken.url, env={"VLLAMA_UPSTREAM_KEY": KEY})
    assert running.stop() == 0
    assert "refused the key" in running.log.read_text()
    assert KEY not in running.log.read_text()


def test_a_name_of_our_own_for_a_model_there(broken: Broken, tmp_path: Path) -> None:
    config = tmp_path / "vllama.toml"
    config.write_text(
        f'[models."big:7b"]\nupstream = "{broken.url}"\nupstream_model = "org/Some-Model-7B"\n'
        'upstream_key_env = "THEIR_KEY"\ncapabilities = ["completion", "thinking"]\n'
    )
    running = start_server(tmp_path, "--config", str(config), env={"THEIR_KEY": KEY, "VLLAMA_PACKAGED_MODELS": "0"})
    names = [model["name"] for model in httpx.get(f"{running.url}/api/tags").json()["models"]]
    answer = ask(running, model="big:7b", think=True, stream=False)
    assert running.stop() == 0
    assert names == ["big:7b"]
    assert answer.json()["message"]["content"] == "Hello there"
    assert broken.keys == [f"Bearer {KEY}"]


def test_vllama_in_front_of_vllama(tmp_path: Path) -> None:
    """The scripted engine behind the OpenAI routes: chat, generate, raw, /v1 and vectors pass through both."""
    for name in ("behind", "front"):
        (tmp_path / name).mkdir()
    behind = start_server(tmp_path / "behind", "--engine", "scripted")
    env = {"VLLAMA_PACKAGED_MODELS": "0"}
    front = start_server(tmp_path / "front", "--upstream", f"{behind.url}/v1", env=env)
    try:
        [model] = [one["name"] for one in httpx.get(f"{front.url}/api/tags").json()["models"]]
        asked = {"model": model, "options": {"num_predict": 5}, "stream": False}
        for path, body, key in (
            ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}]}, "message"),
            ("/api/generate", {"prompt": "Hi"}, "response"),
        ):
            answers = [httpx.post(f"{one.url}{path}", json=asked | body).json() for one in (front, behind)]
            assert answers[0][key] == answers[1][key]
            assert answers[0]["eval_count"] == answers[1]["eval_count"] == 5
            assert answers[0]["prompt_eval_count"] == answers[1]["prompt_eval_count"]
            assert answers[0]["done_reason"] == "length"
        # Raw prompts go to /v1/completions, where Ollama, and so the one behind, puts them into the model's template.
        raw = httpx.post(f"{front.url}/api/generate", json=asked | {"prompt": "Hi", "raw": True}).json()["response"]
        there = httpx.post(f"{behind.url}/v1/completions", json={"model": model, "prompt": "Hi", "max_tokens": 5})
        assert raw == there.json()["choices"][0]["text"] != ""
        vectors = [
            httpx.post(f"{one.url}/api/embed", json={"model": model, "input": ["a", "b"]}).json()["embeddings"]
            for one in (front, behind)
        ]
        assert vectors[0] == [pytest.approx(row, abs=1e-6) for row in vectors[1]]
        refused = httpx.post(f"{front.url}/api/generate", json=asked | {"prompt": "Hi", "context": [1, 2]})
        assert refused.status_code == 400
    finally:
        front.stop()
        behind.stop()
