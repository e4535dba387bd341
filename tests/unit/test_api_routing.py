"""Routing, CORS and the Host check: recorded cases of Ollama through the application, and the rules one by one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from vllama import __version__
from vllama.api.app import create_app
from vllama.api.http import dumps, read_body, send_json
from vllama.api.routing import Redirect, Route, RouteTable
from vllama.api.security import Guard, Origins, is_loopback, split_host
from vllama.config import Settings
from vllama.config.values import DEFAULT_ORIGINS
from vllama.errors import BusyError, ConfigError
from vllama.models.library import Library

WIRE = Path(__file__).parent.parent / "golden" / "wire"
EXACT = (
    "content-type",
    "location",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-max-age",
    "access-control-allow-credentials",
)
OURS = {"http-unknown_health", "http-unknown_v1_messages_count_tokens"}
"""Cases where vLLama differs on purpose: it has these routes."""
NEEDS_MODELS = {"http-expect-chunked"}
"""Cases about a model's content: these run in the integration tests."""


class DoubleService:
    """What the routes need of a service that has nothing loaded."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.draining = False
        self.library = Library(Path(__file__).parent / "no such folder", overlay=False)
        self.residency = SimpleNamespace(loaded=list)
        self.calls: list[str] = []

    async def chat(self, request: Any) -> Any:
        raise AssertionError("no case gets this far")

    generate = chat

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(DoubleService())) as http:  # type: ignore[arg-type]
        yield http


def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WIRE / name).read_text().splitlines()]


def recorded() -> list[Any]:
    cases: list[Any] = []
    for group in ("http", "cors", "host"):
        answers = {answer["id"]: answer for answer in load(f"golden/{group}.jsonl")}
        cases += [
            pytest.param(case, answers[case["id"]], id=case["id"])
            for case in load(f"cases/{group}.jsonl")
            if case["id"] not in OURS | NEEDS_MODELS
        ]
    return cases


async def ask(app: Any, case: dict[str, Any]) -> SimpleNamespace:
    """One request as a server hands it over; HTTP clients would clean the path."""
    content = json.dumps(case["body"]).encode() if "body" in case else case.get("raw_body", "").encode()
    path, _, query = case["path"].partition("?")
    headers = {"host": "127.0.0.1:11434", **case.get("headers", {})}
    scope = {
        "type": "http",
        "method": case["method"],
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return SimpleNamespace(
        status=sent[0]["status"],
        headers={name.decode(): value.decode() for name, value in sent[0]["headers"]},
        text=b"".join(message["body"] for message in sent[1:]).decode(),
    )


@pytest.mark.parametrize(("case", "answer"), recorded())
async def test_recorded_case(case: dict[str, Any], answer: dict[str, Any]) -> None:
    got = await ask(create_app(DoubleService()), case)  # type: ignore[arg-type]
    assert got.status == answer["status"]
    if case.get("compare", {}).get("mode") == "status":
        return
    for name in EXACT:
        assert got.headers.get(name) == answer["headers"].get(name), name
    allow = [set((headers.get("allow") or "").split(", ")) for headers in (got.headers, answer["headers"])]
    assert allow[0] == allow[1]
    if "content-length" in answer["headers"] and not answer["body"].startswith("{") and case["method"] != "HEAD":
        assert got.headers["content-length"] == answer["headers"]["content-length"]
        assert got.text == answer["body"]


async def test_every_answer_says_that_it_is_vllama(client: httpx.AsyncClient) -> None:
    paths = ("/", "/api/version", "/nope", "/api/tags/", "/openapi.json", "/docs", "/health")
    for path in paths:
        answer = await client.get(path)
        assert answer.headers["x-vllama-version"] == __version__, path
    assert (await client.get("/", headers={"origin": "http://example.com"})).headers["x-vllama-version"]


async def test_a_route_that_is_not_there_yet_is_501_in_its_own_shape(client: httpx.AsyncClient) -> None:
    openai = await client.post("/v1/audio/transcriptions", json={})
    assert openai.status_code == 501
    assert openai.json()["error"]["type"] == "api_error"
    assert (await client.get("/api/pull")).status_code == 405


async def test_redirects_come_before_the_checks_and_keep_the_query(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api//show?a=%2F&b", content=b"{}", headers={"origin": "http://example.com"})
    assert answer.status_code == 307
    assert answer.headers["location"] == "/api/show?a=%2F&b"
    assert answer.content == b""
    answer = await client.get("/v1/models/a%20b/")
    assert (answer.status_code, answer.headers["location"]) == (301, "/v1/models/a%20b")
    assert (await client.post("/v1/models/")).status_code == 404


async def test_a_redirect_cannot_leave_the_server(client: httpx.AsyncClient) -> None:
    answer = await client.get("http://127.0.0.1:11434//example.com/api")
    assert answer.status_code == 307
    assert answer.headers["location"] == "/example.com/api"


async def test_redirect_page_escapes_the_path(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1//models/%3Cb%3E?x=\"'<&")
    assert "<b>" not in answer.text
    assert "&amp;" in answer.text


async def test_unexpected_exceptions_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service = DoubleService()

    def broken() -> list[Any]:
        raise RuntimeError("secret path")

    service.residency = SimpleNamespace(loaded=broken)
    async with client_of(create_app(service)) as http:  # type: ignore[arg-type]
        answer = await http.get("/api/ps")
        assert answer.status_code == 500
        assert answer.json() == {"error": "internal error, see the server's log"}
        assert (await http.get("/api/version")).status_code == 200
    assert "secret path" in caplog.text


async def test_errors_of_the_tree_keep_their_status(caplog: pytest.LogCaptureFixture) -> None:
    service = DoubleService()

    def busy() -> list[Any]:
        raise BusyError()

    service.residency = SimpleNamespace(loaded=busy)
    async with client_of(create_app(service)) as http:  # type: ignore[arg-type]
        answer = await http.get("/api/ps")
    assert answer.status_code == 503
    assert answer.json() == {"error": BusyError().text}


async def test_the_lifespan_frames_the_service() -> None:
    service = DoubleService()
    app = create_app(service)  # type: ignore[arg-type]
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append((message["type"], list(service.calls)))

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == [
        ("lifespan.startup.complete", ["start"]),
        ("lifespan.shutdown.complete", ["start", "stop"]),
    ]


async def test_the_openapi_document_names_every_route(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]["/api/blobs/{digest}"]) == {"post", "head"}
    assert document["paths"]["/v1/models/{model}"]["get"]["parameters"][0]["name"] == "model"


def test_two_routes_for_one_method_are_a_mistake() -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    route = Route(("GET",), "/a", endpoint, "ops", "")
    with pytest.raises(ValueError, match="two routes for GET /a"):
        RouteTable((route, route))


@pytest.mark.parametrize(
    ("raw", "location"),
    [
        (b"/a/./b", "/a/b"),
        (b"/a/../../b", "/b"),
        (b"//", "/"),
        (b"/a//", "/a/"),
        (b"/a/..%2f/b", None),
        (b"/a/%2e%2e/b", None),
    ],
)
def test_only_literal_dots_and_slashes_are_cleaned(raw: bytes, location: str | None) -> None:
    scope = {"path": raw.decode(), "raw_path": raw, "method": "GET", "query_string": b""}
    found = RouteTable(()).resolve(scope)
    assert (found.location if isinstance(found, Redirect) else None) == location


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:1", True),
        ("HTTP://localhost", False),
        ("http://localhost.evil.com", False),
        ("app://anything", True),
        ("https://chat.example.com", True),
        ("https://example.com", False),
        ("https://exact.org", True),
        ("https://exact.org:444", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    assert Origins(("https://*.example.com", " https://Exact.org ")).allows(origin) is allowed


def test_all_origins() -> None:
    guard = Guard(("*",), "0.0.0.0")
    verdict = guard.judge("GET", [(b"host", b"x"), (b"origin", b"http://y")])
    assert (b"access-control-allow-origin", b"*") in verdict.headers


@pytest.mark.parametrize("bad", ["example.com", "http://*.*.com"])
def test_origins_that_cannot_match_are_refused_at_the_start(bad: str) -> None:
    with pytest.raises(ConfigError, match="OLLAMA_ORIGINS"):
        Origins((bad,))


def test_default_origins_are_always_there() -> None:
    assert all(Origins().allows(origin.replace("*", "1")) for origin in DEFAULT_ORIGINS)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[::1]:80", 0),
        ("[::ffff:127.0.0.1]:80", 0),
        ("[::1]", 403),
        ("10.1.2.3", 0),
        ("169.254.1.1", 403),
        ("fd00::1", 0),
        ("2001:db8::1", 403),
        ("[fd00::1]:1", 0),
        ("0.0.0.0:11434", 0),
        ("a.local:5", 0),
        ("local", 403),
        ("localhost.", 403),
        ("localhost:1:2", 403),
        ("127.0.0.1.nip.io", 403),
        ("0127.0.0.1", 403),
        ("", 0),
    ],
)
def test_hosts_on_a_loopback_listener(host: str, status: int) -> None:
    guard = Guard((), "127.0.0.1")
    headers = [(b"host", host.encode())]
    assert guard.judge("GET", headers).status == status
    assert guard.judge("GET", headers).status == status  # the second answer may come from memory
    assert Guard((), "0.0.0.0").judge("GET", headers).status == 0


def test_options_to_a_local_name_is_204_as_with_ollama() -> None:
    guard = Guard((), "127.0.0.1")
    assert guard.judge("OPTIONS", [(b"host", b"localhost:11434")]).status == 204
    assert guard.judge("OPTIONS", [(b"host", b"127.0.0.1:11434")]).status == 0
    # An empty name is one of this machine's names; without the header it is empty too.
    assert guard.judge("OPTIONS", [(b"host", b"")]).status == 204
    assert guard.judge("OPTIONS", []).status == 204


def test_a_page_of_this_server_is_not_cross_origin() -> None:
    verdict = Guard((), "127.0.0.1").judge("GET", [(b"host", b"box.local"), (b"origin", b"http://box.local")])
    assert (verdict.status, verdict.headers) == (0, ())


@pytest.mark.parametrize(
    ("value", "host"),
    [("a:1", "a"), ("a", "a"), ("[::1]:1", "::1"), ("::1", "::1"), ("[a]b:1", "[a]b:1"), (":1", "")],
)
def test_split_host(value: str, host: str) -> None:
    assert split_host(value) == host


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_is_loopback(listen: str, loopback: bool) -> None:
    assert is_loopback(listen) is loopback


def test_json_is_escaped_as_go_does_it() -> None:
    assert dumps({"a": "<&>\u2028\u2029é"}) == b'{"a":"\\u003c\\u0026\\u003e\\u2028\\u2029\xc3\xa9"}'
    assert dumps([2**70, "\ud800"]) == b'[1180591620717411303424,"\xef\xbf\xbd"]'


async def collected(limit: int, *parts: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    messages = [{"type": "http.request", "body": part, "more_body": i < len(parts) - 1} for i, part in enumerate(parts)]

    async def receive() -> Any:
        return messages.pop(0)

    return await read_body({"headers": headers or []}, receive, limit)


async def test_bodies_in_parts() -> None:
    assert await collected(4, b"ab", b"", b"cd") == b"abcd"


@pytest.mark.parametrize("parts", [(b"abcde",), (b"abc", b"de")])
async def test_bodies_have_a_limit(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(Exception, match="too large") as caught:
        await collected(4, *parts)
    assert caught.value.status == 413  # type: ignore[attr-defined]


async def test_a_body_that_says_it_is_too_long_is_not_read() -> None:
    with pytest.raises(Exception, match="too large"):
        await collected(4, b"a", b"b", headers=[(b"content-length", b"5")])


async def test_send_json() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await send_json(send, 200, b"{}")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (b"content-length", b"2") in sent[0]["headers"]


async def test_a_host_that_is_none_is_refused_as_go_does(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/version", headers={"host": "user@localhost"})
    assert (answer.status_code, answer.text) == (400, "400 Bad Request: malformed Host header")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
