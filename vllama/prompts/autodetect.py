"""Which well-known prompt format a GGUF's Jinja chat template writes.

Ollama compares the template's text with a list of known ones. Here the templates are run: a format is recognised
when every probe conversation comes out the same, however the Jinja text is written. Templates that do tools or
thinking are left alone, because the plain format would take that away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from vllama.errors import TemplateError
from vllama.prompts.gotemplate import TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message
from vllama.prompts.style import capabilities


@dataclass(frozen=True, slots=True)
class Format:
    """A prompt format: its name, its Go template, and the stop strings that end a turn.

    `eos` is what it writes for the end of sequence. `system`: whether it has a place for a system message of its own;
    where it has none, templates refuse one or put it into the user's turn, each in another way.
    """

    name: str
    template: str
    stop: tuple[str, ...]
    eos: str = "<eos-probe>"
    system: bool = True

    @property
    def params(self) -> Mapping[str, list[str]]:
        """The PARAMETERs that belong to it."""
        return MappingProxyType({"stop": list(self.stop)})


FORMATS: tuple[Format, ...] = (
    Format(
        "chatml",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    Format(
        "llama3-instruct",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
        "{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Format(
        "zephyr",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
        ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
        eos="</s>",
    ),
    Format(
        "phi-3",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    Format(
        "gemma-instruct",
        '{{- $system := "" }}{{ range .Messages }}{{ if eq .Role "system" }}{{ $system = .Content }}'
        '{{ else if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n'
        "{{ else }}<start_of_turn>user\n{{ with $system }}{{ . }}\n\n{{ end }}{{ .Content }}<end_of_turn>\n"
        '{{ $system = "" }}{{ end }}{{ end }}<start_of_turn>model\n',
        ("<start_of_turn>", "<end_of_turn>"),
        system=False,
    ),
)

_BOS = "<bos-probe>"
_SYSTEM = Message("system", "Probe system")
_TURNS = (Message("user", "Probe one"), Message("assistant", "Probe two"), Message("user", "Probe three"))
# With a system message where the format has one: many templates put one of their own where it is missing.
_PROBES = {
    True: ((_SYSTEM, *_TURNS), (_SYSTEM, _TURNS[0])),
    False: (_TURNS, _TURNS[:1]),
}


@lru_cache(maxsize=64)
def autodetect(jinja_text: str) -> Format | None:
    """The format that this Jinja template writes, None for one that is not known here or does not run."""
    if capabilities(None, jinja_text):
        return None
    try:
        template = JinjaTemplate(jinja_text)
    except TemplateError:
        return None
    return next((known for known in FORMATS if _writes(template, known)), None)


def _writes(template: JinjaTemplate, known: Format) -> bool:
    go = parse_go(known.template)
    for probe in _PROBES[known.system]:
        try:
            written = template.render(probe, bos=_BOS, eos=known.eos)
        except TemplateError:
            return False
        if written.removeprefix(_BOS) != go.execute(TemplateValues(messages=probe)):
            return False
    return True
