"""Taking tool calls out of a model's streamed output.

Which calls are found, and when, equals Ollama's generic parser, its guesses included. Text is treated
better: Ollama loses text after a call and text behind a tag that turned out to open no call, and repeats
text in front of a bare `{`; here every piece of text is passed on exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.thinking import GO_SPACE, overlap
from vllama.prompts.tools.arguments import ObjectScanner, find_arguments

_PAIRS = {"{": "}", "[": "]"}


class ToolParser:
    """Feed it text with `add`; it gives back complete calls and the text that is none.

    `tag` is what opens calls (`infer_tag`). With the tags `{` and `[` only output that begins with the tag can be
    a call, and the first balanced bracket that holds none ends the search.
    """

    __slots__ = ("_balance", "_buffer", "_calling", "_calls", "_counted", "_kept", "_names", "_tag", "done")

    def __init__(self, tools: Sequence[Tool], tag: str) -> None:
        self._tag = tag or "{"
        self._names = _Names([tool.function.name for tool in tools])
        self._buffer = ""
        self._calling = False
        self._calls = 0
        self._kept: list[str] = []
        self._counted = 0
        self._balance = 0
        self.done = False
        """True once everything that comes is content."""

    def add(self, text: str) -> tuple[list[ToolCall], str]:
        """Take the next piece of output; return the calls it completes and the content to pass on before them."""
        if self.done:
            return [], text
        self._buffer += text
        content = ""
        if not self._calling:
            content = self._find_tag()
            if not self._calling:
                return [], content
        calls = []
        while call := self._next_call():
            calls.append(call)
        if self._balanced():
            self.done = True
            content, self._buffer = content + self._buffer, ""
        return calls, content

    def content(self) -> str:
        """At the end of the stream: the text that was held back and is no call."""
        rest, self._buffer = self._buffer, ""
        if self._calls:
            rest = "".join([*self._kept, _text_after_call(rest, self._tag)])
        self._kept = []
        return rest

    def finish(self) -> tuple[list[ToolCall], str]:
        """At the end of the stream: nothing completes a call then, so there is only text."""
        return [], self.content()

    def _find_tag(self) -> str:
        at = self._buffer.find(self._tag)
        found = at >= 0
        if not found:
            at = len(self._buffer) - overlap(self._buffer, self._tag)
        content, self._buffer = self._buffer[:at], self._buffer[at:]
        if self._tag in _PAIRS and content.strip(GO_SPACE):
            self.done = True
            content, self._buffer = content + self._buffer, ""
            return content
        self._calling = found
        return content

    def _next_call(self) -> ToolCall | None:
        names = self._names
        if not names.find(self._buffer) or names.refused or not names.scanner.scan(self._buffer):
            return None
        assert names.scanner.value is not None
        arguments = find_arguments(names.name, names.scanner.value)
        if arguments is None:
            # Neither the name nor the object changes any more: looking again would find the same.
            names.refused = True
            return None
        call = ToolCall(name=names.name, arguments=arguments, index=self._calls)
        if self._calls:
            before = _text_after_call(self._buffer[: min(names.start, names.scanner.start)], self._tag)
            self._kept.append(before.partition(self._tag)[0])
        self._calls += 1
        # The closing brace stays in the buffer, as in Ollama: the bracket count of `_balanced` relies on it.
        self._buffer = self._buffer[max(names.end, names.scanner.end) :]
        self._counted = self._balance = 0
        names.reset()
        return call

    def _balanced(self) -> bool:
        """Whether the first bracket of a bare tag was closed. Strings are not looked at, as in Ollama."""
        close = _PAIRS.get(self._tag)
        if close is None:
            return False
        for char in self._buffer[self._counted :]:
            if char == self._tag:
                self._balance += 1
            elif char == close:
                self._balance -= 1
                if self._balance == 0:
                    return True
        self._counted = len(self._buffer)
        return False


class _Names:
    """The first known tool name in a growing buffer, and the object scanner that goes with it."""

    __slots__ = ("_longest", "_names", "_partial", "_searched", "end", "name", "refused", "scanner", "start")

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._longest = max(map(len, names), default=0)
        self._partial: frozenset[str] | None = None
        self.reset()

    def reset(self) -> None:
        """The buffer was cut: begin anew."""
        self.name = ""
        self.start = self.end = -1
        self._searched = 0
        self.refused = False
        self.scanner = ObjectScanner()

    def find(self, buffer: str) -> bool:
        """Whether a name is there and the buffer does not end within a name ("get" of "get_weather")."""
        partial = self._partial
        if partial is None:  # most answers hold no call, and there may be hundreds of tools
            partial = self._partial = frozenset(name[:n] for name in self._names for n in range(1, len(name)))
        if not buffer or any(buffer[-n:] in partial for n in range(1, min(len(buffer), self._longest) + 1)):
            return False
        if self.start >= 0:
            return True
        for name in self._names:
            at = buffer.find(name, max(self._searched - len(name), 0))
            if at >= 0 and (self.start < 0 or at < self.start or (at == self.start and len(name) > len(self.name))):
                self.name, self.start, self.end = name, at, at + len(name)
        self._searched = len(buffer)
        return self.start >= 0


def _text_after_call(rest: str, tag: str) -> str:
    """What follows a call, without the brackets, separators and closing tags that belong to it."""
    closer = re.escape("</" + tag[1:]) if tag.startswith("<") else r"(?!)"
    depth = 0
    if not rest.startswith("}"):
        # The name stood behind the arguments: what is left of its object belongs to the call too.
        for match in re.finditer(r"[{}]", rest):
            depth += 1 if match[0] == "{" else -1
            if depth < 0:
                rest = rest[match.start() :]
                break
    text = re.sub(rf"\A(?:\s*(?:[\]}},;]|```|</s>|<\|[^<>|]*\|>|{closer}))+", "", rest)
    if not any(map(str.isalnum, text)) or tag.startswith(text.strip()) or f"</{tag[1:]}".startswith(text.strip()):
        return ""
    return text
