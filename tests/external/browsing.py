"""Headless Chromium, and a web server whose page runs a script in it."""

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

from tests.external.conftest import clean_environ
from tests.integration.conftest import MODEL

PAGE = """<!doctype html><title>page</title><pre id="result"></pre><img src="/hold" hidden>
<script type="importmap">IMPORTS</script><script>
const show = value => document.getElementById("result").textContent = JSON.stringify(value);
(async () => {
  try { show(await (async () => { SCRIPT })()); }
  catch (error) { show({error: String(error)}); }
  await fetch("/done");
})();
</script>"""
"""The browser prints a page once it has loaded, and /hold does not answer before the script has shown its result."""


@dataclass
class Pages:
    """A web server with one page. `modules`: names that its script may import -> files."""

    port: int = 0
    script: str = ""
    modules: dict[str, Path] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def served() -> Iterator[Pages]:
    """The web server on a port of its own."""
    state = Pages()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = b"", "text/html; charset=utf-8"
            if self.path == "/hold":
                state.done.wait(60)
            elif self.path == "/done":
                state.done.set()
            elif self.path == "/":
                imports = {name: f"/modules/{name}" for name in state.modules}
                page = PAGE.replace("IMPORTS", json.dumps({"imports": imports}))
                body = page.replace("SCRIPT", state.script).encode()
            elif (module := self.path.removeprefix("/modules/")) in state.modules:
                body, kind = state.modules[module].read_bytes(), "text/javascript"
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Type", kind)
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
