"""A model's output taken apart: thinking, content and tool calls, whichever of them its format has."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from vllama.prompts.messages import ToolCall


class Piece(NamedTuple):
    """What a piece of output turned out to be."""

    thinking: str = ""
    content: str = ""
    calls: tuple[ToolCall, ...] = ()


class OutputParser(Protocol):
    """Pure: what comes out depends on the text alone, and joined not on how it was cut."""

    def add(self, text: str) -> Piece:
        """Take the next piece of output; return what can be passed on."""
        ...

    def finish(self) -> Piece:
        """At the end of the output: everything that was held back."""
        ...


class CallParser(Protocol):
    """Takes calls out of content."""

    def add(self, text: str) -> tuple[list[ToolCall], str]:
        """The calls that the next piece completes, and the content before, between and after them."""
        ...

    def finish(self) -> tuple[list[ToolCall], str]:
        """The same for what was held back, at the end."""
        ...


class TextParser(Protocol):
    """Splits thinking off."""

    def add(self, text: str) -> tuple[str, str]:
        """(thinking, content) that can be passed on."""
        ...

    def finish(self) -> tuple[str, str]:
        """The same for what was held back, at the end."""
        ...


class Stages:
    """First thinking, then calls in what is content. Either may be missing."""

    __slots__ = ("_calls", "_thinking")

    def __init__(self, thinking: TextParser | None, calls: CallParser | None) -> None:
        self._thinking = thinking
        self._calls = calls

    def add(self, text: str) -> Piece:
        """See `OutputParser`."""
        thinking = ""
        if self._thinking is not None:
            thinking, text = self._thinking.add(text)
        if self._calls is None or not text:
            return Piece(thinking, text)
        calls, content = self._calls.add(text)
        return Piece(thinking, content, tuple(calls))

    def finish(self) -> Piece:
        """See `OutputParser`."""
        thinking, text = self._thinking.finish() if self._thinking is not None else ("", "")
        if self._calls is None:
            return Piece(thinking, text)
        calls, content = self._calls.add(text) if text else ([], "")
        late, rest = self._calls.finish()
        return Piece(thinking, content + rest, (*calls, *late))
