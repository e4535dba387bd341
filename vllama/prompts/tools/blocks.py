"""Takes calls out of a stream where markers open them: one machine for all formats of that kind.

A format says with `Rule`s what opens a call, where it ends and how it is read. Everything else is content: text before,
between and after calls, and every call that cannot be read, markers included. Not content are, next to a call,
white space and the markup that belongs to the format (closing markers, wrappers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.ends import End, held

Reader = Callable[[str, Mapping[str, Tool]], list[ToolCall] | None]
"""Reads the text between the markers, given the tools by name; None where it is no call."""

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One way of writing calls.

    `opening` begins one ("" for a call without a marker, which is one only where `first` stands at the start of the
    output or next to another call, and only with the name of a known tool). `closing` may follow it. `trailing`:
    further texts that belong to a call when they follow it.
    """

    opening: str
    end: Callable[[], End]
    read: Reader
    closing: str = ""
    trailing: tuple[str, ...] = ()
    first: str = "{"


class BlockParser:
    """Feed it text with `add`; it gives back complete calls, and the content before, between and after them.

    `dropped` are markers of the format that are never content.
    """

    __slots__ = (
        "_after",
        "_bare",
        "_block",
        "_closers",
        "_count",
        "_dropped",
        "_edge",
        "_end",
        "_held",
        "_marker",
        "_markers",
        "_openers",
        "_rule",
        "_space",
        "_tools",
    )

    def __init__(self, tools: Sequence[Tool], rules: Sequence[Rule], dropped: tuple[str, ...] = ()) -> None:
        self._tools = {tool.function.name: tool for tool in tools}
        self._openers = {rule.opening: rule for rule in rules if rule.opening}
        self._bare = {rule.first: rule for rule in rules if not rule.opening}
        self._dropped = dropped
        self._markers = (*self._openers, *dropped)
        # Longest first: one marker may begin another.
        self._marker = re.compile("|".join(map(re.escape, sorted(self._markers, key=len, reverse=True))) or r"(?!)")
        self._rule: Rule | None = None
        self._end: End | None = None
        self._block: list[str] = []
        self._held = ""
        self._edge = True
        """Nothing but white space since the start of the output or since a call."""
        self._after = False
        """`_edge`, and it is a call that came before."""
        self._space: list[str] = []
        self._closers: tuple[str, ...] = ()
        self._count = 0

    @property
    def held(self) -> int:
        """How many characters are looked at again with the next piece: less than the longest marker has."""
        return len(self._held)

    def add(self, text: str) -> tuple[list[ToolCall], str]:
        """Take the next piece of output; return the calls it completes and the content that can be passed on."""
        text = self._held + text
        calls: list[ToolCall] = []
        out: list[str] = []
        pos, more = 0, True
        while more:
            if self._end is not None:
                stop, more = self._end.scan(text, pos)
                self._block.append(text[pos:stop])
                pos = stop
                if more:
                    self._close(calls, out)
            elif self._edge:
                pos, more = self._at_edge(text, pos, out)
            else:
                pos, more = self._in_text(text, pos, out)
        self._held = text[pos:]
        return calls, "".join(out)

    def finish(self) -> tuple[list[ToolCall], str]:
        """At the end of the output: calls that nothing closed but that are whole, and the content held back."""
        calls: list[ToolCall] = []
        out: list[str] = []
        rest, self._held = self._held, ""
        if self._end is not None:
            self._block.append(rest)
            self._close(calls, out, cut=True)
        elif not self._after or not any(mark.startswith(rest) for mark in ("", *self._closers, *self._dropped)):
            out += [*self._space, rest]
        self._space.clear()
        return calls, "".join(out)

    def _in_text(self, text: str, pos: int, out: list[str]) -> tuple[int, bool]:
        match = self._marker.search(text, pos)
        if match is None:
            end = len(text) - held(text, pos, self._markers)
            out.append(text[pos:end])
            return end, False
        out.append(text[pos : match.start()])
        self._open(match[0])
        return match.end(), True

    def _at_edge(self, text: str, pos: int, out: list[str]) -> tuple[int, bool]:
        match = _SPACE.match(text, pos)
        if match is not None and match.end() > pos:
            self._space.append(match[0])
            pos = match.end()
        if pos == len(text):
            return pos, False
        for closer in self._closers if self._after else ():
            if text.startswith(closer, pos):
                self._space.clear()
                return pos + len(closer), True
        match = self._marker.match(text, pos)
        if match is not None:
            self._open(match[0])
            return match.end(), True
        markers = (*self._markers, *self._closers)
        if len(text) - pos < max(map(len, markers), default=0):
            rest = text[pos:]
            if any(marker.startswith(rest) for marker in markers):
                return pos, False
        if text[pos] in self._bare:
            self._begin(self._bare[text[pos]], "")
            return pos, True
        out += self._space
        self._space.clear()
        self._edge = self._after = False
        return pos, True

    def _open(self, marker: str) -> None:
        rule = self._openers.get(marker)
        if rule is not None:
            self._begin(rule, marker)

    def _begin(self, rule: Rule, opening: str) -> None:
        self._rule, self._end, self._block = rule, rule.end(), [opening]

    def _close(self, calls: list[ToolCall], out: list[str], *, cut: bool = False) -> None:
        """The block is over; `cut`: because the output is, perhaps within the closing marker."""
        rule, self._rule, self._end = self._rule, None, None
        assert rule is not None
        raw = "".join(self._block)
        self._block = []
        body = raw[len(rule.opening) :]
        if rule.closing:
            body = body.removesuffix(rule.closing)
            if cut:
                body = body[: len(body) - held(body, 0, (rule.closing,))]
        found = rule.read(body, self._tools)
        if found is None or (not rule.opening and any(call.name not in self._tools for call in found)):
            out += [*self._space, raw]
            self._edge = self._after = False
        else:
            for call in found:
                calls.append(replace(call, index=self._count))
                self._count += 1
            self._edge = self._after = True
            self._closers = (*((rule.closing,) if rule.closing else ()), *rule.trailing)
        self._space.clear()
