"""The parts that every request or every token passes, each alone: `nox -s parts` compares them with a stored run.

The ordinary test run calls each once and looks at what it returns, so that a part that is timed is a part that works.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from vllama.api.read import read_chat
from vllama.api.streaming import ChatShape
from vllama.core.replies import Delta
from vllama.engines.llama import frames
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.scheduler import Limits, Scheduler
from vllama.engines.llama.sequence import Sequence
from vllama.engines.stopping import StopBuffer
from vllama.prompts.gotemplate import TemplateValues
from vllama.prompts.gotemplate import parse as parse_template
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message, Tool, ToolFunction
from vllama.prompts.tools import ToolParser

TURNS = 50
STREAMS = 8
STEPS = 64

CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
CHATML_JINJA = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "The ferry leaves at six and the harbour is quiet before that, said the man at the gate.".split(" ")
PIECES = [f" {word}" for word in WORDS] * 4
CALL = (
    '<tool_call>\n{"name": "tide", "arguments": {"harbour": "Brest", "hours": [1, 2, 3], "exact": true}}\n</tool_call>'
)


def turns() -> tuple[Message, ...]:
    """A conversation of `TURNS` messages."""
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], f"{i}: {' '.join(WORDS)}") for i in range(TURNS))


def expected_prompt() -> str:
    """What both templates make of it."""
    said = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns())
    return f"{said}<|im_start|>assistant\n"


@pytest.mark.benchmark(group="request")
def test_read_a_chat(benchmark: BenchmarkFixture) -> None:
    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " ".join(WORDS) * 8}],
            "options": {"temperature": 0.7, "seed": 1, "num_predict": 64, "stop": ["\n\n"]},
            "keep_alive": "5m",
        }
    ).encode()
    request = benchmark(read_chat, body)
    assert [message.role for message in request.messages] == ["system", "user"]


@pytest.mark.benchmark(group="request")
def test_render_a_long_chat_with_a_go_template(benchmark: BenchmarkFixture) -> None:
    template = parse_template(CHATML)
    values = TemplateValues(messages=turns())
    assert benchmark(template.execute, values) == expected_prompt()


@pytest.mark.benchmark(group="request")
def test_render_a_long_chat_with_jinja(benchmark: BenchmarkFixture) -> None:
    template = JinjaTemplate(CHATML_JINJA)
    assert benchmark(template.render, turns()) == expected_prompt()


RECORDED = Path(__file__).parent.parent / "golden" / "gotemplate.jsonl"
FAMILIES = ("chatml-last", "command-r", "deepseek-r1", "gemma", "llama3", "mistral", "qwen-tools")


def recorded_template(family: str) -> str:
    """The Go template that this family's models come with."""
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if case["id"].startswith(f"chat-{family}-"):
            return str(case["template"])
    raise LookupError(family)


@pytest.mark.benchmark(group="request")
@pytest.mark.parametrize("family", FAMILIES)
def test_render_a_long_chat_with_a_template_of_a_model(benchmark: BenchmarkFixture, family: str) -> None:
    """Goal: 1 ms for these 50 messages."""
    template = parse_template(recorded_template(family))
    prompt = benchmark(template.execute, TemplateValues(messages=turns()))
    assert turns()[-2].content in prompt


@pytest.mark.benchmark(group="token")
def test_lines_of_a_stream(benchmark: BenchmarkFixture) -> None:
    shape = ChatShape()
    head = b'{"model":"m","created_at":"2026-01-01T00:00:00.123456789Z"'
    deltas = [Delta(piece) for piece in PIECES]

    def write() -> list[bytes]:
        return [shape.line(head, delta) for delta in deltas]

    written = benchmark(write)
    assert "".join(json.loads(line)["message"]["content"] for line in written) == "".join(PIECES)


@pytest.mark.benchmark(group="token")
def test_frames_of_steps(benchmark: BenchmarkFixture) -> None:
    """A worker's steps, packed, cut anywhere, split and decoded again."""
    steps = [
        frames.Step(started=[], texts=[(i, piece, 1, []) for i in range(STREAMS)], finished=[], failed=[])
        for piece in PIECES
    ]
    decoder = msgspec.msgpack.Decoder(frames.ToGateway)

    def travel() -> list[Any]:
        data = b"".join(map(frames.pack, steps))
        splitter = frames.Splitter()
        found: list[Any] = []
        for start in range(0, len(data), 1000):
            found += map(decoder.decode, splitter.feed(data[start : start + 1000]))
        return found

    travelled = benchmark(travel)
    assert [step.texts[0][1] for step in travelled] == PIECES


class NoMemory:
    """A KV memory that does what it is told at once."""

    def remove(self, slot: int, start: int, end: int) -> bool:
        return True

    def copy(self, source: int, target: int, end: int) -> None: ...

    def shift(self, slot: int, start: int, end: int, delta: int) -> None: ...

    def grow(self, cells: int) -> int:
        return 1 << 16

    def save(self, slot: int) -> Any:
        return None

    def restore(self, slot: int, state: Any) -> bool:
        return False

    def discard(self, state: Any) -> None: ...


@pytest.mark.benchmark(group="token")
def test_plan_and_commit(benchmark: BenchmarkFixture) -> None:
    """Eight streams from their prompts to their ends: planning alone, nothing is decoded."""

    def run() -> int:
        scheduler = Scheduler(Limits(cells=1 << 16), NoMemory())
        for number in range(STREAMS):
            prompt = [number * 1000 + i for i in range(60)]
            scheduler.submit(Sequence(number, prompt, num_ctx=2048, remaining=STEPS))
        sampled = 0
        while (plan := scheduler.plan()) is not None:
            assert isinstance(plan, Plan)
            scheduler.commit(plan)
            for _, sequence in plan.outputs:
                sampled += 1
                if not (scheduler.extend(sequence, 7) and sequence.remaining):
                    scheduler.finish(sequence)
        return sampled

    assert benchmark(run) == STREAMS * STEPS


@pytest.mark.benchmark(group="token")
def test_stop_strings(benchmark: BenchmarkFixture) -> None:
    def run() -> str:
        buffer = StopBuffer(("\n\n", "<|im_end|>", "the gatekeeper"))
        return "".join(map(buffer.feed, PIECES)) + buffer.flush()

    assert benchmark(run) == "".join(PIECES)


@pytest.mark.benchmark(group="token")
def test_tool_calls_in_a_stream(benchmark: BenchmarkFixture) -> None:
    tools = [Tool(ToolFunction("tide", "High tide at a harbour", {"type": "object", "properties": {}}))]
    pieces = [CALL[i : i + 4] for i in range(0, len(CALL), 4)]

    def run() -> list[Any]:
        parser = ToolParser(tools, "<tool_call>")
        return [call for piece in pieces for call in parser.add(piece)[0]]

    (call,) = benchmark(run)
    assert call.name == "tide"
    assert call.arguments == {"harbour": "Brest", "hours": [1, 2, 3], "exact": True}
