"""Regular expressions as GBNF: those of JSON schemas (`pattern`) for the inside of a JSON string, others for a text.

The part of ECMAScript's syntax that schemas use: literals, `.`, classes, \\d \\w \\s and their opposites, groups,
alternatives, greedy and lazy quantifiers, and ^ and $ at the ends. No look-around, back-references, word boundaries
or properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllama.prompts import charsets
from vllama.prompts.ambiguity import Choice, Letter, Part, Repeat, Row, TooAmbiguous, check
from vllama.prompts.charsets import EVERYTHING, Ranges, union, without
from vllama.prompts.deterministic import State, states
from vllama.prompts.gbnf import class_member, literal

MAX_REPEAT = 2000
MAX_COST = 20_000
MAX_DEPTH = 50

_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": r" \xA0"}
_SETS: dict[str, Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": charsets.of(" \xa0\t\n\f\r"),
}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "b": "\b"}
_SPECIAL = set("^$\\.*+?()[]{}|")
# What may not stand in a JSON string as it is (U+007F may, but models are kept from it).
_NEVER = r"\"\\\x00-\x1F\x7F"
_ESCAPED = (*range(0x20), 0x22, 0x5C, 0x7F)
_SPACES = "\t\n\f\r"
_ANY = rf'([^{_NEVER}] | "\\" ["\\/])'


class PatternError(ValueError):
    """The pattern is wrong, or is beyond what this converter does; the text says what."""


@dataclass(frozen=True, slots=True)
class PatternGrammar:
    """GBNF: an expression, the rules that it refers to beside `char`, and its cost in elements."""

    body: str
    rules: Mapping[str, str]
    cost: int


def pattern_grammar(pattern: str, prefix: str = "pattern") -> PatternGrammar:
    """GBNF for the text between the quotes of a JSON string that the pattern matches; its rules begin with `prefix`.

    As in JSON Schema, a pattern without ^ or $ matches anywhere. Raises `PatternError`.
    """
    return _Pattern(pattern).convert(prefix)


def text_grammar(pattern: str) -> str:
    """A whole GBNF grammar for texts that the pattern matches from beginning to end. Raises `PatternError`."""
    grammar = _TextPattern(pattern).alone()
    return "\n".join([f"root ::= {grammar.body}", *(f"{name} ::= {body}" for name, body in grammar.rules.items())])


class _Pattern:
    """In a JSON string: some characters are written as escapes, and some never come."""

    never = _NEVER
    anything = _ANY
    blank = r'([ \xA0] | "\\" [tnfr])'
    blanks = _CLASSES["s"]
    blanks_apart = _SPACES
    """Blanks that are no member of a class."""
    anything_read = without(EVERYTHING, ((0, 0x1F), (0x7F, 0x7F)))
    never_read = charsets.of("".join(map(chr, _ESCAPED)))

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._end = len(text)
        self._depth = 0
        self._branches = 1
        self._loops = False

    def convert(self, prefix: str) -> PatternGrammar:
        text, cost, begins, ends, part = self._whole()
        if not self._needs_rewriting(part, begins, ends):
            body = ("" if begins else "char* ") + f"({text})" + ("" if ends else " char*")
            return PatternGrammar(body, {}, cost)
        anything = Repeat(Letter("", EVERYTHING), 0, None)
        return self._rewritten(Row((*(() if begins else (anything,)), part, *(() if ends else (anything,)))), prefix)

    def alone(self) -> PatternGrammar:
        """Without what may stand before and behind it."""
        text, cost, begins, ends, part = self._whole()
        if not self._needs_rewriting(part, begins, ends):
            return PatternGrammar(text, {}, cost)
        return self._rewritten(part, "state")

    def _whole(self) -> tuple[str, int, bool, bool, Part]:
        """(GBNF, cost, whether there is a ^, whether there is a $, the same for `ambiguity`)"""
        begins = self._text.startswith("^")
        body = self._text[:-1]
        ends = self._text.endswith("$") and (len(body) - len(body.rstrip("\\"))) % 2 == 0
        self._at = int(begins)
        self._end = len(self._text) - int(ends)
        text, cost, _, part = self._alternatives()
        if self._at < self._end:
            raise PatternError("a ) without its (")
        if (begins or ends) and self._branches > 1:
            # An anchor belongs to its alternative only.
            raise PatternError("^ or $ beside alternatives without a group")
        return text, cost, begins, ends, part

    def _needs_rewriting(self, part: Part, begins: bool, ends: bool) -> bool:
        """Whether engines could not follow the pattern as it stands."""
        anything = Repeat(Letter(".", self.anything_read), 0, None)
        try:
            check(Row((*(() if begins else (anything,)), part, *(() if ends else (anything,)))))
        except TooAmbiguous:
            return True
        return self._loops

    def _rewritten(self, part: Part, prefix: str) -> PatternGrammar:
        """The same texts, each in one way: a rule for each state of an automaton."""
        try:
            found = states(part)
        except TooAmbiguous:
            raise PatternError("there are too many ways to read the same text") from None
        rules = {f"{prefix}-{number}": self._rule(state, prefix) for number, state in enumerate(found)}
        return PatternGrammar(f"{prefix}-0", rules, sum(len(state.edges) + 1 for state in found))

    def _rule(self, state: State, prefix: str) -> str:
        options = [f"{self._one_of(ranges)} {prefix}-{target}" for ranges, target in state.edges]
        return " | ".join([*options, '""'] if state.ends else options)

    def _one_of(self, ranges: Ranges) -> str:
        quoted: set[str] = set()
        members = [member for low, high in ranges for member in self._ranges(chr(low), chr(high), quoted)]
        return self._options(members, quoted)

    def _options(self, members: Sequence[str], quoted: set[str]) -> str:
        options = ["[" + "".join(members) + "]"] if members else []
        options += [self._character(char) for char in sorted(quoted)]
        if not options:
            raise PatternError("an empty class")
        return options[0] if len(options) == 1 else "(" + " | ".join(options) + ")"

    def _character(self, char: str) -> str:
        return _character(char)

    def _ranges(self, first: str, last: str, quoted: set[str]) -> list[str]:
        return _ranges(first, last, quoted)

    def _peek(self) -> str:
        return self._text[self._at] if self._at < self._end else ""

    def _next(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("it ends too early")
        self._at += 1
        return char

    def _alternatives(self) -> tuple[str, int, bool, Part]:
        """(GBNF, cost, whether it can match nothing, the same for `ambiguity`)"""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("groups are nested too deeply")
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._depth -= 1
        if self._depth == 0:
            self._branches = len(branches)
        texts, costs, empties, parts = zip(*branches, strict=True)
        return " | ".join(texts), sum(costs), any(empties), Choice(parts)

    def _sequence(self) -> tuple[str, int, bool, Part]:
        parts: list[str] = []
        row: list[Part] = []
        cost = 0
        empty = True
        while self._peek() not in ("", "|", ")"):
            atom, weight, blank, part = self._atom()
            suffix, times, least = self._quantifier()
            # Engines take a repetition of what can be empty for a rule that begins with itself.
            self._loops = self._loops or (blank and suffix not in ("", "?"))
            parts.append(atom + suffix)
            most = None if suffix[:1] in ("*", "+") or suffix.endswith(",}") else times
            row.append(Repeat(part, least, most) if suffix else part)
            cost += weight * times
            empty = empty and (blank or least == 0)
            if cost > MAX_COST:
                raise PatternError("it repeats too much")
        return " ".join(parts) or '""', cost, empty, Row(tuple(row))

    def _quantifier(self) -> tuple[str, int, int]:
        """(GBNF, times that it is unrolled, lowest count)"""
        char = self._peek()
        if char and char in "*+?":
            self._at += 1
            suffix, times, least = char, 1, int(char == "+")
        elif char == "{":
            suffix, times, least = self._braces()
        else:
            return "", 1, 1
        if self._peek() == "?":
            self._at += 1
        if self._peek() and self._peek() in "*+{":
            raise PatternError("one quantifier after another")
        return suffix, times, least

    def _braces(self) -> tuple[str, int, int]:
        end = self._text.find("}", self._at, self._end)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not low.isdecimal() or (high and not high.isdecimal()) or len(low) > 9 or len(high) > 9:
            raise PatternError("a { that is no quantifier")
        self._at = end + 1
        most = int(high) if high else int(low)
        if most < int(low):
            raise PatternError("a quantifier with its bounds the wrong way round")
        if most > MAX_REPEAT:
            raise PatternError(f"more than {MAX_REPEAT} repetitions")
        return f"{{{int(low)}{',' if comma else ''}{int(high) if high else ''}}}", max(most, 1), int(low)

    def _atom(self) -> tuple[str, int, bool, Part]:
        if self._peek() == "(":
            self._at += 1
            return self._group()
        start = self._at
        text, reads = self._letter()
        return text, 1, False, Letter(self._text[start : self._at], reads)

    def _letter(self) -> tuple[str, Ranges]:
        """(GBNF, what it reads)"""
        char = self._next()
        if char == "[":
            return self._class()
        if char == ".":
            return self.anything, self.anything_read
        if char == "\\":
            return self._escape()
        if char in _SPECIAL:
            raise PatternError(f"{char} at a place where it cannot be used")
        return self._character(char), charsets.of(char)

    def _group(self) -> tuple[str, int, bool, Part]:
        if self._peek() == "?":
            self._at += 1
            if self._next() != ":":
                raise PatternError("look-around and named groups")
        text, cost, empty, part = self._alternatives()
        if self._next() != ")":
            raise PatternError("a ( that is not closed")
        return f"({text})", cost, empty, part

    def _escape(self) -> tuple[str, Ranges]:
        char = self._next()
        if char.lower() in _CLASSES:
            others = without(EVERYTHING, union(_SETS[char.lower()], self.never_read))
            if char == "s":
                return self.blank, _SETS["s"]
            if char == "S":
                return f"[^{self.blanks}{self.never}]", others
            if char in _CLASSES:
                return f"[{_CLASSES[char]}]", _SETS[char]
            return f"[^{_CLASSES[char.lower()]}{self.never}]", others
        char = self._escaped(char)
        return self._character(char), charsets.of(char)

    def _escaped(self, char: str) -> str:
        """The one character that an escape stands for."""
        if char in _CONTROLS and char != "b":
            return _CONTROLS[char]
        if char in ("x", "u"):
            digits = self._text[self._at : self._at + (2 if char == "x" else 4)]
            try:
                code = int(digits, 16)
            except ValueError:
                raise PatternError(f"\\{char} without digits") from None
            if 0xD800 <= code < 0xE000 or len(digits) != (2 if char == "x" else 4):
                raise PatternError(f"\\{char}{digits}")
            self._at += len(digits)
            return chr(code)
        if char.isalnum():
            raise PatternError(f"\\{char}")
        return char

    def _class(self) -> tuple[str, Ranges]:
        negated = self._peek() == "^"
        self._at += int(negated)
        members: list[str] = []
        quoted: set[str] = set()
        reads: list[Ranges] = []
        while (char := self._next()) != "]":
            if char == "\\" and self._peek() in _CLASSES:
                name = self._next()
                members.append(self.blanks if name == "s" else _CLASSES[name])
                quoted.update(self.blanks_apart if name == "s" else "")
                reads.append(_SETS[name])
                continue
            first = self._member(char)
            last = first
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._member(self._next())
                if last < first:
                    raise PatternError(f"the range {first}-{last}")
            members += self._ranges(first, last, quoted)
            reads.append(((ord(first), ord(last)),))
        if negated:
            excluded = union(*reads, self.never_read)
            return "[^" + "".join(members) + self.never + "]", without(EVERYTHING, excluded)
        return self._options(members, quoted), union(*reads)

    def _member(self, char: str) -> str:
        if char != "\\":
            return char
        escape = self._next()
        return "\b" if escape == "b" else self._escaped(escape)


class _TextPattern(_Pattern):
    """In a text that stands for itself."""

    never = ""
    never_read = ()
    anything = r"[^\n]"
    anything_read = without(EVERYTHING, charsets.of("\n"))
    blank = r"[ \xA0\t\n\r\x0C]"
    blanks = r" \xA0\t\n\r\x0C"
    blanks_apart = ""

    def _character(self, char: str) -> str:
        return literal(char)

    def _ranges(self, first: str, last: str, quoted: set[str]) -> list[str]:
        return [_range(ord(first), ord(last))]


def _ranges(first: str, last: str, quoted: set[str]) -> list[str]:
    """The class members for a range, without what JSON must escape: that goes to `quoted`."""
    members = []
    low, high = ord(first), ord(last)
    for special in _ESCAPED:
        if low <= special <= high:
            quoted.add(chr(special))
            if low < special:
                members.append(_range(low, special - 1))
            low = special + 1
    if low <= high:
        members.append(_range(low, high))
    return members


def _range(low: int, high: int) -> str:
    first = class_member(chr(low))
    return first if low == high else f"{first}-{class_member(chr(high))}"


def _character(char: str) -> str:
    """One character of the string's value, as JSON writes it."""
    if char in '"\\':
        return literal("\\" + char)
    short = next((letter for letter, control in _CONTROLS.items() if control == char), None)
    if short is not None:
        return literal("\\" + short)
    return literal(f"\\u{ord(char):04x}") if ord(char) < 0x20 or ord(char) == 0x7F else literal(char)
