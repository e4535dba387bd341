"""Markdown as a terminal can show it, block by block while the answer comes."""

from __future__ import annotations

import re
from typing import TextIO

from rich.console import Console
from rich.markdown import Markdown

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class MarkdownPrinter:
    """Prints each block when its end has come: what follows may still change how a block looks, never one before it.

    Has the methods of `console.Printer`.
    """

    def __init__(self, out: TextIO, *, columns: int) -> None:
        """`columns` is the width of the text. Colours as rich decides: none without a terminal or with NO_COLOR."""
        self._console = Console(file=out, width=columns, highlight=False)
        self._out = out
        self._block: list[str] = []
        self._rest = ""
        self._fence = ""
        self.ended_line = True

    def write(self, text: str) -> None:
        """Takes the next piece of the answer."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def raw(self, text: str) -> None:
        """Print what takes no room: colours."""
        self._out.write(text)

    def close(self) -> None:
        """Prints what is left, complete or not."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""
        self._flush()

    def _line(self, line: str) -> None:
        if match := _FENCE.match(line):
            mark = match[1]
            if not self._fence:
                self._fence = mark
            elif mark.startswith(self._fence) and not line.strip().strip(mark[0]):
                self._fence = ""
        self._block.append(line)
        if not self._fence and not line.strip():
            self._flush()

    def _flush(self) -> None:
        text = "\n".join(self._block).strip("\n")
        self._block.clear()
        if text.strip():
            self._console.print(Markdown(text))
            self._console.print()
            self._out.flush()
