"""Harmony, the channels of openai/gpt-oss-20b and openai/gpt-oss-120b.

    <|channel|>analysis<|message|>The user wants…<|end|>
    <|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": 1}<|call|>
    <|start|>assistant<|channel|>final<|message|>It rains.<|return|>

Analysis is thinking, final is content, and so is commentary that goes to nobody. What goes to a tool is a call. The
openai-harmony package is not used: docs/decisions says why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllama.prompts.messages import Tool, ToolCall
from vllama.prompts.tools.ends import held
from vllama.prompts.tools.output import Piece
from vllama.prompts.tools.reading import object_text

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)

_MARKER = re.compile("|".join(map(re.escape, MARKERS)))
_TO_WHOM = r"(?:\s*to=([^\s<|]+))?\s*"
_HEAD = re.compile(
    rf"\s*(?:{re.escape(START)})?\s*(?:assistant)?{_TO_WHOM}"
    rf"(?:{re.escape(CHANNEL)}\s*(analysis|commentary|final)\b{_TO_WHOM})?"
    rf"(?:{re.escape(CONSTRAIN)})?\s*(?:json|code|text)?\s*"
)
_EMPTY_HEAD = re.compile(r"(assistant)?\s*(analysis|commentary|final)?\s*")
_SPACE = re.compile(r"\s*")
_TO = "to="


class HarmonyParser:
    """Feed it the output with `add`; each piece comes back as thinking, content and complete calls."""

    __slots__ = ("_body", "_count", "_fresh", "_header", "_held", "_recipient", "_room", "_space", "_thinking")

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self._held = ""
        self._header: list[str] | None = None
        """The head of a message while it is read."""
        self._body: list[str] | None = None
        """What goes to a tool, head included."""
        self._recipient = ""
        self._thinking = False
        self._room = True
        """Between messages: white space is no content."""
        self._fresh = True
        """Nothing but white space so far."""
        self._space: list[str] = []
        self._count = 0

    @property
    def held(self) -> int:
        """How many characters are looked at again with the next piece: less than the longest marker has."""
        return len(self._held)

    def add(self, text: str) -> Piece:
        """Take the next piece of output."""
        text = self._held + text
        out = _Out()
        pos, more = 0, True
        while more:
            if self._room:
                pos, more = self._between(text, pos, out)
            else:
                match = _MARKER.search(text, pos)
                end = match.start() if match else len(text) - held(text, pos, MARKERS)
                self._say(text[pos:end], out)
                more = match is not None
                pos = match.end() if match else end
                if match:
                    self._mark(match[0], out)
        self._held = text[pos:]
        return out.piece()

    def finish(self) -> Piece:
        """At the end of the output: what was held back, and the call that nothing closed but that is whole."""
        out = _Out()
        rest, self._held = self._held, ""
        if not self._room:
            self._say(rest, out)
            self._end(out)
        elif self._fresh:
            out.content += [*self._space, rest]
        self._space = []
        return out.piece()

    def _between(self, text: str, pos: int, out: _Out) -> tuple[int, bool]:
        match = _SPACE.match(text, pos)
        end = match.end() if match else pos
        self._space.append(text[pos:end])
        pos = end
        marker = _MARKER.match(text, pos)
        if marker is not None:
            self._fresh = False
            if marker[0] in (START, CHANNEL, MESSAGE):
                self._begin([] if marker[0] == MESSAGE else [marker[0]])
                if marker[0] == MESSAGE:
                    self._address(out)
            return marker.end(), True
        rest = text[pos : pos + 16]
        marks = (*MARKERS, _TO) if self._fresh else MARKERS
        if len(rest) < 16 and rest != _TO and any(mark.startswith(rest) for mark in marks):
            return pos, False
        if self._fresh and rest.startswith(_TO):
            # The prompt has already begun the message: its head goes on.
            self._begin(self._space)
        else:
            self._room = False
        self._fresh = False
        return pos, True

    def _begin(self, header: list[str]) -> None:
        self._header, self._space, self._room = header, [], False

    def _mark(self, marker: str, out: _Out) -> None:
        if self._header is not None and marker == MESSAGE:
            self._address(out)
        elif marker in (CONSTRAIN, MESSAGE) or (self._header is not None and marker == CHANNEL):
            self._say(marker, out)
        else:
            self._end(out)
            self._room = True
            if marker in (START, CHANNEL):
                self._begin([marker])

    def _address(self, out: _Out) -> None:
        """The head is over: where does the body go? A head that says anything else is content, like its body."""
        header, self._header = self._header or [], None
        head = _HEAD.fullmatch("".join(header))
        if head is None:
            out.content += [*header, MESSAGE]
            return
        recipient = head[3] or head[1] or ""
        self._recipient = "" if recipient in ("assistant", "user") else recipient
        self._thinking = not self._recipient and head[2] == "analysis"
        self._body = [*header, MESSAGE] if self._recipient else None

    def _say(self, text: str, out: _Out) -> None:
        if not text:
            return
        if self._header is not None:
            self._header.append(text)
            return
        if self._body is not None:
            self._body.append(text)
            return
        if self._space:
            out.content += self._space
            self._space.clear()
        (out.thinking if self._thinking else out.content).append(text)

    def _end(self, out: _Out) -> None:
        """The message is over; one to a tool becomes a call, or content as it stands. So does half a head."""
        header, self._header = "".join(self._header or ()), None
        if not _EMPTY_HEAD.fullmatch(_MARKER.sub("", header)):
            out.content.append(header)
        body, self._body = self._body, None
        if body is not None:
            raw = "".join(body)
            text = raw.partition(MESSAGE)[2]
            arguments = object_text(text)
            if arguments is None:
                out.content.append(raw)
            else:
                out.calls.append(ToolCall(self._recipient.removeprefix("functions."), arguments, index=self._count))
                self._count += 1
        self._thinking, self._recipient = False, ""


class _Out:
    """What one piece of output is taken apart into."""

    __slots__ = ("calls", "content", "thinking")

    def __init__(self) -> None:
        self.thinking: list[str] = []
        self.content: list[str] = []
        self.calls: list[ToolCall] = []

    def piece(self) -> Piece:
        return Piece("".join(self.thinking), "".join(self.content), tuple(self.calls))
