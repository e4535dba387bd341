"""Decoding of bodies: as Ollama's Go types do (tests/golden/jsonerrors.jsonl), and the same both ways."""

from __future__ import annotations

import base64
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllama.api.gobase64 import decode_base64, strict_base64
from vllama.api.godecoder import DecodeError
from vllama.api.gojson import decode, decode_exact, decode_text, raw_member
from vllama.api.goscalars import ANY
from vllama.api.gotypes import Struct
from vllama.api.ollamatypes import OrderedMap
from vllama.api.schemas import native, openai
from vllama.api.tools import build_tool
from vllama.errors import BodyError
from vllama.goduration import format_duration

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [json.loads(line) for line in (GOLDEN / "jsonerrors.jsonl").read_text("utf-8").splitlines()]
DURATIONS = [json.loads(line) for line in (GOLDEN / "duration.jsonl").read_text("utf-8").splitlines()]
SCHEMAS = {
    "GenerateRequest": native.GENERATE,
    "ChatRequest": native.CHAT,
    "CreateRequest": native.CREATE,
    "EmbedRequest": native.EMBED,
    "EmbeddingRequest": native.EMBEDDINGS,
    "ShowRequest": native.SHOW,
    "PullRequest": native.PULL,
    "PushRequest": native.PUSH,
    "CopyRequest": native.COPY,
    "DeleteRequest": native.DELETE,
}


def body_of(case: dict[str, Any]) -> bytes:
    return base64.b64decode(case["body_b64"]) if "body_b64" in case else case["body"].encode()


def outcome(read: Any, body: bytes, schema: Struct) -> Any:
    try:
        return read(body, schema)
    except BodyError as error:
        return error


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if isinstance(left, BodyError) and isinstance(right, BodyError):
        return left.text == right.text
    return repr(left) == repr(right)


def remarshal(name: str, value: Any) -> Any:
    """A decoded field as Go would print it."""
    match name:
        case "images":
            return [None if item is None else base64.b64encode(item).decode() for item in value]
        case "keep_alive":
            return format_duration(value)
        case "messages":
            return [{"role": "", "content": ""} | {k: remarshal(k, v) for k, v in m.items()} for m in value]
        case "tool_calls":
            return [
                {key: item for key, item in call.items() if key != "function"}
                | {"function": {"index": 0, "name": ""} | call.get("function", {})}
                for call in value
            ]
        case "tools":
            tools = [build_tool(item) for item in value]
            return [
                {"type": t.type, "function": {"name": t.function.name, "parameters": t.function.parameters}}
                for t in tools
            ]
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
@pytest.mark.parametrize("read", [decode, decode_exact])
def test_bodies_decode_as_in_go(case: dict[str, Any], read: Any) -> None:
    result = outcome(read, body_of(case), SCHEMAS[case["type"]])
    if "error" in case:
        assert isinstance(result, BodyError), result
        assert result.text == case["http_error"]
        return
    assert not isinstance(result, BodyError), result.text
    got = {key: remarshal(key, value) for key, value in result.items()}
    want = case["decoded"]
    for key in got.keys() | want.keys():
        # Go leaves out or prints zero values by tags that no reader of bodies needs to know.
        assert (got.get(key) or None) == (want.get(key) or None), key


@pytest.mark.parametrize("case", [c for c in DURATIONS if c["kind"] == "json"], ids=lambda c: c["id"])
@pytest.mark.parametrize("read", [decode, decode_exact])
def test_keep_alive_as_in_go(case: dict[str, Any], read: Any) -> None:
    result = outcome(read, b'{"keep_alive":' + case["json"].encode() + b"}", native.GENERATE)
    if "error" in case:
        assert isinstance(result, BodyError)
        assert result.text == case["error"]
    else:
        assert result.get("keep_alive") == case["expected"]["ns"]


@pytest.mark.parametrize(
    ("body", "want"),
    [
        ('{"options":{"a":1},"options":{"b":2}}', {"options": {"a": 1, "b": 2}}),
        ('{"options":{"a":1},"Options":null}', {}),
        ('{"model":"x","model":null}', {"model": "x"}),
        ('{"MODEL":"x","model":null,"Model":""}', {"model": ""}),
        ('{"ſtream":true}', {"stream": True}),
        ('{"Keep_alive":1}', {"keep_alive": 10**9}),
        ('{"messages":[{"role":"a"},{"role":"b"}],"messages":[{"content":"c"}]}', {"messages": [{"content": "c"}]}),
        (
            '{"tools":[{"type":"a"},{"type":"b"}],"tools":[{"function":{"name":"c"}}]}',
            {"tools": [{"type": "a", "function": {"name": "c"}}]},
        ),
        ('{"tools":[null]}', {"tools": [{}]}),
        ('{"messages":[null]}', {"messages": [{}]}),
        ('{"think":true,"think":null}', {}),
    ],
)
def test_repeated_keys_and_null(body: str, want: dict[str, Any]) -> None:
    assert decode(body.encode(), native.CHAT) == want


@pytest.mark.parametrize(
    ("body", "want"),
    [
        (
            '{"temperature":1e400}',
            "number 1e400 into Go struct field ChatCompletionRequest.temperature of type float64",
        ),
        (
            '{"messages":[{"tool_calls":[{"function":{"arguments":{}}}]}]}',
            "object into Go struct field .messages.tool_calls.function.arguments of type string",
        ),
        (
            '{"response_format":{"json_schema":5}}',
            "number into Go struct field ResponseFormat.response_format.json_schema of type openai.JsonSchema",
        ),
        (
            '{"stream_options":1}',
            "number into Go struct field ChatCompletionRequest.stream_options of type openai.StreamOptions",
        ),
    ],
)
def test_errors_of_v1_bodies(body: str, want: str) -> None:
    result = outcome(decode, body.encode(), openai.CHAT)
    assert isinstance(result, BodyError)
    assert result.text == f"json: cannot unmarshal {want}"


def test_float32_overflow() -> None:
    result = outcome(decode, b'{"temperature":1e39}', openai.COMPLETION)
    assert isinstance(result, BodyError)
    assert result.text == (
        "json: cannot unmarshal number 1e39 into Go struct field CompletionRequest.temperature of type float32"
    )


@pytest.mark.parametrize("depth", [200, 280, 900, 5_000, 200_000])
@pytest.mark.parametrize("key", ["options", "unknown", "format"])
def test_deep_bodies_are_refused_or_read_but_never_crash(depth: int, key: str) -> None:
    body = b'{"%s":{"a":%s}}' % (key.encode(), b"[" * depth + b"]" * depth)
    result = outcome(decode, body, native.GENERATE)
    assert not isinstance(result, BodyError) or result.text == "exceeded max depth"
    if depth == 200_000:
        assert isinstance(result, BodyError)


def test_long_numbers_take_no_quadratic_time() -> None:
    result = outcome(decode, b'{"context":[' + b"1" * 1_000_000 + b"]}", native.GENERATE)
    assert isinstance(result, BodyError)
    assert result.text.startswith("json: cannot unmarshal number 111")


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("YQ", 0),
        ("YQ=", 3),
        ("=", 0),
        ("Y=", 1),
        ("YWJjYQ=x", 6),
        ("YQ==YQ==", 4),
        ("YWJ\njY", 5),
        ("é", 0),
        ("YQ=\n", 4),
    ],
)
def test_base64_errors_name_gos_offset(text: str, offset: int) -> None:
    result = outcome(decode, json.dumps({"images": [text]}).encode(), native.GENERATE)
    assert isinstance(result, BodyError)
    assert result.text == f"illegal base64 data at input byte {offset}"


@given(st.binary(max_size=40), st.sampled_from(["", "\n", "\r\n"]), st.integers(1, 20))
def test_base64_with_line_breaks_reads_back(data: bytes, line_break: str, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = line_break.join(text[i : i + width] for i in range(0, len(text), width))
    assert decode_base64(lines) == data


def test_base64_takes_whole_groups_only() -> None:
    for length in range(9):
        for letters in itertools.product("Y=\n!" if length < 7 else "Y=", repeat=length):
            text = "".join(letters)
            try:
                decode_base64(text)
                taken = True
            except DecodeError:
                taken = False
            whole = re.fullmatch(r"(Y{4})*(Y{2}==|Y{3}=)?", text.replace("\n", "")) is not None
            assert taken == whole, text
            if strict_base64(text.encode()) is not None:
                assert whole, text


def test_raw_member_is_the_last_text() -> None:
    assert raw_member(b' {"a":{"format":3},"format": [1, 2] ,"Format":"x\\u0041"}', "format") == '"x\\u0041"'
    assert raw_member(b'{"a":1}', "format") == ""


@pytest.mark.parametrize("text", ["", "{bad", "{} x", '{}{"a":1}', "[]", '"x"', "{}}"])
def test_whole_texts_must_be_one_object(text: str) -> None:
    with pytest.raises(BodyError):
        decode_text(text, OrderedMap(ANY))


def test_whole_text() -> None:
    assert decode_text("null", OrderedMap(ANY)) == {}
    assert list(decode_text(' {"b":1,"a":[null]} ', OrderedMap(ANY)).items()) == [("b", 1), ("a", [None])]


# Both ways agree


class Pairs(list[tuple[str, Any]]):
    """An object with its members in order, repeated keys and all."""


FIELD_NAMES = sorted(native.GENERATE.fields.keys() | native.CHAT.fields.keys())
INNER_NAMES = [
    "role",
    "content",
    "images",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "parameters",
    "type",
    "properties",
    "anyOf",
]
KEYS = st.sampled_from(FIELD_NAMES + INNER_NAMES) | st.sampled_from(
    ["Model", "MODEL", "ſtream", "Think", "anyof", "x", "é"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "user", "json", "high", "5m", "-1", "YQ==", "YQ", "Y\nQ==", 'a"b', "\\", "\u2028", "é", "\U0001f600"]
    )
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(Pairs),
    max_leaves=12,
)


@st.composite
def typed_bodies(draw: st.DrawFn) -> str:
    """Bodies that are right in most places, so that errors come one at a time."""
    message = Pairs([("role", "user"), ("content", draw(st.text(max_size=4)))])
    call = Pairs([("function", Pairs([("name", "f"), ("arguments", Pairs([("a", draw(SCALARS))]))]))])
    prop = Pairs([("type", "string"), ("enum", [draw(SCALARS)])])
    function = Pairs([("name", "f"), ("parameters", Pairs([("type", "object"), ("properties", Pairs([("p", prop)]))]))])
    tool = Pairs([("type", "function"), ("function", function)])
    members = [
        ("model", "m"),
        ("messages", [message, Pairs([*message, ("tool_calls", [call]), ("images", ["YQ=="])])]),
        ("tools", [tool]),
        ("options", Pairs([("seed", draw(SCALARS))])),
        ("keep_alive", draw(SCALARS)),
        ("think", draw(st.sampled_from([True, False, None, "low", "none", 1]))),
        ("format", draw(SCALARS)),
        ("prompt", "p"),
        ("context", [1, 2]),
    ]
    spot = draw(st.sampled_from([message, call[0][1], prop, function, tool, members]))
    for _ in range(draw(st.integers(0, 2))):
        spot.insert(draw(st.integers(0, len(spot))), (draw(KEYS), draw(VALUES)))
    kept = draw(st.lists(st.sampled_from(members), max_size=6))
    return dump(Pairs(kept), draw(st.booleans()))


def dump(value: Any, ascii_only: bool) -> str:
    if isinstance(value, Pairs):
        return (
            "{" + ", ".join(f"{json.dumps(k, ensure_ascii=ascii_only)}: {dump(v, ascii_only)}" for k, v in value) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(dump(item, ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


@given(typed_bodies() | VALUES.map(lambda value: dump(value, True)))
@example('{"model":"a\\u0022b","model":null}')
@example('{"model":"\\ud800"}')
@example('{"a":1e400}')
@example('{"options":{"seed":-0.0,"x":-0,"y":18446744073709551616,"z":1e-400}}')
def test_fast_and_exact_agree(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    for schema in (native.GENERATE, native.CHAT, openai.CHAT, openai.COMPLETION, native.CREATE):
        fast, exact = outcome(decode, body, schema), outcome(decode_exact, body, schema)
        assert same(fast, exact), (schema.name, fast, exact)


@given(typed_bodies(), st.data())
def test_damaged_bodies_agree(text: str, data: st.DataObject) -> None:
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(body)))
        if data.draw(st.booleans()):
            body[at:at] = data.draw(
                st.sampled_from([b'"', b"\\", b"{", b"]", b",", b"\xff", b"\x00", b"1", b"e", b" ", b"n"])
            )
        else:
            del body[at : at + data.draw(st.integers(1, 5))]
    damaged = bytes(body)
    fast, exact = outcome(decode, damaged, native.CHAT), outcome(decode_exact, damaged, native.CHAT)
    assert same(fast, exact), (damaged, fast, exact)


@given(st.binary(max_size=30))
def test_any_bytes_agree_and_only_raise_body_errors(body: bytes) -> None:
    assert same(outcome(decode, body, native.CHAT), outcome(decode_exact, body, native.CHAT))
