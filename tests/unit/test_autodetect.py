"""Prompt formats are recognised by what a template writes, not by its text."""

from __future__ import annotations

import pytest

from vllama.prompts.autodetect import FORMATS, autodetect
from vllama.prompts.gotemplate import TemplateValues, parse
from vllama.prompts.messages import Message

LOOP = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("text", [LOOP, "{{ bos_token }}" + LOOP, OWN_SYSTEM])
def test_chatml_in_other_words(text: str) -> None:
    found = autodetect(text)
    assert found is not None
    assert found.name == "chatml"
    assert found.params["stop"] == ["<|im_start|>", "<|im_end|>"]


LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [(LLAMA3, "llama3-instruct"), (ZEPHYR, "zephyr"), (PHI3, "phi-3"), (GEMMA, "gemma-instruct")],
)
def test_the_other_formats(text: str, name: str) -> None:
    found = autodetect(text)
    assert found is not None
    assert found.name == name
    assert autodetect(text + "x") is None


def test_every_known_format_has_a_test() -> None:
    assert {known.name for known in FORMATS} == {"chatml", "llama3-instruct", "zephyr", "phi-3", "gemma-instruct"}


@pytest.mark.parametrize(
    "text",
    [
        LOOP.replace("<|im_end|>", "</s>"),
        LOOP.replace("message['role']", "message['role'] | upper"),
        LOOP + "{% if tools %}{{ tools }}{% endif %}",
        LOOP + "{% if enable_thinking %}{% endif %}",
        "{% for message in messages %}{{ message['content'] }}",
        "{{ raise_exception('system role not supported') }}",
        "{{ eos_token }}" + LOOP,
        "",
    ],
)
def test_others_are_left_alone(text: str) -> None:
    assert autodetect(text) is None


def test_known_formats_are_good_go_templates() -> None:
    for known in FORMATS:
        text = parse(known.template).execute(TemplateValues(messages=(Message("user", "hello"),)))
        assert "hello" in text
        assert any(stop in text for stop in known.stop)
