"""Where the text of a call ends: scanners that look at every character once, however the text is cut."""

from __future__ import annotations

import re
from typing import Protocol

_IN_STRING = re.compile(r'["\\]')


class End(Protocol):
    """Finds the end of one call. Made anew for each."""

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """Look at `text` from `pos` on: (up to where it was used, whether the call's text ends there).

        What is not used, at most the beginning of a marker, is to be given again with more text behind it.
        """
        ...


def held(text: str, pos: int, markers: tuple[str, ...]) -> int:
    """The length of the longest end of `text[pos:]` that begins one of the markers and is not all of it."""
    longest = 0
    for marker in markers:
        for length in range(min(len(text) - pos, len(marker) - 1), longest, -1):
            if text.endswith(marker[:length]):
                longest = length
                break
    return longest


class MarkerEnd:
    """The call ends with a marker."""

    __slots__ = ("_marker",)

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """See `End`."""
        at = text.find(self._marker, pos)
        if at >= 0:
            return at + len(self._marker), True
        return len(text) - held(text, pos, (self._marker,)), False


class NoEnd:
    """The call ends with the output."""

    __slots__ = ()

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """See `End`."""
        return len(text), False


class JsonEnd:
    """The call ends with a JSON object or list; brackets within strings do not count.

    `head` characters, other than brackets, may stand before it (0: white space only); the markers of `skip` may stand
    there too, brackets and all. Where more stands there, or `stop` outside of a string, the text ends unfinished.
    """

    __slots__ = ("_depth", "_first", "_head", "_inside", "_room", "_skip", "_stop", "_string")

    def __init__(self, stop: str = "", *, head: int = 0, skip: tuple[str, ...] = ()) -> None:
        self._stop = (stop,) if stop else ()
        self._skip = skip
        marks = [re.escape(mark) for mark in (*skip, *self._stop)]
        self._first = re.compile("|".join([*marks, r"[{\[]"]))
        self._inside = re.compile("|".join([*marks[len(skip) :], r'["{}\[\]]']))
        self._head = head
        self._room = head
        self._depth = 0
        self._string = False

    def scan(self, text: str, pos: int) -> tuple[int, bool]:
        """See `End`."""
        if not self._depth:
            pos, ended = self._find_first(text, pos)
            if ended or not self._depth:
                return pos, ended
        while True:
            match = (_IN_STRING if self._string else self._inside).search(text, pos)
            if match is None:
                return len(text) - (0 if self._string else held(text, pos, self._stop)), False
            found, pos = match[0], match.end()
            if found == "\\":
                if pos == len(text):
                    return match.start(), False
                pos += 1
            elif found == '"':
                self._string = not self._string
            elif found in ("{", "["):
                self._depth += 1
            elif found in ("}", "]"):
                self._depth -= 1
                if not self._depth:
                    return pos, True
            else:
                return pos, True

    def _find_first(self, text: str, pos: int) -> tuple[int, bool]:
        while True:
            match = self._first.search(text, pos)
            end = match.start() if match else len(text) - held(text, pos, (*self._skip, *self._stop))
            before = text[pos:end]
            self._room -= len(before)
            if before.strip() if not self._head else self._room < 0:
                return pos, True
            if match is None:
                return end, False
            if match[0] in self._stop:
                return match.end(), True
            if match[0] in self._skip:
                pos = match.end()
                continue
            rest = text[end : end + 16]
            if len(text) - end < 16 and any(mark.startswith(rest) for mark in self._skip):
                return end, False
            self._depth = 1
            return match.end(), False
