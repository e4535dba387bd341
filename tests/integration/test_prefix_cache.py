"""`VLLAMA_PREFIX_CACHE_DIR`: a server finds the prompts that another one decoded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MODEL, start_server

pytestmark = pytest.mark.model

PROMPT = " ".join(f"item {n} costs {n * 7 % 50} coins," for n in range(60)) + " and item 60 costs"
BODY: dict[str, Any] = {
    "model": MODEL,
    "prompt": PROMPT,
    "raw": True,
    "stream": False,
    "options": {"temperature": 0, "num_predict": 5, "num_thread": 1},
}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def ask(directory: Path, env: dict[str, str], *, wait_for: Path | None = None) -> tuple[str, int]:
    """The answer of a server of its own, and how many tokens came from the cache."""
    directory.mkdir(exist_ok=True)
    server = start_server(directory, env=env)
    try:
        reply = httpx.post(f"{server.url}/api/generate", json=BODY, timeout=120).raise_for_status()
        for _ in range(200):
            if wait_for is None or files(wait_for):
                break
            time.sleep(0.05)
        return reply.json()["response"], int(reply.headers["x-vllama-cached-tokens"])
    finally:
        assert server.stop() == 0


def test_prompts_outlive_the_server_where_that_is_wanted(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    env = {"VLLAMA_PREFIX_CACHE_DIR": str(kept), "VLLAMA_PREFIX_CACHE_SIZE": "64M"}
    text, cached = ask(tmp_path / "first", env, wait_for=kept)
    assert cached == 0
    [file] = files(kept)
    assert file.stat().st_size < 64 << 20
    assert file.stat().st_mode & 0o077 == 0
    again, cached = ask(tmp_path / "second", env)
    assert again == text
    assert cached > 256
    assert ask(tmp_path / "third", {}) == (text, 0)


def test_no_room_keeps_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    _, cached = ask(tmp_path / "first", {"VLLAMA_PREFIX_CACHE_DIR": str(kept), "VLLAMA_PREFIX_CACHE_SIZE": "1M"})
    assert cached == 0
    assert not kept.exists() or files(kept) == []
