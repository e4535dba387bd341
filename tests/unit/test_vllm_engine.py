"""The vLLM engine without vLLM: frames recorded from vLLM 0.32.0, logs, damaged directories."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllama.engines.base import Event, Finished, Generation, ModelFacts, Text
from vllama.engines.completions.client import Address, Client
from vllama.engines.completions.directory import inspect
from vllama.engines.completions.engine import CompletionsEngine
from vllama.engines.completions.events import EventSplitter
from vllama.engines.completions.requests import Dialect
from vllama.engines.completions.startup import Startup
from vllama.engines.vllm.phases import PHASES
from vllama.errors import ModelLoadError, RequestError

FRAMES = json.loads((Path(__file__).parents[1] / "golden" / "vllm" / "frames-0.32.0.json").read_text())
FACTS = ModelFacts(8192, 49152, 1, 0, "<|im_start|>", "<|im_end|>", False, False)


class Replay(Client):
    """Answers every request with one recorded stream, some bytes at a time."""

    def __init__(self, name: str, cut: int) -> None:
        super().__init__(Address("http://vllm", "secret"))
        self.data = FRAMES[name]["text"].encode()
        self.cut = cut
        self.sent: list[dict[str, Any]] = []

    async def stream(self, path: str, body: dict[str, Any]) -> Any:
        self.sent.append(body)
        splitter = EventSplitter()
        for at in range(0, len(self.data), self.cut):
            if events := splitter.feed(self.data[at : at + self.cut]):
                yield events
        assert splitter.done


async def play(name: str, request: Generation, cut: int = 7) -> tuple[list[Event], Replay]:
    engine = CompletionsEngine()
    client = Replay(name, cut)
    engine._client, engine._facts, engine._dialect = client, FACTS, Dialect("model", vllm=True)
    try:
        return [event async for event in engine.generate(request)], client
    finally:
        await engine.close()


@pytest.mark.parametrize("cut", [1, 7, 100000])
async def test_a_recorded_answer(cut: int) -> None:
    events, _ = await play("plain", Generation(prompt="The sky is", num_predict=5, want_ids=True), cut)
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.prompt_tokens, last.output_tokens) == ("length", 3, 5)
    assert last.prompt_ids == (504, 6376, 314)
    assert last.output_ids[:4] == (253, 16495, 282, 11746)
    assert "".join(e.text for e in events if isinstance(e, Text)).startswith(" a canvas of endless")


async def test_a_full_context_ends_the_answer() -> None:
    events, client = await play("plain", Generation(prompt="The sky", num_ctx=8192, num_predict=3))
    assert client.sent[0]["max_tokens"] == 3
    events, _ = await play("plain", Generation(tokens=(504, 6376, 314), num_ctx=5, shift=False))
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.output_tokens) == ("length", 2)


async def test_an_error_inside_a_stream_is_the_clients_where_its_code_says_so() -> None:
    with pytest.raises(RequestError, match="out of vocabulary"):
        await play("badtok", Generation(tokens=(99999999,)))


def test_a_key_is_never_shown() -> None:
    address = Address("http://host", "topsecret")
    assert "topsecret" not in repr(address)


def test_phases_and_the_reason_of_a_failure() -> None:
    startup = Startup(PHASES)
    assert startup.read("Loading safetensors checkpoint shards:  50% Completed | 1/2")
    assert startup.phase == "loading weights 50%"
    assert not startup.read("Starting to load model x")
    startup.read("WARNING errors like `OSError: [Errno 24] Too many open files`")
    startup.read("ERROR ValueError: no room for the cache")
    startup.read("ERROR RuntimeError: Engine core initialization failed. See root cause above.")
    assert startup.failure == "ValueError: no room for the cache"


def test_a_damaged_directory_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        inspect(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"no \*\.safetensors"):
        inspect(tmp_path)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ModelLoadError, match="ends too early"):
        inspect(tmp_path)


def test_the_gateway_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, vllama.engines.vllm.engine, vllama.core.service; "
        "sys.exit(bool({'vllm', 'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
