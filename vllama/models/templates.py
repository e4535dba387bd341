"""Well-known chat formats: which one a GGUF's Jinja template writes, and the same as a Go TEMPLATE.

A format is recognised by behaviour, not by text: the Jinja template renders a probe conversation and the
result is compared with what the format would be. So a template that was reformatted, or that adds a default
system message, is still found, and one that only looks alike is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllama.errors import VllamaError
from vllama.models.create import DetectedTemplate

Render = Callable[[Sequence[tuple[str, str]]], str]
"""Renders (role, content) pairs with the generation prompt at the end. May raise `VllamaError`."""

_RICHER = re.compile(r"tool|think|document|image|audio|reasoning")
"""A template that knows more than turns says more than a plain TEMPLATE can: it is left to speak itself."""

_PROBE = (("system", "s1 s"), ("user", "u1 u"), ("assistant", "a1 a"), ("user", "u2 u"))


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Turns of the shape `before % role + content + after`; `roles` renames roles, and a role that is
    missing in it is not part of the format. `stop` are the PARAMETER stops that go with it."""

    name: str
    before: str
    after: str
    template: str
    stop: tuple[str, ...]
    roles: tuple[tuple[str, str], ...] = (("system", "system"), ("user", "user"), ("assistant", "assistant"))

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The conversation in this format, ready for the assistant."""
        roles = dict(self.roles)
        turns = [self.before % roles[role] + content + self.after for role, content in messages]
        return "".join(turns) + self.before % roles["assistant"]

    def probe(self) -> tuple[tuple[str, str], ...]:
        """The probe conversation without the roles that the format does not have."""
        return tuple(turn for turn in _PROBE if turn[0] in dict(self.roles))


FORMATS: tuple[ChatFormat, ...] = (
    ChatFormat(
        "chatml",
        "<|im_start|>%s\n",
        "<|im_end|>\n",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    ChatFormat(
        "llama3-instruct",
        "<|start_header_id|>%s<|end_header_id|>\n\n",
        "<|eot_id|>",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
        "{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    ChatFormat(
        "zephyr",
        "<|%s|>\n",
        "</s>\n",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
        ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
    ),
    ChatFormat(
        "phi-3",
        "<|%s|>\n",
        "<|end|>\n",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    ChatFormat(
        "gemma-instruct",
        "<start_of_turn>%s\n",
        "<end_of_turn>\n",
        '{{- $system := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = .Content }}'
        '{{ else if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n'
        "{{ else }}<start_of_turn>user\n{{ with $system }}{{ . }}\n\n{{ end }}{{ .Content }}<end_of_turn>\n"
        '{{ $system = "" }}{{ end }}{{ end }}<start_of_turn>model\n',
        ("<start_of_turn>", "<end_of_turn>"),
        (("user", "user"), ("assistant", "model")),
    ),
)


def detect(chat_template: str, render: Render) -> DetectedTemplate | None:
    """The format that `chat_template` writes, as a TEMPLATE with its stops; None when it is none of ours.

    `render` runs that template. A beginning-of-text token in front does not count.
    """
    if _RICHER.search(chat_template):
        return None
    for form in FORMATS:
        probe = form.probe()
        try:
            text = render(probe)
        except VllamaError:
            continue
        expected = form.render(probe)
        head = text.find(expected)
        if head >= 0 and text[head:] == expected and "\n" not in text[:head] and len(text[:head]) < 32:
            return DetectedTemplate(form.name, form.template, {"stop": list(form.stop)})
    return None
