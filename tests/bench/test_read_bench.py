"""How long reading a body takes (pytest-benchmark). Measures only; nothing here can fail for being slow."""

from __future__ import annotations

import base64
import json
from typing import Any

from vllama.api.gojson import decode_exact
from vllama.api.read import read_chat, read_generate
from vllama.api.read_openai import read_openai_chat
from vllama.api.schemas import native
from vllama.core.options import merge_options

OPTIONS = {"temperature": 0.5, "num_predict": 64, "seed": 1}
MESSAGES = [{"role": "system", "content": "x" * 150}] + [
    {"role": "user" if i % 2 == 0 else "assistant", "content": 'Hello there "friend", how are you? ' * 3}
    for i in range(6)
]
CHAT = json.dumps({"model": "m", "messages": MESSAGES, "options": OPTIONS, "keep_alive": "5m"}).encode()
OPENAI = json.dumps({"model": "m", "messages": MESSAGES, "temperature": 0.5, "max_tokens": 64}).encode()
IMAGE = base64.b64encode(bytes(range(256)) * 4096).decode()
GENERATE = json.dumps({"model": "m", "prompt": "What is this?", "images": [IMAGE]}).encode()


def test_chat_of_1_kb(benchmark: Any) -> None:
    assert len(benchmark(read_chat, CHAT).messages) == len(MESSAGES)


def test_v1_chat_of_1_kb(benchmark: Any) -> None:
    assert len(benchmark(read_openai_chat, OPENAI)[0].messages) == len(MESSAGES)


def test_chat_of_1_kb_with_a_key_in_another_case(benchmark: Any) -> None:
    body = CHAT.replace(b'"model"', b'"Model"')
    assert benchmark(read_chat, body).model == "m"


def test_exact_way_alone(benchmark: Any) -> None:
    assert benchmark(decode_exact, CHAT, native.CHAT)["model"] == "m"


def test_generate_with_an_image_of_1_mb(benchmark: Any) -> None:
    assert len(benchmark(read_generate, GENERATE).images[0]) == 1 << 20


def test_merging_options(benchmark: Any) -> None:
    assert benchmark(merge_options, {"stop": ["a"], "num_ctx": 2048}, OPTIONS).seed == 1
