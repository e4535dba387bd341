"""The official JavaScript client, package `ollama` of npm: every method that needs no cloud, in node."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.external import programs
from tests.external.conftest import clean_environ
from tests.integration import tooly
from tests.integration.conftest import MODEL, Server

pytestmark = [pytest.mark.external, pytest.mark.model]

SCRIPT = """
import { readFile } from "node:fs/promises";
const { Ollama } = await import(process.argv[2]);
const input = JSON.parse(await readFile(process.argv[3], "utf8"));
const client = new Ollama({ host: input.url });
const { model, tooly, tools, call } = input;
const options = { temperature: 0, num_predict: 8 };
const messages = [{ role: "user", content: "Say hello." }];
const all = async stream => { const parts = []; for await (const part of stream) parts.push(part); return parts; };
const failed = async promise => { try { await promise; return null; } catch (error) { return String(error.message); } };
const result = {};
BODY
console.log(JSON.stringify(result));
"""


class Node:
    """Runs a body of JavaScript with a client of one server; gives back what it put into `result`."""

    def __init__(self, url: str, directory: Path) -> None:
        self._node = programs.need("node")
        self._package = Path(programs.need("ollama-js")) / "dist" / "index.mjs"
        self._directory = directory
        weather = {"name": "get_weather", "description": tooly.DESCRIPTION, "parameters": tooly.PARAMETERS}
        values = {"url": url, "model": MODEL, "tooly": tooly.NAME, "call": tooly.CALL}
        self._input = directory / "input.json"
        self._input.write_text(json.dumps({**values, "tools": [{"type": "function", "function": weather}]}))

    def __call__(self, body: str) -> Any:
        script = self._directory / "script.mjs"
        script.write_text(SCRIPT.replace("BODY", body))
        command = [self._node, str(script), str(self._package), str(self._input)]
        done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def node(ours: Server, tmp_path: Path) -> Node:
    runs = Node(ours.url, tmp_path)
    tooly.install_tooly(ours.url)
    return runs


def test_chat_and_generate_streamed_and_whole(node: Node) -> None:
    got = node("""
result.chat = await client.chat({ model, messages, options });
result.chatParts = await all(await client.chat({ model, messages, options, stream: true }));
result.text = await client.generate({ model, prompt: "One, two,", options });
result.textParts = await all(await client.generate({ model, prompt: "One, two,", options, stream: true }));
""")
    assert got["chat"]["message"]["content"]
    assert "".join(part["message"]["content"] for part in got["chatParts"]) == got["chat"]["message"]["content"]
    assert "".join(part["response"] for part in got["textParts"]) == got["text"]["response"] != ""
    assert [part["done"] for part in got["textParts"]].count(True) == 1


def test_tools_formats_and_logprobs(node: Node) -> None:
    got = node("""
const wide = { ...options, num_predict: 60 };
result.tools = await client.chat({ model: tooly, messages, tools, format: call, options: wide });
result.json = await client.generate({ model, prompt: "An object.", format: call, options: wide });
result.logprobs = await client.chat({ model, messages, options, logprobs: true, top_logprobs: 2 });
""")
    calls = got["tools"]["message"]["tool_calls"]
    assert (calls[0]["function"]["name"], calls[0]["function"]["arguments"]) == ("get_weather", {"city": "Paris"})
    assert json.loads(got["json"]["response"])["arguments"] == {"city": "Paris"}
    assert len(got["logprobs"]["logprobs"][0]["top_logprobs"]) == 2


def test_models(node: Node) -> None:
    got = node("""
result.created = await client.create({ model: "mine", from: model, system: "Be brief." });
result.statuses = (await all(await client.create({ model: "mine", from: model, stream: true }))).map(s => s.status);
result.copied = await client.copy({ source: "mine", destination: "twin" });
result.names = (await client.list()).models.map(m => m.name);
result.show = await client.show({ model: "twin" });
await client.generate({ model: "twin", prompt: "" });
result.running = (await client.ps()).models.map(m => m.name);
await client.generate({ model: "twin", prompt: "", keep_alive: 0 });
result.deleted = [await client.delete({ model: "mine" }), await client.delete({ model: "twin" })];
result.left = (await client.list()).models.map(m => m.name);
result.version = (await client.version()).version;
""")
    assert got["created"] == {"status": "success"}
    assert got["statuses"][-1] == "success"
    assert got["copied"] == {"status": "success"}
    assert {"mine:latest", "twin:latest"} <= set(got["names"])
    assert "completion" in got["show"]["capabilities"]
    assert "twin:latest" in got["running"]
    assert got["deleted"] == [{"status": "success"}] * 2
    assert not {"mine:latest", "twin:latest"} & set(got["left"])
    assert got["version"]


def test_errors_and_abort(node: Node) -> None:
    got = node("""
result.missing = await failed(client.chat({ model: "nosuch", messages }));
result.tools = await failed(client.chat({ model, messages, tools }));
result.push = await failed(client.push({ model: "nosuch" }));
result.show = await failed(client.show({ model: "nosuch" }));
const stream = await client.generate({ model, prompt: "A story.", stream: true, options: { num_predict: -1 } });
let count = 0;
try { for await (const part of stream) { count += 1; if (count === 3) stream.abort(); } }
catch (error) { result.aborted = error.name; }
result.after = (await client.generate({ model, prompt: "Hi", options })).done;
""")
    assert got["missing"] == "model 'nosuch' not found"
    assert "does not support tools" in got["tools"]
    assert got["push"]
    assert got["show"] == "model 'nosuch:latest' not found"
    assert got["aborted"] == "AbortError"
    assert got["after"] is True
