"""How one model's prompts are made and its answers are taken apart: which template, which tags.

Built once per model and kept. Ollama's rule: the Go TEMPLATE of the model's layers, unless the Jinja
template inside the GGUF can do more; without either, the prompt as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vllama.models.library import Model
from vllama.prompts.gotemplate import GoTemplate, TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.jinja import JinjaTemplate
from vllama.prompts.messages import Message, Think, Tool
from vllama.prompts.style import capabilities as template_capabilities
from vllama.prompts.thinking import ThinkingParser, infer_tags, infer_tags_jinja
from vllama.prompts.tools import infer_tag, infer_tag_jinja

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
        think_level=think.level if think is not None else "",
        is_think_set=think is not None,
    )


class Prompter:
    """A small cache of `Prompting` by model digest."""

    def __init__(self, *, go_template: bool | None = None) -> None:
        self._go_template = go_template
        self._kept: OrderedDict[tuple[str, str | None], Prompting] = OrderedDict()

    def of(self, model: Model) -> Prompting:
        """The model's prompting. Raises `TemplateError` if its template does not parse."""
        key = (model.digest, model.template)
        known = self._kept.get(key)
        if known is None:
            known = self._kept[key] = self._build(model)
            if len(self._kept) > CACHE:
                self._kept.popitem(last=False)
        return known

    def _build(self, model: Model) -> Prompting:
        go_text, jinja_text = model.template, model.chat_template
        go = parse_go(go_text if go_text is not None else PLAIN)
        use_jinja = jinja_text is not None and (go_text is None or self._prefers_jinja(go_text, jinja_text))
        bos, eos, adds_bos = _specials(model)
        if use_jinja and jinja_text is not None:
            return Prompting(
                go=go,
                jinja=JinjaTemplate(jinja_text),
                thinking=infer_tags_jinja(jinja_text),
                tool_tag=infer_tag_jinja(jinja_text),
                bos=bos,
                eos=eos,
                strip_bos=adds_bos and bool(bos),
            )
        return Prompting(
            go=go, jinja=None, thinking=infer_tags(go.root), tool_tag=infer_tag(go), bos=bos, eos=eos, strip_bos=False
        )

    def _prefers_jinja(self, go_text: str, jinja_text: str) -> bool:
        if self._go_template is not None:
            return not self._go_template
        return template_capabilities(go_text, None) < template_capabilities(None, jinja_text)


def capabilities(model: Model) -> tuple[str, ...]:
    """What the model can do, from its metadata and templates, in Ollama's order and names."""
    found: list[str] = []
    kv = model.metadata.kv if model.gguf is not None else {}
    arch = str(kv.get("general.architecture", ""))
    if f"{arch}.pooling_type" in kv:
        found.append("embedding")
    else:
        found.append("completion")
    if f"{arch}.vision.block_count" in kv or model.projector is not None:
        found.append("vision")
    skills = template_capabilities(model.template, model.chat_template)
    found.extend(name for name in ("tools", "insert", "thinking") if name in skills)
    found.extend(name for name in model.config.capabilities if name not in found)
    return tuple(found)


def inspector() -> Callable[[Model], tuple[str, ...]]:
    """`capabilities` with a memory by digest: parsing templates for each listing would be waste."""
    kept: dict[tuple[str, str | None], tuple[str, ...]] = {}

    def inspect(model: Model) -> tuple[str, ...]:
        key = (model.digest, model.template)
        if key not in kept:
            if len(kept) > 1024:
                kept.clear()
            kept[key] = capabilities(model)
        return kept[key]

    return inspect


def _specials(model: Model) -> tuple[str, str, bool]:
    """BOS and EOS as text, and whether the tokenizer adds BOS by itself."""
    if model.gguf is None:
        return "", "", False
    metadata = model.metadata
    kv = metadata.kv

    def token(name: str) -> str:
        number = kv.get(f"tokenizer.ggml.{name}_token_id")
        return metadata.token(number) if isinstance(number, int) else ""

    adds = kv.get("tokenizer.ggml.add_bos_token")
    if adds is None:
        adds = kv.get("tokenizer.ggml.model") == "llama"
    return token("bos"), token("eos"), bool(adds)
