"""Bad input gets Ollama's status and text; never a traceback, never a 422, and never harm to others."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import MODEL, Server

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/api/generate", b"", 400, "missing request body"),
        ("/api/chat", b"", 400, "missing request body"),
        ("/api/chat", b"{", 400, "unexpected EOF"),
        ("/api/chat", b"x", 400, "invalid character 'x' looking for beginning of value"),
        (
            "/api/chat",
            b'{"model":"m","messages":"hi"}',
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
        ),
        ("/api/generate", b'{"model":5}', 400, None),
        ("/api/generate", b'{"model":"nosuch","prompt":"hi"}', 404, "model 'nosuch' not found"),
        ("/api/generate", b'{"prompt":"hi"}', 404, "model '' not found"),
        ("/api/chat", b'{"messages":[]}', 400, "model is required"),
        ("/api/show", b'{"model":"nosuch"}', 404, "model 'nosuch:latest' not found"),
        ("/api/generate", b'{"model":"smollm2:135m","prompt":"x","options":{"num_ctx":"a"}}', None, None),
        ("/api/generate", b'{"model":"smollm2:135m","prompt":"x","format":"xml"}', None, None),
        ("/api/generate", b'{"model":"smollm2:135m","prompt":"x","template":"{{"}', None, None),
        ("/api/generate", b'{"model":"smollm2:135m","prompt":"x","think":true}', 400, None),
        ("/api/generate", b'{"model":"smollm2:135m","prompt":"x","suffix":"y"}', 400, None),
        ("/v1/chat/completions", b"", 400, None),
        ("/v1/chat/completions", b'{"model":"nosuch","messages":[{"role":"user","content":"x"}]}', 404, None),
    ],
)
def test_errors(server: Server, path: str, body: bytes, status: int | None, error: str | None) -> None:
    reply = httpx.post(server.url + path, content=body, timeout=60)
    assert reply.status_code in ({status} if status else {400, 500})
    assert reply.status_code != 422
    message = reply.json()["error"]
    text = message["message"] if isinstance(message, dict) else message
    assert text
    assert "Traceback" not in reply.text
    if error is not None:
        assert text == error


def test_prompt_longer_than_the_context(server: Server) -> None:
    body = {
        "model": MODEL,
        "prompt": "word " * 600,
        "raw": True,
        "stream": False,
        "options": {"num_predict": 2, "num_ctx": 256},
    }
    cut = httpx.post(f"{server.url}/api/generate", json=body, timeout=60)
    assert cut.status_code == 200
    assert cut.json()["prompt_eval_count"] < 256
    for stream in (False, True):
        for refusing in ({"truncate": False}, {"shift": False}):
            reply = httpx.post(f"{server.url}/api/generate", json=body | refusing | {"stream": stream}, timeout=60)
            assert reply.status_code == 400
            assert "context" in reply.json()["error"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "header"])
def test_corrupt_gguf(server: Server, tmp_path: Path, damage: str) -> None:
    content = {
        "truncated": b"GGUF\x03\0\0\0" + b"\xff" * 8 + b"\x01" + b"\0" * 7,
        "garbage": bytes(range(256)) * 64,
        "empty": b"",
        "header": b"GGUF\x03\0\0\0" + b"\0" * 16,
    }[damage]
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    reply = httpx.post(f"{server.url}/api/generate", json={"model": str(file), "prompt": "x"}, timeout=60)
    assert reply.status_code in {400, 500}
    assert str(file) in reply.json()["error"]
    good = httpx.post(
        f"{server.url}/api/generate",
        json={"model": MODEL, "prompt": "x", "stream": False, "options": {"num_predict": 1}},
        timeout=60,
    )
    assert good.status_code == 200


def test_gguf_path_that_does_not_exist(server: Server, tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    reply = httpx.post(f"{server.url}/api/generate", json={"model": str(missing), "prompt": "x"}, timeout=60)
    assert reply.status_code == 404
    assert str(missing) in reply.json()["error"]


def test_one_bad_request_does_not_harm_a_running_stream(server: Server) -> None:
    body = {"model": MODEL, "prompt": "Count:", "raw": True, "options": {"num_predict": 40, "temperature": 0}}
    with httpx.stream("POST", f"{server.url}/api/generate", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        for bad in (b"", b"{", b'{"model":"smollm2:135m","prompt":"x","options":{"temperature":"hot"}}'):
            assert httpx.post(f"{server.url}/api/generate", content=bad, timeout=60).status_code >= 400
        rest = list(lines)
    assert '"done":true' in rest[-1]


def test_format_json_is_json_or_refused_clearly(server: Server) -> None:
    import json

    body = {
        "model": MODEL,
        "prompt": "Give a JSON object with a colour.",
        "format": "json",
        "stream": False,
        "options": {"num_predict": 200, "temperature": 0},
    }
    reply = httpx.post(f"{server.url}/api/generate", json=body, timeout=120)
    if reply.status_code == 200:
        answer = reply.json()
        if answer["done_reason"] == "stop":
            json.loads(answer["response"])
    else:
        assert reply.status_code in {400, 501}
        assert "format" in reply.json()["error"]
