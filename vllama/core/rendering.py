"""Prompts from conversations, without stopping the streams of others.

A short conversation is rendered at once, with a budget of a few milliseconds: enough for every honest template. What is
longer, or wants more, goes to a process apart and has the template's whole budget there.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from vllama.core.apart import Apart
from vllama.core.conversation import tag_images, tail
from vllama.core.prompting import Prompter, Prompting
from vllama.engines.base import Engine, ModelFacts
from vllama.errors import TemplateLimit
from vllama.models.model import Model
from vllama.prompts.budget import OPERATIONS
from vllama.prompts.gotemplate import GoTemplate, TemplateValues
from vllama.prompts.gotemplate import parse as parse_go
from vllama.prompts.messages import Message, Think, Tool

log = logging.getLogger("vllama.service")

LARGE = 64 << 10
"""Characters of a conversation that is rendered apart; each message counts for 256 at least."""

LONG_TEMPLATE = 16 << 10
"""Characters of a model's template that is parsed in a thread, once."""

SHORT_TEMPLATE = 1 << 10
"""Characters of a request's template that is parsed at once."""

QUICK_STEPS = 20_000
"""Steps of a Go template that are tried at once; a chat of 50 messages takes about 1,000."""

QUICK_OPERATIONS = 10_000
"""Operations of a Jinja template, likewise."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything that makes one prompt."""

    prompting: Prompting
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    think: Think | None

    @property
    def long(self) -> bool:
        """Whether even an honest template takes its time."""
        if len(self.messages) > LARGE // 256:
            return True
        size = 0
        for message in self.messages:
            size += len(message.content)
        return size > LARGE

    def text(self, *, quick: bool = False) -> str:
        """The prompt. Raises `TemplateError`; `TemplateLimit` where the budget was too small, `quick` or not."""
        steps, operations = (QUICK_STEPS, QUICK_OPERATIONS) if quick else (None, OPERATIONS)
        return self.prompting.render(self.messages, self.tools, self.think, steps=steps, operations=operations)


async def rendered(apart: Apart, rendering: Rendering) -> str:
    """The prompt. Raises `TemplateError`."""
    if not rendering.long:
        try:
            return rendering.text(quick=True)
        except TemplateLimit:
            pass
    prompting = rendering.prompting
    # What takes answers apart stays here: it is not needed, and not made to travel.
    bare = replace(prompting, calls=None)
    think = prompting.supported(rendering.think)
    return await apart.call(Rendering.text, replace(rendering, prompting=bare, think=think))


async def executed(apart: Apart, template: GoTemplate | str, values: TemplateValues) -> str:
    """The output of a template, which is a model's own or the text of one that came with the request."""
    text = template if isinstance(template, str) else template.text
    if not isinstance(template, str) or len(template) <= SHORT_TEMPLATE:
        try:
            go = parse_go(template) if isinstance(template, str) else template
            return go.execute(values, steps=QUICK_STEPS)
        except TemplateLimit:
            pass
    return await apart.call(_execute, text, values)


def _execute(text: str, values: TemplateValues) -> str:
    return parse_go(text).execute(values)


async def prepared(prompter: Prompter, model: Model, facts: ModelFacts) -> Prompting:
    """The model's prompting; a template of unusual length is not parsed on the event loop."""
    known = prompter.known(model)
    if known is not None:
        return known
    if long_template(model):
        return await asyncio.to_thread(prompter.of, model, facts)
    return prompter.of(model, facts)


def long_template(model: Model) -> bool:
    """Whether parsing the model's templates takes long."""
    return max(len(model.template or ""), len(model.chat_template or "")) > LONG_TEMPLATE


async def fitted(
    apart: Apart, engine: Engine, rendering: Rendering, num_ctx: int, *, truncate: bool
) -> tuple[str, int]:
    """The prompt, the oldest messages dropped until it fits the context, and how many were.

    System messages and the last message always stay. A prompt of no more bytes than the context has tokens
    fits without asking the tokenizer, for a token is at least one byte.
    """
    tagged = tag_images(rendering.messages)

    async def without(count: int) -> str:
        messages = tail(tagged, count)
        return await rendered(apart, Rendering(rendering.prompting, messages, rendering.tools, rendering.think))

    whole = rendering if tagged is rendering.messages else replace(rendering, messages=tagged)
    prompt = await rendered(apart, whole)
    if not truncate or len(tagged) < 2 or await _fits(engine, prompt, num_ctx):
        return prompt, 0
    low, high = 1, len(tagged) - 1
    best = await without(high)
    start = high
    # Each dropped message makes the prompt shorter, so the first cut that fits is found by halving.
    while low < high:
        middle = (low + high) // 2
        text = await without(middle)
        if await _fits(engine, text, num_ctx):
            best, start, high = text, middle, middle
        else:
            low = middle + 1
    left_out = sum(message.role != "system" for message in tagged[:start])
    log.warning("dropped %d of %d messages to fit num_ctx %d", left_out, len(tagged), num_ctx)
    return best, left_out


async def _fits(engine: Engine, prompt: str, limit: int) -> bool:
    # One token may be added in front (BOS), hence the strict comparison.
    if len(prompt.encode()) < limit:
        return True
    return len(await engine.tokenize(prompt, limit=limit)) <= limit
