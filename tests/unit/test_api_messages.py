"""/v1/messages: recorded answers rebuilt from their parts, the reading of messages, errors, count_tokens."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_api_openai import EndlessReply, Script, ScriptedReply, ScriptedService, load, no_such_model, post
from vllama.api.read_anthropic import read_messages
from vllama.core.replies import Delta, Done
from vllama.errors import BodyError, EngineCrashed, RequestError
from vllama.prompts.messages import Message, Think, ToolCall

PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
ANSWERS = {answer["id"]: answer for answer in load("golden/v1messages.jsonl")}
CASES = {case["id"]: case for case in load("cases/v1messages.jsonl")}


def ids(kind: str) -> list[str]:
    def kind_of(answer: dict[str, Any]) -> str:
        return "error" if answer["status"] >= 400 else "stream" if "events" in answer else "whole"

    return [name for name, answer in ANSWERS.items() if kind_of(answer) == kind]


def scripted(script: Script, *, thinks: bool = True) -> ScriptedService:
    service = ScriptedService(ScriptedReply(script), no_such_model)
    able = ("completion", "thinking") if thinks else ("completion",)
    service.resolve = lambda name: SimpleNamespace(capabilities=able)  # type: ignore[attr-defined]
    return service


def without_ids(text: str) -> Any:
    value = json.loads(text)
    for holder in (value, value.get("message", {})):
        for key in ("id", "request_id"):
            if key in holder:
                holder[key] = holder[key].partition("_")[0]
    return value


def events_of(text: str) -> list[tuple[str, Any]]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    found = []
    for part in parts:
        name, data = part.split("\n")
        found.append((name.removeprefix("event: "), without_ids(data.removeprefix("data: "))))
    assert all(data["type"] == name for name, data in found)
    return found


@pytest.mark.parametrize("name", ids("error"))
async def test_recorded_error(name: str) -> None:
    answer = ANSWERS[name]
    got = await post(scripted([Done("stop")]), PATH, CASES[name]["body"])
    assert (got.status, got.type) == (answer["status"], answer["headers"]["content-type"])
    assert without_ids(got.text) == without_ids(answer["body"])
    assert got.text.endswith("\n") == answer["body"].endswith("\n")


@pytest.mark.parametrize("name", ids("stream"))
async def test_recorded_stream(name: str) -> None:
    expected = events_of("".join(event + "\n\n" for event in ANSWERS[name]["events"]))
    script: Script = []
    usage: dict[str, int] = {}
    for kind, data in expected:
        if kind == "content_block_delta":
            script.append(Delta(data["delta"].get("text", ""), data["delta"].get("thinking", "")))
        elif kind == "message_delta":
            usage = data["usage"]
    script.append(Done("length", prompt_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"]))
    service = scripted(script)
    service.reply.prompt_tokens = usage["input_tokens"]
    got = await post(service, PATH, CASES[name]["body"])
    assert (got.status, got.type, got.ended) == (200, "text/event-stream", True)
    expected[0][1]["message"]["usage"]["input_tokens"] = usage["input_tokens"]  # which Ollama guesses
    assert events_of(got.text) == expected
    assert service.reply.closed


@pytest.mark.parametrize("name", ids("whole"))
async def test_recorded_answer(name: str) -> None:
    expected = without_ids(ANSWERS[name]["body"])
    blocks = {block["type"]: block for block in expected["content"] or ()}
    said = Delta(blocks.get("text", {}).get("text", ""), blocks.get("thinking", {}).get("thinking", ""))
    reasons: Any = {"max_tokens": "length", "end_turn": "stop", "stop_sequence": "load"}
    usage = expected["usage"]
    done = Done(
        reasons[expected["stop_reason"]], prompt_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"]
    )
    got = await post(scripted([said, done]), PATH, CASES[name]["body"])
    assert (got.status, got.type) == (200, "application/json")
    assert without_ids(got.text) == {**expected, "content": expected["content"] or []}  # Ollama: null
    assert list(json.loads(got.text)) == list(expected)


async def test_tools_and_thoughts_are_blocks_of_their_own() -> None:
    calls = (ToolCall("f", {"a": "<"}, "call_1"), ToolCall("g", {}, "call_2"))
    script: Script = [Delta("", "hm"), Delta("Let me see."), Delta("", "", calls), Delta("So."), Done("stop")]
    events = events_of((await post(scripted(script), PATH, {**BODY, "stream": True})).text)
    blocks = [(data["index"], data["content_block"]) for name, data in events if name == "content_block_start"]
    assert blocks == [
        (0, {"type": "thinking", "thinking": ""}),
        (1, {"type": "text", "text": ""}),
        (2, {"type": "tool_use", "id": "call_1", "name": "f", "input": {}}),
        (3, {"type": "tool_use", "id": "call_2", "name": "g", "input": {}}),
        (4, {"type": "text", "text": ""}),
    ]
    stops = [data["index"] for name, data in events if name == "content_block_stop"]
    assert stops == [0, 1, 2, 3, 4]
    sent = [
        data["delta"]["partial_json"] for _, data in events if data.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert [json.loads(text) for text in sent] == [{"a": "<"}, {}]
    assert events[-2][1]["delta"] == {"stop_reason": "tool_use"}
    whole = json.loads((await post(scripted(script), PATH, BODY)).text)
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][2]["input"] == {"a": "<"}
    assert whole["stop_reason"] == "tool_use"


async def test_what_the_parsers_had_at_the_end_is_said() -> None:
    events = events_of((await post(scripted([Done("stop", delta=Delta("x"))]), PATH, {**BODY, "stream": True})).text)
    assert [name for name, _ in events][1:4] == ["content_block_start", "content_block_delta", "content_block_stop"]


async def test_an_error_in_a_stream_is_an_event() -> None:
    service = scripted([Delta("a"), EngineCrashed("gone")])
    got = await post(service, PATH, {**BODY, "stream": True})
    name, data = events_of(got.text)[-1]
    assert (got.status, name, data["error"]) == (200, "error", {"type": "api_error", "message": "gone"})
    assert service.reply.closed


async def test_an_error_before_the_first_event_has_its_status() -> None:
    got = await post(scripted([EngineCrashed("gone")]), PATH, {**BODY, "stream": True})
    assert (got.status, got.type) == (500, "application/json")
    assert json.loads(got.text)["error"] == {"type": "api_error", "message": "gone"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_work(stream: bool) -> None:
    service = ScriptedService(EndlessReply([]))
    await post(service, PATH, {**BODY, "stream": stream}, leave_after=2 if stream else 0)
    assert service.reply.closed


@pytest.mark.parametrize(("thinks", "expected"), [(True, Think(True)), (False, None)])
async def test_a_model_without_thinking_is_not_asked_for_it(thinks: bool, expected: Think | None) -> None:
    service = scripted([Done("stop")], thinks=thinks)
    await post(service, PATH, {**BODY, "thinking": {"type": "enabled", "budget_tokens": 2000}})
    assert service.requests[0].think == expected


async def test_count_tokens() -> None:
    service = scripted([])
    counted: list[Any] = []

    async def count(request: Any) -> int:
        counted.append(request)
        return 42

    service.count_tokens = count  # type: ignore[attr-defined]
    got = await post(service, PATH + "/count_tokens", {"model": "m", "system": "s", "messages": BODY["messages"]})
    assert (got.status, got.type, got.text) == (200, "application/json", '{"input_tokens":42}\n')
    assert counted[0].messages == (Message("system", "s"), Message("user", "x"))
    got = await post(service, PATH + "/count_tokens", {"model": "m"})
    assert (got.status, json.loads(got.text)["error"]["message"]) == (400, "messages is required")


# -- reading -----------------------------------------------------------------------------------------------


def read(**extra: Any) -> Any:
    return read_messages(json.dumps({**BODY, **extra}).encode())[0]


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@pytest.mark.parametrize(
    ("role", "content", "messages"),
    [
        ("User", "hi", (Message("user", "hi"),)),
        ("user", "", ()),
        (
            "user",
            [{"type": "text", "text": "a"}, PNG, {"type": "text", "text": "b"}],
            (Message("user", "ab", images=(b"hi",)),),
        ),
        (
            "assistant",
            [
                {"type": "thinking", "thinking": "t"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"b": 1, "a": 2}},
            ],
            (Message("assistant", "", "t", (), (ToolCall("f", {"b": 1, "a": 2}, "1"),)),),
        ),
        (
            "user",
            [{"type": "text", "text": "and?"}, {"type": "tool_result", "tool_use_id": "1", "content": "18 C"}],
            (Message("tool", "18 C", tool_call_id="1"), Message("user", "and?")),
        ),
        (
            "user",
            [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "a"}, PNG, 5]}],
            (Message("tool", "a", images=(b"hi",), tool_call_id="1"),),
        ),
        (
            "assistant",
            [
                {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "q"}},
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "1",
                    "content": [{"type": "web_search_result", "title": "T", "url": "u"}],
                },
            ],
            (
                Message("assistant", "", "", (), (ToolCall("web_search", {"query": "q"}, "1"),)),
                Message("tool", "- T: u\n", tool_call_id="1"),
            ),
        ),
    ],
)
def test_messages(role: str, content: Any, messages: tuple[Message, ...]) -> None:
    assert read(messages=[{"role": role, "content": content}]).messages == messages


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("s", "s"),
        ([{"type": "text", "text": "a"}, {"type": "x"}, {"type": "text", "text": "b"}], "ab"),
        (5, ""),
        ("", ""),
    ],
)
def test_system(system: Any, text: str) -> None:
    messages = read(system=system).messages
    assert messages[:-1] == ((Message("system", text),) if text else ())


def test_options() -> None:
    request = read(temperature=0.5, top_p=0.1, top_k=3, stop_sequences=["a"])
    assert request.options == {"num_predict": 9, "temperature": 0.5, "top_p": 0.1, "top_k": 3, "stop": ["a"]}
    assert read().options == {"num_predict": 9}


@pytest.mark.parametrize(
    ("extra", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled"}}, Think(True)),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, Think(False)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": " XHigh "}}, Think(True, "high")),
        ({"output_config": {"effort": "max"}}, Think(True, "max")),
        ({"output_config": {"effort": "huge"}}, None),
    ],
)
def test_think(extra: dict[str, Any], think: Think | None) -> None:
    assert read(**extra).think == think


def test_tools() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    search = {"type": "web_search_20250305", "name": "web_search"}
    tools = read(tools=[search, {"name": "f", "description": "d", "input_schema": schema}]).tools
    assert [(tool.type, tool.function.name, tool.function.description) for tool in tools] == [("function", "f", "d")]
    assert tools[0].function.parameters == {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "string"}},
    }


WRONG = "json: cannot unmarshal number into Go struct field MessagesRequest.messages"
STRUCT = 'struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }'


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (5, f"{WRONG} of type {STRUCT}"),
        ({"role": 5, "content": "x"}, f"{WRONG}.role of type string"),
        ({"role": "user"}, "unexpected end of JSON input"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, f"{WRONG}.text of type string"),
        ({"role": "user", "content": 5}, f"{WRONG} of type []anthropic.ContentBlock"),
    ],
)
def test_wrong_types(message: Any, text: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(messages=[message])
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "image", "source": {"type": "url", "url": "u"}},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"type": "image", "source": {"type": "base64", "data": "?"}},
            "invalid base64 image data: illegal base64 data at input byte 0",
        ),
        ({"type": "tool_use", "id": "1", "input": {}}, "tool_use block missing required 'name' field"),
        ({"type": "tool_result", "content": [{"type": "image"}]}, "invalid tool_result image source"),
    ],
)
def test_blocks_that_cannot_be_used(block: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(messages=[{"role": "user", "content": [block]}])
    assert caught.value.text == text


def test_keys_match_in_any_case() -> None:
    body = b'{"MODEL":"m","Max_Tokens":1,"messages":[{"Role":"user","CONTENT":"a"},{"role":"user","content":null}]}'
    assert read_messages(body)[0].messages == (Message("user", "a"),)
