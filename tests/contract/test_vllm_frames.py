"""The recorded frames are still what vLLM answers."""

from __future__ import annotations

import json
import os

import httpx
import pytest

from tests.contract.vllm_frames import FILE, REQUESTS, close, comparable, record
from vllama.engines.completions.client import Address

pytestmark = pytest.mark.vllm


def test_the_server_still_says_what_was_recorded(vllm_address: Address) -> None:
    transport = httpx.HTTPTransport(uds=vllm_address.uds)
    headers = {"Authorization": f"Bearer {vllm_address.key}"}
    with httpx.Client(transport=transport, base_url=vllm_address.url, headers=headers, timeout=60) as client:
        now = record(client)
    if os.environ.get("VLLAMA_RECORD_FRAMES"):
        FILE.write_text(json.dumps(now, indent=1) + "\n")
    kept = json.loads(FILE.read_text())
    assert set(kept) == set(REQUESTS)
    for name, frame in kept.items():
        assert close(comparable(now[name]), comparable(frame)), name
