"""What a person sees while an answer comes: a sign of life, words that are not cut, thoughts set apart."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from vllama.cli.table import width as cells

if TYPE_CHECKING:
    from vllama.cli.markdown import MarkdownPrinter

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_GREY, _PLAIN = "\x1b[90m", "\x1b[0m"
_WORDS = re.compile(r"\n|[^\S\n]+|\S+")


class Spinner:
    """A turning sign and a text on standard error, gone at the first `stop`; nothing if that is no terminal."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to turn after a moment, so that what is quick shows nothing."""
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._turn, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wipes the line. May be called again and again."""
        if self._thread is not None:
            self._done.set()
            self._thread.join()
            self._thread = None

    def _turn(self) -> None:
        if self._done.wait(0.15):
            return
        for frame in itertools.cycle(_FRAMES):
            sys.stderr.write(f"\r{frame} {self._text}")
            sys.stderr.flush()
            if self._done.wait(0.1):
                break
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


@contextmanager
def spinning(text: str) -> Iterator[Spinner]:
    """A spinner that stops at the latest when the block is left."""
    spinner = Spinner(text)
    spinner.start()
    try:
        yield spinner
    finally:
        spinner.stop()


class Printer:
    """Writes an answer piece by piece. On a terminal a word that would be cut at the edge moves to the next line."""

    def __init__(self, out: TextIO, *, columns: int = 0) -> None:
        """`columns` is the terminal's width, 0 for no wrapping."""
        self._out = out
        self._columns = columns
        self._column = 0
        self._word = ""
        self.ended_line = True

    def write(self, text: str) -> None:
        """Print a piece and flush it, so that a reader gets each token when it comes."""
        if not text:
            return
        self._out.write(self._wrapped(text) if self._columns else text)
        self._out.flush()
        self.ended_line = text.endswith("\n")

    def raw(self, text: str) -> None:
        """Print what takes no room: colours."""
        self._out.write(text)

    def close(self) -> None:
        """Ends the line."""
        if not self.ended_line:
            self.write("\n")

    def _wrapped(self, text: str) -> str:
        out = []
        for part in _WORDS.findall(text):
            if part == "\n":
                self._column, self._word = 0, ""
                out.append(part)
            elif part.isspace():
                self._word = ""
                self._column += cells(part)
                out.append(part)
            else:
                out.append(self._placed(part))
        return "".join(out)

    def _placed(self, part: str) -> str:
        """A word or the next part of one; if it does not fit, what was printed of the word is wiped and moved down."""
        printed = cells(self._word)
        self._word += part
        self._column += cells(part)
        whole = cells(self._word)
        if self._column <= self._columns or whole > self._columns:
            return part
        self._column = whole
        back = f"\x1b[{printed}D\x1b[K" if printed else ""
        return f"{back}\n{self._word}"


class AnswerView:
    """Shows the pieces of one answer: thoughts first (grey on a terminal, or hidden), then content.

    With `markdown` the content is laid out, on a terminal only: what is piped on stays as the model wrote it.
    """

    def __init__(self, *, word_wrap: bool, hide_thinking: bool, markdown: bool = False) -> None:
        self.terminal = sys.stdout.isatty()
        self._coloured = self.terminal and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size().columns - 1
        self._printer = Printer(sys.stdout, columns=width if self.terminal and word_wrap else 0)
        self._content: Printer | MarkdownPrinter = self._printer
        if markdown and self.terminal:
            from vllama.cli.markdown import MarkdownPrinter

            self._content = MarkdownPrinter(sys.stdout, columns=width)
        self._hide = hide_thinking
        self._thinking = False
        self._any = False

    def show(self, thinking: str, content: str, tool_calls: Any = None) -> None:
        """One piece of the stream."""
        if thinking and not self._hide:
            if not self._thinking:
                self._thinking = True
                self._printer.write("Thinking...\n")
                self._colour(_GREY)
            self._printer.write(thinking)
            self._any = True
        if content:
            self._end_thinking()
            self._content.write(content)
            self._any = True
        for call in tool_calls or ():
            self._end_thinking()
            self._content.close()
            function = call.get("function", {})
            self._printer.write(f"{function.get('name')}({function.get('arguments')})\n")
            self._any = True

    def end(self) -> None:
        """Finish the line; a blank one below it on a terminal."""
        self._end_thinking()
        if self._any:
            self._content.close()
        if self.terminal and self._content is self._printer:  # a laid-out block has its blank line already
            self._printer.write("\n")

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            self._colour(_PLAIN)
            self._printer.write("" if self._printer.ended_line else "\n")
            self._printer.write("...done thinking.\n\n")

    def _colour(self, code: str) -> None:
        if self._coloured:
            self._printer.raw(code)
