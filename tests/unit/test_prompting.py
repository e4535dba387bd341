"""Which parsers a model's answers get, from its template, its family and its parser's name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vllama.core.prompting import FINAL, Prompter, Prompting
from vllama.engines.base import ModelFacts
from vllama.models.model import Model, ModelConfig
from vllama.models.names import Name
from vllama.prompts.messages import Message, Think, Tool, ToolFunction
from vllama.prompts.tools import HarmonyParser, OutputParser, Stages

TOOLS = (Tool(ToolFunction("get")),)
ON = Think(True)
FACTS = ModelFacts(
    train_ctx=64,
    vocab_size=9,
    size=1,
    size_vram=0,
    bos="",
    eos="",
    can_shift=True,
    can_embed=False,
    description="double",
)
MESSAGES = "{% for m in messages %}{{ m.content }}{% endfor %}"
HERMES = MESSAGES + "{{ tools }}{# <tool_call> #}{{ '<tool_call>' if tools }}"
GRANITE = MESSAGES + "{{ '<think></think><response>' if thinking and not messages }}<|tool_call|>{{ tools }}"
GPT_OSS = MESSAGES + "{{ reasoning_effort }}{{ '<|channel|>' }}"


class Double(Model):
    """A model whose chat template needs no file."""

    jinja: str | None = None

    @property
    def chat_template(self) -> str | None:
        return type(self).jinja


def prompting(*, jinja: str | None = None, go: str | None = None, **config: Any) -> Prompting:
    kind = type("Kind", (Double,), {"jinja": jinja})
    model = kind(Name.parse("m"), "0" * 64, 1, datetime.now(UTC), template=go, config=ModelConfig(**config))
    return Prompter().of(model, FACTS)


def run(parser: OutputParser | None, text: str) -> tuple[str, str, list[str]]:
    assert parser is not None
    pieces = [*map(parser.add, text), parser.finish()]
    return (
        "".join(p.thinking for p in pieces),
        "".join(p.content for p in pieces),
        [call.name for p in pieces for call in p.calls],
    )


def test_a_jinja_template_chooses_the_format() -> None:
    found = prompting(jinja=HERMES)
    assert found.output_parser("", None, ()) is None
    text = '{"name": "get", "arguments": {}} a <tool_call>{"name": "get"}</tool_call> b'
    content = '{"name": "get", "arguments": {}} a  b'
    assert run(found.output_parser("", None, TOOLS), text) == ("", content, ["get"])
    assert found.control(TOOLS) == ("<tool_call>", "</tool_call>")
    assert found.control(()) == ()


def test_a_go_template_keeps_the_generic_parser_and_its_tag() -> None:
    found = prompting(go="{{ .Tools }}{{ range .Messages }}{{ if .ToolCalls }}[CALLS]{{ end }}{{ end }}")
    assert found.calls is None
    assert run(found.output_parser("", None, TOOLS), 'x [CALLS]{"name": "get", "arguments": {}}') == ("", "x ", ["get"])
    assert found.control(TOOLS) == ("[CALLS]",)


@pytest.mark.parametrize("config", [{"family": "gptoss"}, {"parser": "harmony"}])
def test_gpt_oss_always_speaks_in_channels(config: dict[str, str]) -> None:
    found = prompting(go="{{ .Prompt }}", **config)
    for think in (None, Think(False), ON):
        assert isinstance(found.output_parser("", think, ()), HarmonyParser)
        assert found.answer_mark(think) == FINAL
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    assert run(found.output_parser("", ON, ()), text) == ("Hm.", "Yes.", [])
    assert "<|channel|>" in found.control(())


def test_gpt_oss_knows_three_levels() -> None:
    found = prompting(jinja=GPT_OSS)
    said = {level: found.render((Message("user", "x"),), (), Think(True, level)) for level in ("low", "high", "max")}
    assert said == {"low": "xlow<|channel|>", "high": "xhigh<|channel|>", "max": "xhigh<|channel|>"}


def test_thinking_and_calls_and_the_answers_marks() -> None:
    found = prompting(jinja=GRANITE)
    parser = found.output_parser("", ON, TOOLS)
    assert isinstance(parser, Stages)
    text = '<think>Hm. <|tool_call|>[]</think><response>Yes.</response><|tool_call|>[{"name": "get", "arguments": {}}]'
    thinking, content, calls = run(parser, text)
    assert (thinking, calls) == ("Hm. <|tool_call|>[]", ["get"])
    assert content.startswith("Yes.")
    assert run(found.output_parser("", Think(False), TOOLS), "<response>Yes.") == ("", "<response>Yes.", [])
    assert found.answer_mark(ON) == "</think>"
    assert found.answer_mark(None) == ""


def test_an_answer_begins_within_a_thought_where_the_prompt_ends_with_its_tag() -> None:
    found = prompting(jinja=MESSAGES + "<think>\n")
    assert run(found.output_parser("Hi <think>\n", ON, ()), "Hm.</think>Yes.") == ("Hm.", "Yes.", [])
    assert run(found.output_parser("Hi", ON, ()), "Hm.</think>Yes.") == ("", "Hm.</think>Yes.", [])
