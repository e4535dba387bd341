"""The readers of bodies: recorded requests with Ollama's answer (tests/golden/requests.jsonl), and what they become.

In that file `error` is what Ollama said before it looked for the model; null means that the body is fine so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllama.api import read, read_openai
from vllama.api.bodies import NameBody
from vllama.core.requests import FOREVER, ChatRequest, EmbedRequest
from vllama.errors import BodyError, RequestError
from vllama.prompts.messages import Message, Think, Tool, ToolCall, ToolFunction

GOLDEN = Path(__file__).parents[1] / "golden" / "requests.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]
READERS: dict[str, Callable[[bytes], Any]] = {
    "/api/generate": read.read_generate,
    "/api/chat": read.read_chat,
    "/api/embed": read.read_embed,
    "/api/embeddings": read.read_embeddings,
    "/api/show": read.read_show,
    "/api/copy": read.read_copy,
    "/api/delete": read.read_delete,
    "/api/pull": read.read_pull,
    "/api/push": read.read_push,
    "/api/create": read.read_create,
    "/v1/chat/completions": read_openai.read_openai_chat,
    "/v1/completions": read_openai.read_openai_completion,
    "/v1/embeddings": read_openai.read_openai_embed,
}
ONE = [{"role": "user", "content": "x"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m"} | fields).encode()


def chat(**fields: Any) -> Any:
    return read_openai.read_openai_chat(body(**({"messages": ONE} | fields)))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_recorded_requests_are_taken_or_refused_as_by_ollama(case: dict[str, Any]) -> None:
    reader, sent = READERS[case["path"]], case["body"].encode()
    if case["error"] is None:
        reader(sent)
        return
    with pytest.raises(RequestError) as caught:
        reader(sent)
    assert (caught.value.status, caught.value.text) == (400, case["error"])


def test_generate() -> None:
    request = read.read_generate(
        body(
            prompt="p", suffix="s", system="y", template="t", context=[1, 2], stream=False, raw=True, format="json",
            keep_alive="90s", images=["YQ=="], options={"seed": 1}, think="low", truncate=False, shift=False,
            _debug_render_only=True, logprobs=True, top_logprobs=20,
        )
    )  # fmt: skip
    assert (request.model, request.prompt, request.suffix) == ("m", "p", "s")
    assert (request.system, request.template, request.context) == ("y", "t", (1, 2))
    assert (request.stream, request.raw, request.format) == (False, True, "json")
    assert (request.keep_alive, request.images, request.options) == (90 * 10**9, (b"a",), {"seed": 1})
    assert (request.think, request.truncate, request.shift) == (Think(True, "low"), False, False)
    assert (request.debug_render_only, request.logprobs, request.top_logprobs) == (True, True, 20)


def test_generate_defaults() -> None:
    request = read.read_generate(b"{}")
    assert request.model == ""
    assert (request.stream, request.keep_alive, request.think, request.context) == (None, None, None, None)
    assert (request.format, request.options, request.images) == (None, {}, ())


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (0, 0),
        ("0", 0),
        (1.5, 1_500_000_000),
        ("5m", 300 * 10**9),
        (-1, FOREVER),
        ("-1m", FOREVER),
        (9223372037, FOREVER),
        (None, None),
    ],
)
def test_keep_alive(given: Any, want: int | None) -> None:
    assert read.read_chat(body(keep_alive=given)).keep_alive == want


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ('""', None),
        ("null", None),
        ('"json"', "json"),
        ("{}", {}),
        ('{"type":"object"}', {"type": "object"}),
        ('"JSON"', '"JSON"'),
        ("[1, 2]", "[1, 2]"),
        ("1.50", "1.50"),
        ("false", "false"),
    ],
)
def test_an_unusable_format_stays_as_it_was_written(given: str, want: Any) -> None:
    assert read.read_generate(b'{"format": ' + given.encode() + b" }").format == want
    assert read.read_chat(b'{"model":"m","format": ' + given.encode() + b" }").format == want


@pytest.mark.parametrize("reader", [read.read_generate, read.read_chat])
@pytest.mark.parametrize("count", [-1, 21])
def test_top_logprobs_are_checked_before_the_model(reader: Any, count: int) -> None:
    with pytest.raises(RequestError, match=r"^top_logprobs must be between 0 and 20$"):
        reader(json.dumps({"top_logprobs": count}).encode())


def test_chat_messages() -> None:
    sent = [
        {"role": "System", "content": "s"},
        {"role": "user", "content": "u", "images": ["YQ==", None]},
        {
            "role": "assistant",
            "thinking": "t",
            "tool_calls": [{"id": "1", "function": {"index": 2, "name": "f", "arguments": {"b": 1, "a": [1.0]}}}, {}],
        },
        {"role": "tool", "content": "r", "tool_name": "f", "tool_call_id": "1"},
    ]
    assert read.read_chat(body(messages=sent)).messages == (
        Message("system", "s"),
        Message("user", "u", images=(b"a", b"")),
        Message("assistant", "", "t", (), (ToolCall("f", {"b": 1, "a": [1.0]}, "1", 2), ToolCall("", {}))),
        Message("tool", "r", tool_name="f", tool_call_id="1"),
    )


def test_tools_keep_what_ollama_keeps() -> None:
    properties = {
        "b": {"default": 1, "description": "d", "type": "string", "enum": ["x", 1e3, 1.5]},
        "a": {"anyOf": [{"type": ["integer", "null"]}], "items": {"minimum": 1.0}, "required": []},
        "c": {"properties": {"d": {"type": None}}, "required": ["d"]},
        "e": None,
    }
    parameters = {
        "properties": properties,
        "required": ["b"],
        "additionalProperties": False,
        "$defs": {"z": 1},
        "type": "object",
    }
    sent = [{"function": {"name": "f", "parameters": parameters, "strict": True}, "type": "function"}, {}]
    tools = read.read_chat(body(tools=sent)).tools
    kept = {
        "type": "object",
        "$defs": {"z": 1},
        "required": ["b"],
        "properties": {
            "b": {"type": "string", "description": "d", "enum": ["x", 1000, 1.5]},
            "a": {"anyOf": [{"type": ["integer", "null"]}], "items": {"minimum": 1}},
            "c": {"properties": {"d": {"type": ""}}, "required": ["d"]},
            "e": {},
        },
    }
    assert tools == (
        Tool(ToolFunction("f", "", kept), "function"),
        Tool(ToolFunction("", "", {"type": "", "properties": None}), ""),
    )
    # Templates print the schema, so the order of the keys is a part of the prompt.
    assert json.dumps(tools[0].function.parameters) == json.dumps(kept)


def test_names_of_the_smaller_routes() -> None:
    assert read.read_delete(b'{"name":"a"}') == NameBody("a")
    assert read.read_pull(b'{"model":"b","name":"a","insecure":true,"stream":false}') == NameBody("b", False, True)
    assert read.read_pull(b"{}") == NameBody("")
    assert read.read_show(b'{"name":"a","verbose":true}').model == "a"
    assert read.read_create(b'{"name":"a","quantization":"q4_0"}').quantize == "q4_0"


@pytest.mark.parametrize(("given", "want"), [("", ()), ([], ()), (None, ()), ("x", ("x",)), (["", "x"], ("", "x"))])
def test_embed_input(given: Any, want: tuple[str, ...]) -> None:
    assert read.read_embed(body(input=given)).inputs == want


def test_v1_embed() -> None:
    request, extras = read_openai.read_openai_embed(body(input="", encoding_format="Base64", dimensions=3))
    assert request == EmbedRequest("m", ("",), dimensions=3)
    assert extras.base64


def test_v1_chat_defaults() -> None:
    request, extras = chat()
    assert request.options == {"temperature": 1.0, "top_p": 1.0}
    assert (request.stream, request.format, request.think, request.logprobs) == (False, None, None, False)
    assert (extras.model, extras.stream, extras.include_usage) == ("m", False, False)


def test_v1_chat_options() -> None:
    request, extras = chat(
        temperature=0, top_p=0.5, seed=7, frequency_penalty=1, presence_penalty=-1, max_tokens=9, stop="x",
        stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert request.options == {
        "temperature": 0.0, "top_p": 0.5, "seed": 7, "frequency_penalty": 1.0, "presence_penalty": -1.0,
        "num_predict": 9, "stop": ["x"],
    }  # fmt: skip
    assert (request.stream, request.logprobs, request.top_logprobs) == (True, True, 2)
    assert extras.include_usage


def test_v1_chat_takes_the_newer_name_of_max_tokens() -> None:
    assert chat(max_completion_tokens=5)[0].options["num_predict"] == 5
    assert chat(max_completion_tokens=5, max_tokens=6)[0].options["num_predict"] == 6


@pytest.mark.parametrize(("given", "want"), [(["a", 1, "b"], ["a", "b"]), (5, None), (None, None), ([], [])])
def test_v1_chat_drops_stops_that_are_no_text(given: Any, want: Any) -> None:
    assert chat(stop=given)[0].options.get("stop") == want


@pytest.mark.parametrize(
    ("effort", "want"),
    [
        ("none", Think(False)),
        ("minimal", Think(True, "low")),
        ("medium", Think(True, "medium")),
        ("xhigh", Think(True, "max")),
        ("ultra", Think(True, "max")),
        ("", None),
    ],
)
def test_v1_chat_effort(effort: str, want: Think | None) -> None:
    assert chat(reasoning_effort=effort)[0].think == want
    assert chat(reasoning={"effort": effort}, reasoning_effort="high")[0].think == want


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"type": "text"}, None),
        ({"type": " JSON_object "}, "json"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"schema": {}}}, {}),
        ({"type": "json_schema"}, None),
        ({"type": "json_schema", "json_schema": {"schema": [1, "ä"]}}, '[1,"ä"]'),
        ({"type": "nonsense"}, None),
    ],
)
def test_v1_chat_response_format(given: dict[str, Any], want: Any) -> None:
    assert chat(response_format=given)[0].format == want


def test_v1_chat_messages() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": "data:;base64,YQ=="},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,Yg=="}},
        {"type": "input_audio", "input_audio": {"data": "Yw=="}},
    ]
    sent = [
        {"role": "User", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "t"},
        {"role": "tool", "content": "18 C", "tool_call_id": "1"},
        {"role": "tool", "content": "x", "tool_call_id": "2", "name": "g"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}], "tool_calls": [call]},
    ]
    made = ToolCall("f", {"a": 1}, "1")
    assert chat(messages=sent)[0].messages == (
        Message("user", "a"),
        Message("user", images=(b"a",)),
        Message("user", images=(b"b",)),
        Message("user", images=(b"c",)),
        Message("assistant", "", "t", (), (made,)),
        Message("tool", "18 C", tool_name="f", tool_call_id="1"),
        Message("tool", "x", tool_name="g", tool_call_id="2"),
        Message("assistant", "b", tool_calls=(made,)),
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "invalid message content type: <nil>"),
        (True, "invalid message content type: bool"),
        ([{"type": "image_url", "image_url": "data:image/gif;base64,YQ=="}], "invalid image input"),
        ([{"type": "image_url", "image_url": "data:;base64,YQ"}], "invalid image input"),
        ([{"type": "input_audio", "input_audio": {}}], "invalid input_audio format: missing data"),
        (
            [{"type": "input_audio", "input_audio": {"data": "Y"}}],
            "invalid input_audio base64 data: illegal base64 data at input byte 0",
        ),
    ],
)
def test_v1_chat_content_errors(content: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(messages=[{"role": "user", "content": content}])
    assert caught.value.text == text


def test_v1_completion() -> None:
    request, extras = read_openai.read_openai_completion(
        body(prompt="p", suffix="s", max_tokens=3, top_p=0, stop=["x"], logprobs=4, stream=True)
    )
    assert (request.model, request.prompt, request.suffix, request.stream) == ("m", "p", "s", True)
    assert (request.logprobs, request.top_logprobs) == (True, 4)
    assert request.options == {
        "temperature": 1.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "num_predict": 3,
        "stop": ["x"],
    }  # fmt: skip
    assert extras.stream


@pytest.mark.parametrize("value", ['"x"', "1.5", "true", "[1]", "{}", "null", "99999999999999999999"])
def test_what_ollama_does_not_read_cannot_be_wrong(value: str) -> None:
    body = '{"model":"m","messages":[{"role":"user","content":"x"}],"max_completion_tokens":' + value + "}"
    assert isinstance(read_openai.read_openai_chat(body.encode())[0], ChatRequest)


def test_a_struct_without_a_name_is_printed_by_its_fields() -> None:
    body = b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":5}]}]}'
    with pytest.raises(BodyError) as found:
        read_openai.read_openai_chat(body)
    assert found.value.text == (
        "json: cannot unmarshal number into Go struct field ToolCall.messages.tool_calls.function of type "
        'struct { Name string "json:\\"name\\""; Arguments string "json:\\"arguments\\"" }'
    )
