"""Records what vLLM's server answers to a fixed set of requests, for the replay in `tests/unit/test_vllm_engine.py`.

`nox -s tests_vllm` records again and compares; pytest with VLLAMA_RECORD_FRAMES=1 writes the file anew (nox passes no
such setting on).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx

FILE = Path(__file__).parents[1] / "golden" / "vllm" / "frames-0.32.0.json"
SKY: dict[str, Any] = {
    "model": "model",
    "prompt": "The sky is",
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "temperature": 0,
    "max_tokens": 5,
    "return_token_ids": True,
}
JSON = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": SKY,
    "logprobs": SKY | {"logprobs": 2, "return_tokens_as_token_ids": True},
    "stop": SKY | {"stop": [" of"], "include_stop_str_in_output": True},
    "badtok": SKY | {"prompt": [99999999]},
    "toolong": SKY | {"prompt": [504] * 9000},
    "json": SKY | {"structured_outputs": {"json": JSON}, "max_tokens": 20},
    "nomodel": SKY | {"model": "zz"},
}


def record(client: httpx.Client) -> dict[str, dict[str, Any]]:
    """Status and body of each request."""
    found = {}
    for name, body in REQUESTS.items():
        response = client.post("/v1/completions", json=body)
        found[name] = {"status": response.status_code, "text": response.text}
    return found


def comparable(frame: dict[str, Any]) -> tuple[int, list[Any]]:
    """The frame without what differs between two runs: ids and times."""
    events = [line.removeprefix("data: ") for line in frame["text"].splitlines() if line.strip()]
    return frame["status"], [_plain(json.loads(event)) for event in events if event != "[DONE]"]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = ("id", "created", "system_fingerprint", "model", "prompt_tokens_details")
        return {key: _plain(inner) for key, inner in value.items() if key not in dropped}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return re.sub(r"aliases: .*", "", value) if isinstance(value, str) else value


def close(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of numbers: another processor rounds otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(close(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 0.15
    return bool(one == other)
