"""How one model's prompts are made and its answers are taken apart: which template, which tags.

Built once per model and kept. Ollama's rule: the Go TEMPLATE of the model's layers, unless the Jinja
template inside the GGUF can do more; without either, the prompt as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from vllama.engines.base import ModelFacts
from vllama.errors import VllamaError
from vllama.models.model import Model
from vllama.prompts import thinking_formats
from vllama.prompts.budget import OPERATIONS
from vllama.prompts.gotemplate import GoTemplate, TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message, Think, Tool
from vllama.prompts.style import capabilities as template_capabilities
from vllama.prompts.thinking import ThinkingParser, infer_tags
from vllama.prompts.thinking_formats import AnswerParser
from vllama.prompts.tools import HARMONY, Format, HarmonyParser, OutputParser, Stages, ToolParser, choose, infer_tag

PLAIN = "{{ .Prompt }}"
FINAL = "<|channel|>final<|message|>"
"""What begins an answer of gpt-oss."""
CACHE = 64


@dataclass(frozen=True, slots=True)
class Prompting:
    """The templates of one model, and the formats of its output.

    `thinking` holds the open and close tag, ("", "") if there are none, `answer` the marks around what follows.
    `calls` is the format of tool calls, None for Ollama's generic one with its tag. `marks` are control tokens of the
    thoughts.
    """

    go: GoTemplate
    jinja: JinjaTemplate | None
    thinking: tuple[str, str]
    answer: tuple[str, str]
    marks: tuple[str, ...]
    calls: Format | None
    tool_tag: str
    bos: str
    eos: str
    strip_bos: bool

    def render(
        self,
        messages: tuple[Message, ...],
        tools: tuple[Tool, ...],
        think: Think | None,
        *,
        steps: int | None = None,
        operations: int = OPERATIONS,
    ) -> str:
        """The prompt for a conversation. Raises `TemplateError`; `TemplateLimit` after so many `steps` of a Go template
        or `operations` of a Jinja one."""
        think = self.supported(think)
        if self.jinja is not None:
            text = self.jinja.render(messages, tools, think=think, bos=self.bos, eos=self.eos, operations=operations)
            # The tokenizer adds BOS itself for such models; two of them make answers worse.
            return text[len(self.bos) :] if self.strip_bos and text.startswith(self.bos) else text
        return self.go.execute(template_values(messages=messages, tools=tools, think=think), steps=steps)

    def supported(self, think: Think | None) -> Think | None:
        """The think setting as the template knows it: gpt-oss has three levels."""
        if self.jinja is not None and think is not None and think.level == "max" and self.calls is HARMONY:
            return Think(True, "high")
        return think

    def output_parser(self, prompt: str, think: Think | None, tools: tuple[Tool, ...]) -> OutputParser | None:
        """The parser for the answer to this prompt; None where all of it is content."""
        if self.calls is HARMONY:
            return HarmonyParser(tools)
        thinking = self._thinking_parser(prompt, think)
        if self.calls is not None and (tools or self.calls.always):
            return Stages(thinking, self.calls.parser(tools))
        if tools:
            return Stages(thinking, ToolParser(tools, self.tool_tag))
        return None if thinking is None else Stages(thinking, None)

    def _thinking_parser(self, prompt: str, think: Think | None) -> ThinkingParser | AnswerParser | None:
        """Already inside a thought where the prompt ends with its tag."""
        opening, closing = self.thinking
        if think is None or not think.enabled or not opening or not closing:
            return None
        parser = ThinkingParser(opening, closing)
        if prompt.strip().endswith(opening):
            parser.add(opening)
        return AnswerParser(parser, *self.answer) if self.answer[0] else parser

    def answer_mark(self, think: Think | None) -> str:
        """The text after which the answer begins ("" for at once): what a grammar must wait for."""
        if self.calls is HARMONY:
            return FINAL
        return self.thinking[1] if think is not None and think.enabled and all(self.thinking) else ""

    def control(self, tools: tuple[Tool, ...]) -> tuple[str, ...]:
        """The control tokens that the parser of the answer needs to see."""
        texts = self.calls.control if self.calls is not None and (tools or self.calls.always) else ()
        if self.calls is None and tools and self.tool_tag not in ("{", "["):
            texts = (self.tool_tag,)
        return (*texts, *self.marks)


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

    def known(self, model: Model) -> Prompting | None:
        """What was made of the model before."""
        return self._kept.get((model.digest, model.template))

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
        family, parser = model.config.family, model.config.parser
        if jinja_text is not None and (go_text is None or self._prefers_jinja(go_text, jinja_text)):
            found = thinking_formats.find(jinja_text)
            return Prompting(
                go=go,
                jinja=JinjaTemplate(jinja_text),
                thinking=(found.open, found.close) if found is not None else ("", ""),
                answer=found.answer if found is not None else ("", ""),
                marks=found.control if found is not None else (),
                calls=choose(jinja=jinja_text, family=family, parser=parser),
                tool_tag="{",
                bos=facts.bos,
                eos=facts.eos,
                strip_bos=bool(facts.bos) and _adds_bos(model),
            )
        tags = infer_tags(go.root)
        return Prompting(
            go=go,
            jinja=None,
            thinking=tags,
            answer=("", ""),
            marks=tuple(filter(None, tags)),
            calls=choose(go=go_text, family=family, parser=parser),
            tool_tag=infer_tag(go),
            bos=facts.bos,
            eos=facts.eos,
            strip_bos=False,
        )

    def _prefers_jinja(self, go_text: str, jinja_text: str) -> bool:
        if self._go_template is not None:
            return not self._go_template
        return template_capabilities(go_text, None) < template_capabilities(None, jinja_text)


_skills: OrderedDict[tuple[str, str | None], tuple[str, ...]] = OrderedDict()
"""Capabilities by digest and template. The digest stands for all of a model's files: none of them is looked at."""

SKILLS = 1024
"""How many models' capabilities are kept."""


def known_capabilities(model: Model) -> tuple[str, ...] | None:
    """What `capabilities` found before; None if it was not asked or the file could not be read."""
    return _skills.get((model.digest, model.template))


def capabilities(model: Model) -> tuple[str, ...]:
    """What the model can do, from its metadata and templates, in Ollama's order and names."""
    known = known_capabilities(model)
    if known is not None:
        return known
    skills = template_capabilities(model.template, model.chat_template)
    from_templates = (name for name in ("tools", "insert", "thinking") if name in skills)
    found = tuple(dict.fromkeys((*model.metadata_capabilities, *from_templates)))
    if _readable(model):
        _skills[model.digest, model.template] = found
        while len(_skills) > SKILLS:
            _skills.popitem(last=False)
    return found


def _readable(model: Model) -> bool:
    if model.gguf is None:
        return True
    try:
        return bool(model.metadata.kv)
    except VllamaError:
        return False


def _adds_bos(model: Model) -> bool:
    """Whether the tokenizer puts BOS in front by itself (llama.cpp's rule when the file does not say)."""
    if model.gguf is None:
        return False
    kv = model.metadata.kv
    adds = kv.get("tokenizer.ggml.add_bos_token")
    return bool(adds) if adds is not None else kv.get("tokenizer.ggml.model") == "llama"
