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
