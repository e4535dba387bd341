"""A real browser: pages of allowed origins may use the server, all others may not, however they try."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.external import programs
from tests.external.conftest import clean_environ
from tests.integration.conftest import MODEL, Server, start_server

pytestmark = [pytest.mark.external, pytest.mark.model]

PAGE = """<!doctype html><title>page</title><pre id="result"></pre><img src="/hold" hidden><script>
const show = value => document.getElementById("result").textContent = JSON.stringify(value);
(async () => {
  try { show(await (async () => { SCRIPT })()); }
  catch (error) { show({error: String(error)}); }
  await fetch("/done");
})();
</script>"""
"""The browser prints a page once it has loaded, and /hold does not answer before the script has shown its result."""

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


@dataclass
class Pages:
    """A web server with one page."""

    port: int = 0
    script: str = ""
    done: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def pages() -> Iterator[Pages]:
    state = Pages()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b""
            if self.path == "/hold":
                state.done.wait(60)
            elif self.path == "/done":
                state.done.set()
            elif self.path == "/":
                body = PAGE.replace("SCRIPT", state.script).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.done.set()
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Browser:
    """Headless Chromium with a profile of its own, which knows evil.test as this machine."""

    binary: str
    profile: Path

    def dump(self, url: str) -> str:
        """The document after loading, as HTML."""
        command = [self.binary, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={self.profile}", "--host-resolver-rules=MAP *.test 127.0.0.1"]
        command += ["--disable-background-networking", "--disable-component-update", "--timeout=90000"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # which it refuses to set up for root
        env = clean_environ() | {"HOME": str(self.profile)}
        # It is not said what is wrong when a proxy of the user's answers for evil.test.
        env = {name: value for name, value in env.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run([*command, "--dump-dom", url], env=env, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, pages: Pages, host: str, script: str, server: str) -> dict[str, object]:
        """What the script returned on the page as `host` delivers it."""
        pages.script = script.replace("URL", server).replace("MODEL", MODEL)
        dom = self.dump(f"http://{host}:{pages.port}/")
        found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
        assert found is not None, dom
        result: dict[str, object] = json.loads(html.unescape(found[1]))
        return result


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
