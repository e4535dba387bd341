"""How one model's prompts are made and its answers are taken apart: which template, which tags.

Built once per model and kept. Ollama's rule: the Go TEMPLATE of the model's layers, unless the Jinja
template inside the GGUF can do more; without either, the prompt as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from vllama.engines.base import ModelFacts
from vllama.models.model import Model
from vllama.prompts.gotemplate import GoTemplate, TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message, Think, Tool
from vllama.prompts.style import capabilities as template_capabilities
from vllama.prompts.thinking import ThinkingParser, infer_tags
from vllama.prompts.tools import infer_tag

PLAIN = "{{ .Prompt }}"
CACHE = 64


@dataclass(frozen=True, slots=True)
class Prompting:
    """The templates of one model. `thinking` holds the open and close tag, ("", "") if there are none."""

    go: GoTemplate
    jinja: JinjaTemplate | None
    thinking: tuple[str, str]
    tool_tag: str
    bos: str
    eos: str
    strip_bos: bool

    def render(self, messages: tuple[Message, ...], tools: tuple[Tool, ...], think: Think | None) -> str:
        """The prompt for a conversation. Raises `TemplateError`."""
        if self.jinja is not None:
            text = self.jinja.render(messages, tools, think=think, bos=self.bos, eos=self.eos)
            # The tokenizer adds BOS itself for such models; two of them make answers worse.
            return text[len(self.bos) :] if self.strip_bos and text.startswith(self.bos) else text
        return self.go.execute(template_values(messages=messages, tools=tools, think=think))

    def thinking_parser(self, prompt: str, think: Think | None) -> ThinkingParser | None:
        """The parser for the answer to this prompt, already inside a thought where the prompt ends with its tag."""
        opening, closing = self.thinking
        if think is None or not think.enabled or not opening or not closing:
            return None
        parser = ThinkingParser(opening, closing)
        if prompt.strip().endswith(opening):
            parser.add(opening)
        return parser


def template_values(
    *,
    messages: tuple[Message, ...] = (),
    tools: tuple[Tool, ...] = (),
    prompt: str = "",
    suffix: str = "",
    think: Think | None = None,
) -> TemplateValues:
    """The data of one Go template execution."""
    return TemplateValues(
        messages=messages,
        tools=tools,
        prompt=prompt,
        suffix=suffix,
        think=think is not None and think.enabled,
        # Ollama hands templates a level even where the client named none.
        think_level=(think.level or "medium") if think is not None and think.enabled else "",
        is_think_set=think is not None,
    )


class Prompter:
    """A small cache of `Prompting` by model digest."""

    def __init__(self, *, go_template: bool | None = None) -> None:
        self._go_template = go_template
        self._kept: OrderedDict[tuple[str, str | None], Prompting] = OrderedDict()

    def of(self, model: Model, facts: ModelFacts) -> Prompting:
        """The model's prompting. Raises `TemplateError` if its template does not parse."""
        key = (model.digest, model.template)
        known = self._kept.get(key)
        if known is None:
            known = self._kept[key] = self._build(model, facts)
            if len(self._kept) > CACHE:
                self._kept.popitem(last=False)
        return known

    def _build(self, model: Model, facts: ModelFacts) -> Prompting:
        go_text, jinja_text = model.template, model.chat_template
        go = parse_go(go_text if go_text is not None else PLAIN)
        if jinja_text is not None and (go_text is None or self._prefers_jinja(go_text, jinja_text)):
            return Prompting(
                go=go,
                jinja=JinjaTemplate(jinja_text),
                thinking=_first_tag(jinja_text, THINKING_TAGS) or ("", ""),
                tool_tag=(_first_tag(jinja_text, TOOL_TAGS) or ("{", ""))[0],
                bos=facts.bos,
                eos=facts.eos,
                strip_bos=bool(facts.bos) and _adds_bos(model),
            )
        return Prompting(
            go=go,
            jinja=None,
            thinking=infer_tags(go.root),
            tool_tag=infer_tag(go),
            bos=facts.bos,
            eos=facts.eos,
            strip_bos=False,
        )

    def _prefers_jinja(self, go_text: str, jinja_text: str) -> bool:
        if self._go_template is not None:
            return not self._go_template
        return template_capabilities(go_text, None) < template_capabilities(None, jinja_text)


THINKING_TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
TOOL_TAGS = (("<tool_call>", "</tool_call>"), ("[TOOL_CALLS]", ""), ("<|tool_call|>", ""), ("<|python_tag|>", ""))
"""What families of models put around thoughts and tool calls; a Jinja template can only be searched for them."""


def _first_tag(text: str, tags: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    return next((pair for pair in tags if pair[0] in text), None)


def capabilities(model: Model) -> tuple[str, ...]:
    """What the model can do, from its metadata and templates, in Ollama's order and names."""
    skills = template_capabilities(model.template, model.chat_template)
    from_templates = (name for name in ("tools", "insert", "thinking") if name in skills)
    return tuple(dict.fromkeys((*model.metadata_capabilities, *from_templates)))


def _adds_bos(model: Model) -> bool:
    """Whether the tokenizer puts BOS in front by itself (llama.cpp's rule when the file does not say)."""
    if model.gguf is None:
        return False
    kv = model.metadata.kv
    adds = kv.get("tokenizer.ggml.add_bos_token")
    return bool(adds) if adds is not None else kv.get("tokenizer.ggml.model") == "llama"
