"""/v1/chat/completions and /v1/completions: recorded answers rebuilt from their parts, errors, disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.api.app import create_app
from vllama.config import Settings
from vllama.core.replies import Delta, Done
from vllama.core.requests import ChatRequest, GenerateRequest
from vllama.engines.base import Logprob
from vllama.errors import EngineCrashed, ModelNotFound, RequestError, VllamaError
from vllama.prompts.messages import ToolCall

WIRE = Path(__file__).parent.parent / "golden" / "wire"
Script = list[Delta | Done | BaseException]


class ScriptedReply:
    """A reply that yields what it was told to; an exception in the script is raised at its place."""

    image_count = 0

    def __init__(self, script: Script, kind: str = "stream", rendered: str = "") -> None:
        self.script = script
        self.kind = kind
        self.rendered = rendered
        self.dropped = ""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.closed = False

    async def events(self) -> AsyncIterator[Delta | Done]:
        for item in self.script:
            await asyncio.sleep(0)
            if isinstance(item, BaseException):
                raise item
            yield item

    async def aclose(self) -> None:
        self.closed = True


class EndlessReply(ScriptedReply):
    """A reply that never ends by itself."""

    async def events(self) -> AsyncIterator[Delta | Done]:
        yield Delta("a")
        await asyncio.Event().wait()


class ScriptedService:
    """Gives every request the same reply, or the error of `fail`."""

    def __init__(self, reply: ScriptedReply, fail: Callable[[Any], VllamaError | None] | None = None) -> None:
        self.settings = Settings()
        self.draining = False
        self.library = SimpleNamespace(models=list)
        self.residency = SimpleNamespace(loaded=list)
        self.reply = reply
        self.fail = fail or (lambda request: None)
        self.requests: list[Any] = []

    async def chat(self, request: ChatRequest) -> ScriptedReply:
        return self._answer(request)

    async def generate(self, request: GenerateRequest) -> ScriptedReply:
        return self._answer(request)

    def _answer(self, request: Any) -> ScriptedReply:
        self.requests.append(request)
        error = self.fail(request)
        if error is not None:
            raise error
        return self.reply


async def post(service: Any, path: str, body: Any, *, leave_after: int | None = None) -> SimpleNamespace:
    """One POST. With `leave_after` the client goes away once it has got that many messages."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:11434")],
    }
    sent: list[Any] = []
    gone = asyncio.Event()
    requests = [{"type": "http.request", "body": content, "more_body": False}]
    if leave_after == 0:
        gone.set()

    async def receive() -> Any:
        if requests:
            return requests.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) >= leave_after:
            gone.set()

    await create_app(service)(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]} if sent else {}
    return SimpleNamespace(
        status=sent[0]["status"] if sent else None,
        type=headers.get("content-type"),
        text=b"".join(message["body"] for message in sent[1:]).decode(),
        ended=bool(sent) and not sent[-1].get("more_body", False),
    )


def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WIRE / name).read_text().splitlines()]


def recorded(wanted: Callable[[dict[str, Any]], bool]) -> list[Any]:
    cases: list[Any] = []
    for group in ("v1chat", "v1completions"):
        answers = {answer["id"]: answer for answer in load(f"golden/{group}.jsonl")}
        cases += [
            pytest.param(case, answers[case["id"]], id=case["id"])
            for case in load(f"cases/{group}.jsonl")
            if wanted(answers[case["id"]])
        ]
    return cases


def is_our_error(answer: dict[str, Any]) -> bool:
    """Not the ones that depend on what the model can do."""
    return answer["status"] >= 400 and "does not support" not in answer["body"]


def no_such_model(request: Any) -> VllamaError | None:
    return ModelNotFound(f"model '{request.model}' not found") if request.model == "nosuch" else None


@pytest.mark.parametrize(("case", "answer"), recorded(is_our_error))
async def test_recorded_error(case: dict[str, Any], answer: dict[str, Any]) -> None:
    service = ScriptedService(ScriptedReply([Done("stop")]), no_such_model)
    got = await post(service, case["path"], case["body"])
    assert (got.status, got.type, got.text) == (answer["status"], answer["headers"]["content-type"], answer["body"])


def without_ids(value: dict[str, Any]) -> dict[str, Any]:
    prefix = value["id"].partition("-")[0]
    assert isinstance(value["created"], int)
    return {**value, "id": prefix, "created": 0}


def events_of(text: str) -> list[Any]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part if part == "data: [DONE]" else without_ids(json.loads(part[6:])) for part in parts]


def logprobs_of(choice: dict[str, Any]) -> tuple[Logprob, ...]:
    def one(entry: dict[str, Any]) -> Logprob:
        raw = bytes(entry["bytes"]) if "bytes" in entry else None
        top = tuple(one(item) for item in entry.get("top_logprobs", ()))
        return Logprob(entry["token"], entry["logprob"], raw, top)

    return tuple(one(entry) for entry in (choice.get("logprobs") or {"content": ()})["content"])


def delta_of(choice: dict[str, Any]) -> Delta:
    """What the core must have said for this recorded choice."""
    said = choice.get("delta", choice.get("message", {"content": choice.get("text")}))
    calls = tuple(
        ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"], call["index"])
        for call in said.get("tool_calls", ())
    )
    return Delta(said.get("content", ""), said.get("reasoning", ""), calls, logprobs_of(choice))


def done_of(reason: str, usage: dict[str, int] | None) -> Done:
    usage = usage or {"prompt_tokens": 0, "completion_tokens": 0}
    told: Any = "stop" if reason == "tool_calls" else reason
    return Done(told, prompt_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])


@pytest.mark.parametrize(("case", "answer"), recorded(lambda answer: "events" in answer))
async def test_recorded_stream(case: dict[str, Any], answer: dict[str, Any]) -> None:
    expected = events_of("".join(event + "\n\n" for event in answer["events"]))
    script: Script = []
    usage = next((e["usage"] for e in expected if isinstance(e, dict) and e.get("choices") == []), None)
    for event in expected:
        for choice in event["choices"] if isinstance(event, dict) else ():
            if choice["finish_reason"] is None:
                script.append(delta_of(choice))
            else:
                script.append(done_of(choice["finish_reason"], usage))
    reply = ScriptedReply(script)
    got = await post(ScriptedService(reply), case["path"], case["body"])
    assert (got.status, got.type, got.ended) == (200, "text/event-stream", True)
    assert events_of(got.text) == expected
    assert reply.closed


@pytest.mark.parametrize(
    ("case", "answer"), recorded(lambda answer: answer["status"] == 200 and "events" not in answer)
)
async def test_recorded_answer(case: dict[str, Any], answer: dict[str, Any]) -> None:
    expected = json.loads(answer["body"])
    choice = expected["choices"][0]
    if choice["finish_reason"] is None:
        rendered = expected.get("_debug_info", {}).get("rendered_template", "")
        reply = ScriptedReply([], "render", rendered)
    else:
        half = delta_of(choice)
        cut = len(half.content) // 2
        first = Delta(half.content[:cut], half.thinking, half.tool_calls, half.logprobs)
        script: Script = [first, Delta(half.content[cut:]), done_of(choice["finish_reason"], expected["usage"])]
        reply = ScriptedReply(script, "load" if choice["finish_reason"] == "load" else "stream")
    got = await post(ScriptedService(reply), case["path"], case["body"])
    assert (got.status, got.type) == (200, "application/json")
    assert got.text.endswith("}\n")
    assert without_ids(json.loads(got.text)) == without_ids(expected)
    assert list(json.loads(got.text)) == list(expected)
    assert reply.closed


CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


async def chunks(script: Script, **extra: Any) -> list[Any]:
    got = await post(ScriptedService(ScriptedReply(script)), CHAT, {**BODY, "stream": True, **extra})
    return events_of(got.text)


async def test_text_left_at_the_end_comes_before_the_finish() -> None:
    events = await chunks([Delta("a"), Done("length", delta=Delta("b"))])
    said = [event["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert said == ["a", "b", None]


async def test_thinking_beside_an_answer_is_a_chunk_of_its_own() -> None:
    events = await chunks([Delta("answer", "thought"), Done("stop")])
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas == [{"role": "assistant", "reasoning": "thought"}, {"content": "answer"}, {}]


async def test_text_is_escaped_as_go_does_it() -> None:
    service = ScriptedService(ScriptedReply([Delta("<&>"), Delta("\u2028"), Done("stop")]))
    got = await post(service, CHAT, {**BODY, "model": "<m>", "stream": True})
    assert '"content":"\\u003c\\u0026\\u003e"' in got.text
    assert '"content":"\\u2028"' in got.text
    assert '"model":"\\u003cm\\u003e"' in got.text


async def test_an_error_before_the_first_chunk_has_its_status() -> None:
    service = ScriptedService(ScriptedReply([EngineCrashed("gone")]))
    got = await post(service, CHAT, {**BODY, "stream": True})
    assert (got.status, got.type) == (500, "application/json")
    assert json.loads(got.text)["error"] == {"message": "gone", "type": "api_error", "param": None, "code": None}
    assert service.reply.closed


async def test_an_error_in_a_stream_is_an_event_and_the_last_one() -> None:
    service = ScriptedService(ScriptedReply([Delta("a"), EngineCrashed("gone"), Delta("b")]))
    got = await post(service, CHAT, {**BODY, "stream": True})
    last = got.text.split("\n\n")[-2]
    assert (got.status, got.ended) == (200, True)
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "gone"
    assert service.reply.closed


async def test_an_answer_that_breaks_is_an_error_when_not_streamed() -> None:
    service = ScriptedService(ScriptedReply([Delta("a"), RequestError("no")]))
    got = await post(service, CHAT, BODY)
    assert (got.status, json.loads(got.text)["error"]["type"]) == (400, "invalid_request_error")


PATHS = [CHAT, "/v1/completions", "/api/chat", "/api/generate"]
ANY_BODY = {**BODY, "prompt": "x"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_ends_the_work(path: str, stream: bool) -> None:
    service = ScriptedService(EndlessReply([]))
    leave = 2 if stream else 0
    got = await asyncio.wait_for(post(service, path, {**ANY_BODY, "stream": stream}, leave_after=leave), timeout=30)
    assert service.reply.closed
    assert got.status == (200 if stream else 499)


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_while_the_model_loads_ends_the_work(path: str) -> None:
    service = ScriptedService(ScriptedReply([]))
    cancelled = asyncio.Event()

    async def load_for_ever(request: Any) -> ScriptedReply:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    service.chat = service.generate = load_for_ever  # type: ignore[method-assign]
    await asyncio.wait_for(post(service, path, ANY_BODY, leave_after=0), timeout=30)
    assert cancelled.is_set()


async def test_a_cancelled_server_task_stays_cancelled() -> None:
    service = ScriptedService(EndlessReply([]))
    task = asyncio.create_task(post(service, CHAT, {**BODY, "stream": True}))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.reply.closed


async def test_an_exception_in_a_stream_leaves_it_open_for_the_server_to_cut() -> None:
    service = ScriptedService(ScriptedReply([Delta("a"), RuntimeError("bug")]))
    with pytest.raises(RuntimeError, match="bug"):
        await post(service, CHAT, {**BODY, "stream": True})
    assert service.reply.closed


async def test_stream_ids_differ_between_requests_and_not_within_one() -> None:
    ids = []
    for _ in range(2):
        got = await post(ScriptedService(ScriptedReply([Delta("a"), Done("stop")])), CHAT, {**BODY, "stream": True})
        found = {json.loads(part[6:])["id"] for part in got.text.split("\n\n")[:-2]}
        assert len(found) == 1
        ids.append(found.pop())
    assert ids[0] != ids[1]
