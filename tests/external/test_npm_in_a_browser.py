"""The official JavaScript client in a page of a real browser: what it sends there must pass CORS and its preflights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external import programs
from tests.external.browsing import Browser, Pages, served
from tests.integration import tooly
from tests.integration.conftest import Server
from tests.integration.minilm import install_minilm, make_minilm

pytestmark = [pytest.mark.external, pytest.mark.model]

CLIENT = """
const { Ollama } = await import("ollama");
const client = new Ollama({ host: "URL" });
const model = "MODEL", options = { temperature: 0, num_predict: 8 };
const messages = [{ role: "user", content: "Say hello." }];
const all = async stream => { const parts = []; for await (const part of stream) parts.push(part); return parts; };
const failed = async promise => { try { await promise; return null; } catch (error) { return String(error.message); } };
const result = {};
BODY
return result;
"""


@pytest.fixture
def page(ours: Server, tmp_path: Path) -> Iterator[Page]:
    browser = Browser(programs.need("chromium"), tmp_path / "profile")
    package = Path(programs.need("ollama-js"))
    polyfill = package.parent / "whatwg-fetch" / "fetch.js"
    with served() as pages:
        pages.modules = {"ollama": package / "dist" / "browser.mjs", "whatwg-fetch": polyfill}
        yield Page(browser, pages, ours.url)


class Page:
    """Runs a body of JavaScript with a client of the server; gives back what it put into `result`."""

    def __init__(self, browser: Browser, pages: Pages, url: str) -> None:
        self._browser = browser
        self._pages = pages
        self._url = url

    def __call__(self, body: str, host: str = "localhost") -> Any:
        result = self._browser.run(self._pages, host, CLIENT.replace("BODY", body), self._url)
        self._pages.done.clear()
        return result


def test_chat_and_generate_streamed_and_whole(page: Page) -> None:
    got = page("""
result.chat = await client.chat({ model, messages, options });
result.chatParts = await all(await client.chat({ model, messages, options, stream: true }));
result.text = await client.generate({ model, prompt: "One, two,", options });
result.textParts = await all(await client.generate({ model, prompt: "One, two,", options, stream: true }));
""")
    assert "error" not in got, got
    assert got["chat"]["message"]["content"]
    assert "".join(part["message"]["content"] for part in got["chatParts"]) == got["chat"]["message"]["content"]
    assert "".join(part["response"] for part in got["textParts"]) == got["text"]["response"] != ""


def test_models_and_vectors(page: Page, ours: Server, tmp_path: Path) -> None:
    install_minilm(ours.url, make_minilm(tmp_path))
    got = page("""
result.created = await client.create({ model: "mine", from: model, system: "Be brief." });
result.statuses = (await all(await client.create({ model: "mine", from: model, stream: true }))).map(s => s.status);
result.copied = await client.copy({ source: "mine", destination: "twin" });
result.names = (await client.list()).models.map(m => m.name);
result.show = (await client.show({ model: "twin" })).capabilities;
await client.generate({ model: "twin", prompt: "" });
result.running = (await client.ps()).models.map(m => m.name);
result.deleted = [await client.delete({ model: "mine" }), await client.delete({ model: "twin" })];
result.version = (await client.version()).version;
result.embed = (await client.embed({ model: "all-minilm", input: ["a", "b"] })).embeddings.map(v => v.length);
result.embedding = (await client.embeddings({ model: "all-minilm", prompt: "a" })).embedding.length;
""")
    assert "error" not in got, got
    assert got["created"] == {"status": "success"}
    assert got["statuses"][-1] == "success"
    assert {"mine:latest", "twin:latest"} <= set(got["names"])
    assert got["show"] == ["completion"]
    assert "twin:latest" in got["running"]
    assert got["copied"] == {"status": "success"}
    assert got["deleted"] == [{"status": "success"}] * 2
    assert got["version"]
    assert got["embed"] == [384, 384]
    assert got["embedding"] == 384


def test_tools_errors_and_abort(page: Page, ours: Server) -> None:
    tooly.install_tooly(ours.url)
    weather = {"name": "get_weather", "description": tooly.DESCRIPTION, "parameters": tooly.PARAMETERS}
    values = {"tooly": tooly.NAME, "call": tooly.CALL, "tools": [{"type": "function", "function": weather}]}
    got = page(
        f"const {{ tooly, call, tools }} = {json.dumps(values)};"
        + """
const wide = { ...options, num_predict: 60 };
result.tools = await client.chat({ model: tooly, messages, tools, format: call, options: wide });
result.missing = await failed(client.chat({ model: "nosuch", messages }));
result.push = await failed(client.push({ model: "nosuch" }));
const stream = await client.generate({ model, prompt: "A story.", stream: true, options: { num_predict: -1 } });
let count = 0;
try { for await (const part of stream) { count += 1; if (count === 3) stream.abort(); } }
catch (error) { result.aborted = error.name; }
result.after = (await client.generate({ model, prompt: "Hi", options })).done;
"""
    )
    assert "error" not in got, got
    call = got["tools"]["message"]["tool_calls"][0]["function"]
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
    assert got["missing"] == "model 'nosuch' not found"
    assert got["push"]
    assert got["aborted"] == "AbortError"
    assert got["after"] is True


def test_a_foreign_page_cannot_use_the_client(page: Page) -> None:
    got = page(
        "result.list = await failed(client.list()); result.chat = await failed(client.chat({ model, messages }));",
        "evil.test",
    )
    assert got == {"list": "Failed to fetch", "chat": "Failed to fetch"}
