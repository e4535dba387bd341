"""Nothing is left out of a prompt in silence: a header and a line in the log say what was."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from vllama.api.app import create_app
from vllama.config import Settings
from vllama.core.answer import dropped
from vllama.core.service import Service
from vllama.engines.base import Engine, LoadOptions, ModelSource
from vllama.engines.registry import EngineKind
from vllama.engines.scripted import Script, ScriptedEngine, available
from vllama.models.library import Library

HEADER = "x-vllama-truncated"
SHORT = {"num_ctx": 64, "num_predict": 2}
TURN = "one two three four five six seven eight nine ten "


def choose(_: object) -> EngineKind:
    def create(source: ModelSource, options: LoadOptions) -> Engine:
        return ScriptedEngine(source, options, Script(length=3))

    return EngineKind("scripted", "scripted", ("gguf", "scripted"), available, create)


async def post(tmp_path: Path, path: str, body: dict[str, Any]) -> httpx.Response:
    service = Service(Settings(models_dir=tmp_path, engine="scripted"), Library(tmp_path, overlay=False), choose)
    app = create_app(service)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.post(path, json={"model": "m", **body})
    await service.stop()
    return response


def chat(turns: int, last: str = "go on") -> list[dict[str, str]]:
    roles = ["user", "assistant"] * turns
    return [
        {"role": "system", "content": "Be brief."},
        *({"role": role, "content": TURN * 2} for role in roles[: 2 * turns]),
        {"role": "user", "content": last},
    ]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_dropped_messages_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, stream: bool
) -> None:
    body = {"messages": chat(6), "stream": stream}
    body |= {"options": SHORT} if path == "/api/chat" else {"max_tokens": 2}
    with caplog.at_level(logging.WARNING, "vllama.service"):
        response = await post(tmp_path, path, body)
    assert response.status_code == 200
    if path == "/api/chat":
        count = int(response.headers[HEADER].removeprefix("messages="))
        assert 0 < count <= 12
        assert f"dropped {count} of 14 messages to fit num_ctx 64" in caplog.text
    else:
        # /v1 has no num_ctx: everything fits the default.
        assert HEADER not in response.headers


async def test_a_debug_render_tells_it_too(tmp_path: Path) -> None:
    response = await post(tmp_path, "/api/chat", {"messages": chat(6), "options": SHORT, "_debug_render_only": True})
    assert response.headers[HEADER].startswith("messages=")
    assert "go on" in response.json()["_debug_info"]["rendered_template"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/generate", {"prompt": TURN * 40}),
        ("/api/generate", {"prompt": TURN * 40, "raw": True, "stream": False}),
        ("/api/chat", {"messages": chat(0, TURN * 40)}),
    ],
)
async def test_cut_tokens_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    with caplog.at_level(logging.WARNING, "vllama.service"):
        response = await post(tmp_path, path, {**body, "options": SHORT})
    assert response.status_code == 200
    _, _, tokens = response.headers[HEADER].rpartition("tokens=")
    assert int(tokens) > 300
    assert f"the prompt was cut by {tokens} tokens to fit num_ctx 64" in caplog.text
    last = json.loads(response.text.splitlines()[-1])
    assert last["prompt_eval_count"] < 64


async def test_nothing_is_told_where_everything_fits(tmp_path: Path) -> None:
    response = await post(tmp_path, "/api/chat", {"messages": chat(1), "options": {"num_predict": 2}})
    assert response.status_code == 200
    assert HEADER not in response.headers


def test_the_header_names_both() -> None:
    assert dropped(3, 120) == "messages=3, tokens=120"
    assert dropped(0, 0) == ""
