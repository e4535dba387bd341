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
    """A prompt format: its name, its Go template, and the stop strings that end a turn."""

    name: str
    template: str
    stop: tuple[str, ...]

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
)

_BOS, _EOS = "<bos-probe>", "<eos-probe>"
_SYSTEM = Message("system", "Probe system")
_TURNS = (Message("user", "Probe one"), Message("assistant", "Probe two"), Message("user", "Probe three"))
# With a system message: many templates put one of their own where it is missing.
_PROBES = ((_SYSTEM, *_TURNS), (_SYSTEM, _TURNS[0]))


@lru_cache(maxsize=64)
def autodetect(jinja_text: str) -> Format | None:
    """The format that this Jinja template writes, None for one that is not known here or does not run."""
    if capabilities(None, jinja_text):
        return None
    try:
        template = JinjaTemplate(jinja_text)
        written = [template.render(probe, bos=_BOS, eos=_EOS).removeprefix(_BOS) for probe in _PROBES]
    except TemplateError:
        return None
    for known in FORMATS:
        go = parse_go(known.template)
        if written == [go.execute(TemplateValues(messages=probe)) for probe in _PROBES]:
            return known
    return None
