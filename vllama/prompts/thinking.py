"""Splitting a model's output into thinking and content, and finding a template's thinking tags.

The parser is a state machine over the streamed text; its chunk-by-chunk output equals Ollama's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vllama.prompts.gotemplate.nodes import (
    Action,
    Branch,
    Field,
    Node,
    NodeList,
    Operand,
    Pipe,
    Range,
    Statement,
    TemplateCall,
    Text,
)

_State = Literal["opening", "opened", "thinking", "closed", "content"]

# Go's unicode.IsSpace: str.strip() without arguments would also take U+001C..U+001F.
GO_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


class ThinkingParser:
    """Feed it text with `add`; it gives back what is thinking and what is content.

    White space around the tags is dropped, except before the closing tag. Text before an opening tag
    means that the model does not think: everything is content then. Where the prompt already ends with
    the opening tag, feed that tag first.
    """

    __slots__ = ("_close", "_held", "_open", "_space", "_state")

    def __init__(self, open: str, close: str) -> None:
        self._open = open
        self._close = close
        self._held = ""
        self._space: list[str] = []
        """White space before the opening tag: in pieces, because there may be any amount of it."""
        self._state: _State = "opening"

    @property
    def thinking(self) -> bool:
        """True between the tags."""
        return self._state in ("opened", "thinking")

    @property
    def held(self) -> int:
        """How many characters are looked at again with the next piece: less than the longer tag has."""
        return len(self._held)

    def add(self, text: str) -> tuple[str, str]:
        """Take the next piece of output; return (thinking, content) that can be passed on now."""
        if self._state == "content":
            return "", text
        text = self._held + text
        self._held = ""
        if self._state == "opening":
            start = text.lstrip(GO_SPACE)
            self._space.append(text[: len(text) - len(start)])
            if not start or (len(start) < len(self._open) and self._open.startswith(start)):
                self._held = start
                return "", ""
            space = "".join(self._space)
            self._space.clear()
            if not start.startswith(self._open):
                self._state = "content"
                return "", space + start
            # An empty opening tag swallows one character, as in Ollama.
            text = start[len(self._open) or 1 :]
            self._state = "opened"
        if self._state == "opened":
            text = text.lstrip(GO_SPACE)
            if not text:
                return "", ""
            self._state = "thinking"
        if self._state == "thinking":
            return self._think(text)
        text = text.lstrip(GO_SPACE)
        if text:
            self._state = "content"
        return "", text

    def finish(self) -> tuple[str, str]:
        """At the end of the stream: the (thinking, content) held back because it could have become a tag.

        Ollama loses this text.
        """
        held = "".join([*self._space, self._held])
        self._held, self._space = "", []
        return (held, "") if self._state == "thinking" else ("", held)

    def _think(self, text: str) -> tuple[str, str]:
        if self._close:
            thinking, close, rest = text.partition(self._close)
        else:
            thinking, close, rest = text[:1], text[:1], text[1:]
        if close:
            rest = rest.lstrip(GO_SPACE)
            self._state = "content" if rest else "closed"
            return thinking, rest
        held = overlap(text, self._close)
        if held:
            self._held = text[-held:]
            return text[:-held], ""
        return text, ""


def overlap(text: str, tag: str) -> int:
    """The length in characters of the longest end of `text` that is a beginning of `tag`."""
    most = min(len(text), len(tag))
    if not most or tag[0] not in text[-most:]:
        return 0  # nearly always, and asked for each chunk
    for length in range(most, 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


def infer_tags(root: NodeList) -> tuple[str, str]:
    """The (opening, closing) thinking tags of a Go template, "" for what is not there.

    Around a field `.Thinking` inside of a range over `.Messages`: the text that begins the innermost block, and the
    text that ends it. The last such place decides. Variables (`$m.Thinking`) and `with .Thinking` bodies are not
    seen; a `with` or `if` is seen by its condition.
    """
    tags = ["", ""]
    _visit(root, (), False, tags)
    return tags[0], tags[1]


def _visit(node: Node | None, block: Sequence[Statement], in_messages: bool, tags: list[str]) -> None:
    """Walk in the order of the text. `block` is the innermost list of statements around `node`."""
    if isinstance(node, NodeList):
        for child in node.nodes:
            _visit(child, node.nodes, in_messages, tags)
    elif isinstance(node, Branch):
        if isinstance(node, Range):
            in_messages = _names_messages(node.pipe)
        for part in (node.pipe, node.body, node.else_body):
            _visit(part, block, in_messages, tags)
    elif isinstance(node, Action | TemplateCall):
        _visit(node.pipe, block, in_messages, tags)
    elif isinstance(node, Pipe):
        for command in node.commands:
            for arg in command.args:
                _visit(arg, block, in_messages, tags)
    elif isinstance(node, Field) and node.ident[0] == "Thinking" and in_messages and block:
        for at, edge in enumerate((block[0], block[-1])):
            if isinstance(edge, Text):
                tags[at] = edge.text.strip(GO_SPACE)


def _names_messages(operand: Operand) -> bool:
    if isinstance(operand, Pipe):
        return any(_names_messages(arg) for command in operand.commands for arg in command.args)
    return isinstance(operand, Field) and operand.ident[0] == "Messages"
