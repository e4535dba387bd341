"""A real browser: pages of allowed origins may use the server, all others may not, however they try."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.external import programs
from tests.external.browsing import Browser, Pages, served
from tests.integration.conftest import MODEL, Server, start_server

pytestmark = [pytest.mark.external, pytest.mark.model]

STREAM = """
const reply = await fetch("URL/api/generate", {method: "POST", headers: {"Content-Type": "application/json"},
  body: JSON.stringify({model: "MODEL", prompt: "Tell a story.", options: {num_predict: 12, temperature: 0}})});
const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
let text = "", reads = 0;
for (;;) { const {done, value} = await reader.read(); if (done) break; text += value; reads += 1; }
const lines = text.trim().split("\\n").map(JSON.parse);
return {status: reply.status, type: reply.headers.get("content-type"), reads, lines};
"""
GET = """
const reply = await fetch("URL/api/tags");
return {status: reply.status, models: (await reply.json()).models.map(model => model.name)};
"""
# "Simple" requests need no preflight, so they reach the server: it must not act on them.
SIMPLE = """
const reply = await fetch("URL/api/generate", {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"},
  body: JSON.stringify({model: "MODEL", prompt: ""})});
return {status: reply.status, type: reply.type};
"""


@pytest.fixture
def pages() -> Iterator[Pages]:
    with served() as state:
        yield state


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(programs.need("chromium"), tmp_path / "profile")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_local_page_streams(ours: Server, browser: Browser, pages: Pages, host: str) -> None:
    result = browser.run(pages, host, STREAM, ours.url)
    assert result.get("status") == 200, result
    assert result["type"] == "application/x-ndjson"
    lines = result["lines"]
    assert isinstance(lines, list)
    assert lines[-1]["done"] is True
    assert lines[-1]["eval_count"] == 12
    assert "".join(line["response"] for line in lines).strip()
    # Several chunks arrive by themselves, they are not one body at the end.
    assert isinstance(result["reads"], int)
    assert result["reads"] > 1


@pytest.mark.parametrize("script", [STREAM, GET], ids=["preflighted", "simple"])
def test_a_foreign_page_gets_nothing(ours: Server, browser: Browser, pages: Pages, script: str) -> None:
    assert browser.run(pages, "evil.test", script, ours.url) == {"error": "TypeError: Failed to fetch"}


def test_a_foreign_page_cannot_load_a_model(ours: Server, browser: Browser, pages: Pages) -> None:
    httpx.post(f"{ours.url}/api/generate", json={"model": MODEL, "keep_alive": 0}, timeout=60)
    # The browser hides the answer; whether something was done is what counts.
    assert browser.run(pages, "evil.test", SIMPLE, ours.url) == {"status": 0, "type": "opaque"}
    assert httpx.get(f"{ours.url}/api/ps").json() == {"models": []}
    pages.done.clear()
    assert browser.run(pages, "localhost", SIMPLE, ours.url) == {"status": 0, "type": "opaque"}
    assert [model["name"] for model in httpx.get(f"{ours.url}/api/ps").json()["models"]] == [MODEL]


def test_a_name_that_was_bound_to_this_machine_gets_nothing(ours: Server, browser: Browser) -> None:
    port = ours.url.rpartition(":")[2]
    assert MODEL in browser.dump(f"http://127.0.0.1:{port}/api/tags")
    assert MODEL not in browser.dump(f"http://evil.test:{port}/api/tags")


def test_an_origin_of_the_settings_is_let_in(browser: Browser, pages: Pages, tmp_path: Path) -> None:
    friends = {"OLLAMA_ORIGINS": f"http://friend.test:{pages.port}", "VLLAMA_NUM_THREAD": "1"}
    server = start_server(tmp_path, env=friends)
    try:
        result = browser.run(pages, "friend.test", STREAM, server.url)
        assert result.get("status") == 200, result
        pages.done.clear()
        assert browser.run(pages, "evil.test", GET, server.url) == {"error": "TypeError: Failed to fetch"}
    finally:
        assert server.stop() == 0
