"""Cuts a template's text into tokens, by the rules of Go's text/template (trim markers included).

The whole text is cut at once. A text that cannot be cut ends in one ERROR token with Go's words;
what the parser says first wins, as in Go, since it reads the tokens in order.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from vllama.prompts.gotemplate.quoting import quote

LEFT, RIGHT = "{{", "}}"
SPACES = " \t\r\n"


class Kind(Enum):
    """What a token is. KEYWORDs carry their word as the text."""

    ERROR = auto()
    BOOL = auto()
    CHAR = auto()
    CHAR_CONSTANT = auto()
    COMPLEX = auto()
    ASSIGN = auto()
    DECLARE = auto()
    EOF = auto()
    FIELD = auto()
    IDENTIFIER = auto()
    LEFT_DELIM = auto()
    LEFT_PAREN = auto()
    NUMBER = auto()
    PIPE = auto()
    RAW_STRING = auto()
    RIGHT_DELIM = auto()
    RIGHT_PAREN = auto()
    SPACE = auto()
    STRING = auto()
    TEXT = auto()
    VARIABLE = auto()
    DOT = auto()
    NIL = auto()
    KEYWORD = auto()


KEYWORDS = frozenset({"block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"})


class Token(NamedTuple):
    """A piece of the text. `pos` counts characters from 0."""

    kind: Kind
    pos: int
    text: str

    def __str__(self) -> str:
        """As it stands in Go's error messages."""
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind in (Kind.KEYWORD, Kind.DOT, Kind.NIL):
            return f"<{self.text}>"
        if len(self.text.encode(errors="replace")) > 10:
            return quote(self.text[:10]) + "..."
        return quote(self.text)


def is_word(char: str) -> bool:
    """True for what Go accepts in names: letters, decimal digits and the underscore."""
    return char == "_" or char.isalpha() or char.isdecimal()


class Lexer:
    """`Lexer(text).tokens()` is the list of all tokens; the last one is EOF or ERROR."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = len(text)
        self._pos = 0
        self._start = 0
        self._depth = 0
        self._tokens: list[Token] = []

    def tokens(self) -> list[Token]:
        inside = False
        while not (self._tokens and self._tokens[-1].kind in (Kind.EOF, Kind.ERROR)):
            inside = self._action() if inside else self._plain()
        return self._tokens

    # Emitting

    def _emit(self, kind: Kind) -> None:
        self._tokens.append(Token(kind, self._start, self._text[self._start : self._pos]))
        self._start = self._pos

    def _fail(self, message: str) -> None:
        self._tokens.append(Token(Kind.ERROR, self._start, message))

    def _peek(self) -> str:
        return self._text[self._pos : self._pos + 1]

    # Outside of actions

    def _plain(self) -> bool:
        """Reads up to the next action; returns whether one has begun."""
        text = self._text
        found = text.find(LEFT, self._pos)
        if found < 0:
            self._pos = self._end
            if self._start < self._end:
                self._emit(Kind.TEXT)
            self._emit(Kind.EOF)
            return False
        after = found + len(LEFT)
        trims = self._at_left_marker(after)
        self._pos = found
        if trims:
            while self._pos > self._start and text[self._pos - 1] in SPACES:
                self._pos -= 1
        if self._pos > self._start:
            self._emit(Kind.TEXT)
        self._start = found
        self._pos = after
        content = after + 2 if trims else after
        if text.startswith("/*", content):
            self._start = self._pos = content
            self._comment()
            return False
        self._emit(Kind.LEFT_DELIM)
        self._start = self._pos = content
        self._depth = 0
        return True

    def _at_left_marker(self, pos: int) -> bool:
        return self._text.startswith("-", pos) and self._text[pos + 1 : pos + 2] in tuple(SPACES)

    def _comment(self) -> None:
        close = self._text.find("*/", self._pos + 2)
        if close < 0:
            self._fail("unclosed comment")
            return
        self._pos = close + 2
        width = self._right_delim_width()
        if not width:
            self._fail("comment ends before closing delimiter")
            return
        self._pos += width
        self._leave(trims=width == 4)

    # Inside actions

    def _right_delim_width(self) -> int:
        """The length of the right delimiter here, 4 with a trim marker, 0 if there is none."""
        text, pos = self._text, self._pos
        if text.startswith(RIGHT, pos):
            return 2
        if text[pos : pos + 1] in tuple(SPACES) and text.startswith("-" + RIGHT, pos + 1):
            return 4
        return 0

    def _leave(self, *, trims: bool) -> None:
        if trims:
            while self._pos < self._end and self._text[self._pos] in SPACES:
                self._pos += 1
        self._start = self._pos

    def _action(self) -> bool:
        """Reads one token of an action; returns whether the action goes on."""
        width = self._right_delim_width()
        if width:
            if self._depth:
                self._fail("unclosed left paren")
                return True
            self._start = self._pos + width - 2
            self._pos += width
            self._emit(Kind.RIGHT_DELIM)
            self._leave(trims=width == 4)
            return False
        char = self._peek()
        if not char:
            self._fail("unclosed action")
        elif char in SPACES:
            self._space()
        elif is_word(char) and not char.isdecimal():
            self._word()
        elif char == ".":
            self._dot()
        elif char in "+-" or "0" <= char <= "9":
            self._number()
        elif char == "$":
            self._pos += 1
            self._name(Kind.VARIABLE, Kind.VARIABLE)
        elif is_word(char):
            self._word()
        else:
            self._mark(char)
        return True

    def _mark(self, char: str) -> None:
        self._pos += 1
        match char:
            case "=":
                self._emit(Kind.ASSIGN)
            case ":":
                if self._peek() == "=":
                    self._pos += 1
                    self._emit(Kind.DECLARE)
                else:
                    self._fail("expected :=")
            case "|":
                self._emit(Kind.PIPE)
            case '"':
                self._quoted('"', Kind.STRING, "unterminated quoted string")
            case "'":
                self._quoted("'", Kind.CHAR_CONSTANT, "unterminated character constant")
            case "`":
                close = self._text.find("`", self._pos)
                if close < 0:
                    self._fail("unterminated raw quoted string")
                else:
                    self._pos = close + 1
                    self._emit(Kind.RAW_STRING)
            case "(":
                self._depth += 1
                self._emit(Kind.LEFT_PAREN)
            case ")":
                self._depth -= 1
                if self._depth < 0:
                    self._fail("unexpected right paren")
                else:
                    self._emit(Kind.RIGHT_PAREN)
            case _ if " " <= char <= "~":
                self._emit(Kind.CHAR)
            case _:
                self._fail(f"unrecognized character in action: {code_point(char)}")

    def _space(self) -> None:
        # The last blank may belong to a trim marker (" -}}"); it is left for the delimiter.
        while self._peek() and self._peek() in SPACES:
            if self._right_delim_width():
                break
            self._pos += 1
        self._emit(Kind.SPACE)

    def _at_terminator(self) -> bool:
        char = self._peek()
        return char == "" or char in SPACES or char in ".,|:)(" or self._text.startswith(RIGHT, self._pos)

    def _bad_character(self) -> None:
        self._fail(f"bad character {code_point(self._peek())}")

    def _skip_word(self) -> None:
        while self._pos < self._end and is_word(self._text[self._pos]):
            self._pos += 1

    def _word(self) -> None:
        self._skip_word()
        if not self._at_terminator():
            self._bad_character()
            return
        word = self._text[self._start : self._pos]
        if word in KEYWORDS:
            self._emit(Kind.KEYWORD)
        elif word == "nil":
            self._emit(Kind.NIL)
        elif word in ("true", "false"):
            self._emit(Kind.BOOL)
        else:
            self._emit(Kind.IDENTIFIER)

    def _dot(self) -> None:
        following = self._text[self._pos + 1 : self._pos + 2]
        if "0" <= following <= "9" or not following:
            self._number()
        else:
            self._pos += 1
            self._name(Kind.FIELD, Kind.DOT)

    def _name(self, kind: Kind, bare: Kind) -> None:
        """A field or variable, whose `.` or `$` is already read; `bare` if nothing follows that."""
        if self._at_terminator():
            self._emit(bare)
            return
        self._skip_word()
        if self._at_terminator():
            self._emit(kind)
        else:
            self._bad_character()

    def _quoted(self, mark: str, kind: Kind, message: str) -> None:
        text = self._text
        while True:
            char = text[self._pos : self._pos + 1]
            if char == "\\":
                self._pos += 1
                char = text[self._pos : self._pos + 1]
                if char not in ("", "\n"):
                    self._pos += 1
                    continue
            if char in ("", "\n"):
                self._fail(message)
                return
            self._pos += 1
            if char == mark:
                self._emit(kind)
                return

    def _number(self) -> None:
        good = self._scan_number()
        kind = Kind.NUMBER
        if good and self._peek() in ("+", "-"):
            kind = Kind.COMPLEX
            good = self._scan_number() and self._text[self._pos - 1] == "i"
        if good:
            self._emit(kind)
        else:
            self._fail(f"bad number syntax: {quote(self._text[self._start : self._pos])}")

    def _accept(self, chars: str) -> bool:
        char = self._peek()
        if char and char in chars:
            self._pos += 1
            return True
        return False

    def _scan_number(self) -> bool:
        # Generous on purpose: the parser finds out what is not a number after all.
        self._accept("+-")
        digits, exponent = "0123456789_", "eE"
        if self._accept("0"):
            if self._accept("xX"):
                digits, exponent = "0123456789abcdefABCDEF_", "pP"
            elif self._accept("oO"):
                digits, exponent = "01234567_", ""
            elif self._accept("bB"):
                digits, exponent = "01_", ""
        self._run(digits)
        if self._accept("."):
            self._run(digits)
        if exponent and self._accept(exponent):
            self._accept("+-")
            self._run("0123456789_")
        self._accept("i")
        if self._peek() and is_word(self._peek()):
            self._pos += 1
            return False
        return True

    def _run(self, chars: str) -> None:
        while self._accept(chars):
            pass


def code_point(char: str) -> str:
    """Go's %#U: the number of a character, and the character itself where it can be printed."""
    return f"U+{ord(char):04X} '{char}'" if char.isprintable() else f"U+{ord(char):04X}"
