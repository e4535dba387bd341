"""Templates as Ollama uses them: which names they mention, and how a chat becomes a prompt."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from vllama.prompts.gotemplate.chatvalues import messages_value, tools_value
from vllama.prompts.gotemplate.cut import cut_after_response
from vllama.prompts.gotemplate.functions import GO_FUNCTIONS, OLLAMA_FUNCTIONS
from vllama.prompts.gotemplate.interpreter import MAX_STEPS, Program
from vllama.prompts.gotemplate.nodes import Action, Command, Field, NodeList, Pipe
from vllama.prompts.gotemplate.parser import parse_trees
from vllama.prompts.gotemplate.printing import MAX_OUTPUT, too_long
from vllama.prompts.gotemplate.quoting import clean
from vllama.prompts.gotemplate.variables import variables
from vllama.prompts.messages import Message, Tool

CACHE_SIZE: Final = 64
"""How many parsed templates are kept."""

_CACHED_CHARS: Final = 1 << 15
"""Longer templates are parsed anew each time: they come from nowhere but a client's request."""

_STEPS_PER_MESSAGE: Final = 1_000

_RESPONSE: Final = Action(0, Pipe(0, (Command(0, (Field(0, ("Response",)),)),)))


@dataclass(frozen=True, slots=True)
class TemplateValues:
    """What a prompt is made of. `think_level` is "" or the level; `is_think_set`: the client said so.

    `tools_given` tells an empty list of tools from none at all: a template that prints `.Tools` shows
    `[]` or `null`.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    prompt: str = ""
    suffix: str = ""
    think: bool = False
    think_level: str = ""
    is_think_set: bool = False
    tools_given: bool = False


class GoTemplate:
    """A parsed template. Immutable, and safe to use from several threads.

    `text` is its source, `root` its syntax tree and `trees` that of every definition in it (`root` is
    that of ""); `vars` are the names that it mentions, in lower case.
    """

    def __init__(self, text: str) -> None:
        trees = parse_trees(text, OLLAMA_FUNCTIONS)
        self.text = text
        self.vars = variables(trees.values())
        if "messages" not in self.vars and "response" not in self.vars:
            root = trees[""]
            trees[""] = replace(root, nodes=(*root.nodes, _RESPONSE))
            self.vars |= {"response"}
        self.trees: Mapping[str, NodeList] = trees
        self._program = _compile(text, trees)
        self._cut: Program | None = None

    @property
    def root(self) -> NodeList:
        return self.trees[""]

    def uses(self, name: str) -> bool:
        """Whether the template mentions a name, in any case of letters."""
        return name.lower() in self.vars

    def __reduce__(self) -> tuple[Any, ...]:
        # Closures cannot be pickled; the text says it all.
        return parse, (self.text,)

    def execute(self, values: TemplateValues, *, steps: int | None = None) -> str:
        """The prompt for a chat, or for filling in between `prompt` and `suffix` where both are given.

        Templates that mention `.Messages` see all of it; older ones run once for each turn of the user
        and are cut after `.Response` at the last one. Raises TemplateError with Go's text, TemplateLimit after so many
        `steps` (None: `MAX_STEPS` and more for many messages).
        """
        system, messages = collate(values.messages)
        common = {
            "Response": "",
            "Think": values.think,
            "ThinkLevel": values.think_level,
            "IsThinkSet": values.is_think_set,
        }
        if steps is None:
            steps = MAX_STEPS + _STEPS_PER_MESSAGE * len(values.messages)
        if values.prompt and values.suffix:
            data = {"Prompt": values.prompt, "Suffix": values.suffix, **common}
            return clean(self._program.execute(data, steps)[0])
        if "messages" in self.vars:
            data = {
                "System": system,
                "Messages": messages_value(messages),
                "Tools": tools_value(values.tools, given=values.tools_given),
                **common,
            }
            return clean(self._program.execute(data, steps)[0])
        return clean(self._execute_turns(messages, common, steps))

    def execute_raw(self, data: Any) -> str:
        """The output for any decoded JSON as dot. Bytes that are not UTF-8 stand as lone surrogates."""
        return self._program.execute(data)[0]

    def _execute_turns(self, messages: tuple[Message, ...], common: Mapping[str, Any], steps: int) -> str:
        parts: list[str] = []
        turn = {"System": "", "Prompt": "", "Response": ""}

        def finish(program: Program) -> None:
            nonlocal steps
            text, steps = program.execute({**common, **turn}, steps)
            parts.append(text)
            if sum(map(len, parts)) > MAX_OUTPUT:
                raise too_long()
            turn.update(System="", Prompt="", Response="")

        for message in messages:
            match message.role:
                case "system":
                    if turn["Prompt"] or turn["Response"]:
                        finish(self._program)
                    turn["System"] = message.content
                case "user":
                    if turn["Response"]:
                        finish(self._program)
                    turn["Prompt"] = message.content
                case "assistant":
                    turn["Response"] = message.content
        finish(self._cut_program())
        return "".join(parts)

    def _cut_program(self) -> Program:
        if self._cut is None:
            # Ollama builds this one from the cut tree alone: its own functions and all definitions are gone.
            cut = {"": cut_after_response(self.root)}
            self._cut = Program(self.text, cut, GO_FUNCTIONS, zero=False)
        return self._cut


def _compile(text: str, trees: Mapping[str, NodeList]) -> Program:
    return Program(text, trees, OLLAMA_FUNCTIONS, zero=True)


def collate(messages: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    """All system text, and the messages with neighbours of the same role joined (but tools' answers)."""
    system = [message.content for message in messages if message.role == "system"]
    joined: list[Message] = []
    texts: list[str] = []
    for message in messages:
        if joined and joined[-1].role == message.role != "tool":
            texts.append(message.content)
            continue
        if len(texts) > 1:
            _join(joined, texts)
        joined.append(message)
        texts = [message.content]
    if len(texts) > 1:
        _join(joined, texts)
    return "\n\n".join(system), tuple(joined)


def _join(joined: list[Message], texts: list[str]) -> None:
    joined[-1] = replace(joined[-1], content="\n\n".join(texts))


class _Cache:
    """The templates used last, by their text."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._templates: OrderedDict[str, GoTemplate] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> GoTemplate:
        with self._lock:
            template = self._templates.get(text)
            if template is not None:
                self._templates.move_to_end(text)
                return template
        template = GoTemplate(text)
        if len(text) <= _CACHED_CHARS:
            with self._lock:
                self._templates[text] = template
                while len(self._templates) > self._size:
                    self._templates.popitem(last=False)
        return template


_cache = _Cache(CACHE_SIZE)


def parse(text: str) -> GoTemplate:
    """The template of a text, from the cache if it was parsed before. Raises TemplateError with Go's text."""
    return _cache.get(text)
