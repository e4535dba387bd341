"""/v1/responses: recorded answers rebuilt from their parts, the reading of items, errors in streams."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.unit.test_api_openai import EndlessReply, Script, ScriptedReply, ScriptedService, load, no_such_model, post
from vllama.api.read_responses import read_responses
from vllama.core.replies import Delta, Done
from vllama.errors import EngineCrashed, RequestError, VllamaError
from vllama.prompts.messages import Message, Think, ToolCall

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "m", "input": "x"}
ANSWERS = {answer["id"]: answer for answer in load("golden/v1responses.jsonl")}
CASES = {case["id"]: case for case in load("cases/v1responses.jsonl")}


def ids(kind: str) -> list[str]:
    def kind_of(answer: dict[str, Any]) -> str:
        if answer["status"] >= 400:
            # What a model can do is not decided here.
            return "other" if "does not support" in answer["body"] else "error"
        return "stream" if "events" in answer else "whole"

    return [name for name, answer in ANSWERS.items() if kind_of(answer) == kind]


def without_ids(value: Any) -> Any:
    """Numbers out of ids and times out of everything."""
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    clean = {key: without_ids(item) for key, item in value.items()}
    for key in ("id", "item_id"):
        if isinstance(clean.get(key), str):
            clean[key] = re.sub(r"\d+", "0", clean[key])
    return {key: item is not None if key in ("created_at", "completed_at") else item for key, item in clean.items()}


def events_of(text: str) -> list[Any]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    found = []
    for part in parts:
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(without_ids(event))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def done_of(response: dict[str, Any]) -> Done:
    usage = response["usage"]
    return Done("stop", prompt_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"])


def call_of(item: dict[str, Any]) -> ToolCall:
    return ToolCall(item["name"], json.loads(item["arguments"]), item["call_id"])


@pytest.mark.parametrize("name", ids("error"))
async def test_recorded_error(name: str) -> None:
    answer = ANSWERS[name]
    got = await post(ScriptedService(ScriptedReply([Done("stop")]), no_such_model), PATH, CASES[name]["body"])
    assert (got.status, got.type, got.text) == (answer["status"], answer["headers"]["content-type"], answer["body"])


@pytest.mark.parametrize("name", ids("stream"))
async def test_recorded_stream(name: str) -> None:
    expected = events_of("".join(event + "\n\n" for event in ANSWERS[name]["events"]))
    script: Script = []
    for event in expected:
        kind = event["type"].removeprefix("response.")
        if kind == "output_text.delta":
            script.append(Delta(event["delta"]))
        elif kind == "reasoning_summary_text.delta":
            script.append(Delta("", event["delta"]))
        elif kind == "output_item.done" and event["item"]["type"] == "function_call":
            script.append(Delta("", "", (call_of(event["item"]),)))
        elif kind == "completed":
            script.append(done_of(event["response"]))
    service = ScriptedService(ScriptedReply(script))
    got = await post(service, PATH, CASES[name]["body"])
    assert (got.status, got.type, got.ended) == (200, "text/event-stream", True)
    assert events_of(got.text) == expected
    assert service.reply.closed


@pytest.mark.parametrize("name", ids("whole"))
async def test_recorded_answer(name: str) -> None:
    expected = json.loads(ANSWERS[name]["body"])
    script: Script = []
    for item in expected["output"]:
        if item["type"] == "reasoning":
            script.append(Delta("", item["encrypted_content"]))
        elif item["type"] == "message":
            script.append(Delta(item["content"][0]["text"]))
        else:
            script.append(Delta("", "", (call_of(item),)))
    script.append(done_of(expected))
    got = await post(ScriptedService(ScriptedReply(script)), PATH, CASES[name]["body"])
    assert (got.status, got.type) == (200, "application/json")
    assert without_ids(json.loads(got.text)) == without_ids(expected)
    assert list(json.loads(got.text)) == list(expected)


async def test_text_beside_a_call_is_an_item_of_its_own() -> None:
    call = ToolCall("f", {"a": 1}, "call_1")
    script: Script = [Delta("", "hm"), Delta("Let me see."), Delta("", "", (call,)), Delta("So."), Done("stop")]
    kinds = ["reasoning", "message", "function_call", "message"]
    events = events_of((await post(ScriptedService(ScriptedReply(script)), PATH, {**BODY, "stream": True})).text)
    added = [(e["output_index"], e["item"]["type"]) for e in events if e["type"] == "response.output_item.added"]
    done = [(e["output_index"], e["item"]) for e in events if e["type"] == "response.output_item.done"]
    assert added == [(i, kind) for i, kind in enumerate(kinds)] == [(i, item["type"]) for i, item in done]
    assert events[-1]["response"]["output"] == [item for _, item in done]
    whole = json.loads((await post(ScriptedService(ScriptedReply(script)), PATH, BODY)).text)["output"]
    assert [item["type"] for item in whole] == ["reasoning", "message", "function_call"]
    assert whole[1]["content"][0]["text"] == "Let me see.So."


async def test_an_error_in_a_stream_is_a_failed_response_with_what_there_is() -> None:
    service = ScriptedService(ScriptedReply([Delta("a"), EngineCrashed("gone")]))
    events = events_of((await post(service, PATH, {**BODY, "stream": True})).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "gone"}
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "a"
    assert service.reply.closed


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_work(stream: bool) -> None:
    service = ScriptedService(EndlessReply([]))
    await post(service, PATH, {**BODY, "stream": stream}, leave_after=2 if stream else 0)
    assert service.reply.closed


async def test_an_answer_repeats_the_request() -> None:
    tool = {"type": "function", "name": "f", "description": None, "strict": True, "parameters": {"type": "object"}}
    body = {
        **BODY,
        "instructions": "Be brief.",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        "tools": [{"type": "namespace", "name": "n", "tools": [tool]}],
        "temperature": 0.5,
        "background": True,
    }
    got = json.loads((await post(ScriptedService(ScriptedReply([Done("stop")])), PATH, body)).text)
    for key in ("instructions", "reasoning", "text", "temperature", "background"):
        assert got[key] == body[key]
    assert got["tools"][0]["tools"] == [tool]


# -- reading -----------------------------------------------------------------------------------------------


def read(**extra: Any) -> Any:
    return read_responses(json.dumps({**BODY, **extra}).encode())[0]


CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": '{"b":1,"a":2}'}
RESULT = {"type": "function_call_output", "call_id": "1", "output": "18 C"}
CALLED = ToolCall("f", {"b": 1, "a": 2}, "1")
REASONING = {"type": "reasoning", "summary": [], "encrypted_content": "t"}
PNG = {"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("hi", (Message("user", "hi"),)),
        ("", ()),
        ([], ()),
        (None, ()),
        ([{"role": "Developer", "content": "a"}], (Message("developer", "a"),)),
        ([{"role": "user"}, {"role": "user", "content": None}], (Message("user"), Message("user"))),
        (
            [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, PNG]}],
            (Message("user", "a", images=(b"hi",)),),
        ),
        (
            [REASONING, {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}],
            (Message("assistant", "a", "t"),),
        ),
        ([REASONING], (Message("assistant", "", "t"),)),
        (
            [REASONING, CALL, RESULT],
            (Message("assistant", "", "t", (), (CALLED,)), Message("tool", "18 C", tool_call_id="1")),
        ),
        (
            [{"role": "assistant", "content": "see"}, CALL, CALL],
            (Message("assistant", "see", "", (), (CALLED, CALLED)),),
        ),
        (
            [CALL, {"role": "assistant", "content": "wait"}, RESULT],
            (Message("assistant", "wait", "", (), (CALLED,)), Message("tool", "18 C", tool_call_id="1")),
        ),
        (
            [{**RESULT, "output": [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}, PNG]}],
            (Message("tool", "ab", images=(b"hi",), tool_call_id="1"),),
        ),
        ([{"type": "web_search_call", "id": "w", "status": "completed"}, {"role": "user", "content": "x"}],
         (Message("user", "x"),)),
    ],
)  # fmt: skip
def test_items(items: Any, messages: tuple[Message, ...]) -> None:
    assert read(input=items).messages == messages
    # In another case of the keys the exact decoder reads, not the fast one.
    exact = json.dumps({**BODY, "input": items}).replace('"role"', '"ROLE"').replace('"text":', '"Text":')
    assert read_responses(exact.encode())[0].messages == messages


def test_instructions_come_first() -> None:
    assert read(instructions="s").messages == (Message("system", "s"), Message("user", "x"))


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (5, "input must be a string or array: json: cannot unmarshal number into Go value of type []json.RawMessage"),
        ([None], "input[0]: input item missing required 'type' field"),
        ([{"role": 5}], "input[0]: json: cannot unmarshal number into Go struct field .role of type string"),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": 5}]}],
            "input[0]: content[0]: json: cannot unmarshal number into Go struct field ResponsesTextContent.text "
            "of type string",
        ),
        (
            [{**CALL, "arguments": {}}],
            "input[0]: json: cannot unmarshal object into Go struct field ResponsesFunctionCall.arguments "
            "of type string",
        ),
        ([{**RESULT, "output": True}],
         "input[0]: output must be a string or array: "
         "json: cannot unmarshal bool into Go value of type []json.RawMessage"),
        ([{**CALL, "arguments": "{"}],
         "failed to parse function call arguments: unexpected end of JSON input"),
    ],
)  # fmt: skip
def test_items_that_cannot_be_used(items: Any, text: str) -> None:
    with pytest.raises(VllamaError) as caught:
        read(input=items)
    assert (caught.value.status, caught.value.text) == (400, text)


def test_options() -> None:
    assert read().options == {"temperature": 1.0}
    assert read(temperature=0, top_p=0.5, max_output_tokens=7).options == {
        "temperature": 0.0,
        "top_p": 0.5,
        "num_predict": 7,
    }


def test_think() -> None:
    assert read().think is None
    assert read(reasoning={"effort": "none"}).think == Think(False)
    assert read(reasoning={"effort": "high"}).think == Think(True, "high")
    with pytest.raises(RequestError, match="invalid reasoning value"):
        read(reasoning={"effort": "huge"})


@pytest.mark.parametrize(
    ("wanted", "result"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "name": "n", "schema": {"type": "object"}}, {"type": "object"}),
        ({"type": "json_schema", "name": "n"}, None),
        (None, None),
    ],
)
def test_format(wanted: Any, result: Any) -> None:
    assert read(text={"format": wanted}).format == result


def test_tools() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    function = {"type": "function", "name": "f", "description": "d", "parameters": parameters}
    tools = read(
        tools=[
            {"type": "web_search"},
            function,
            {"type": "namespace", "name": "n", "tools": [function, {**function, "name": "n.g"}]},
        ]
    ).tools
    assert [tool.function.name for tool in tools] == ["f", "n.f", "n.g"]
    assert tools[0].function.parameters == parameters
    with pytest.raises(RequestError, match="failed to unmarshal tool parameters: json: cannot unmarshal"):
        read(tools=[{**function, "parameters": {"type": 5}}])
