"""JSON bodies as Go's encoding/json reads them into typed structs, with its error texts.

Ollama's clients depend on that behaviour: keys match without regard to case, unknown fields and data after the
first value are ignored, null leaves a field unset, the last of two equal keys wins (objects merge), and an
error names the place. The types of a body are declared in `vllama.api.schemas`.

`decode` has two ways to the same result. The fast one lets orjson parse and walks the value; whatever is
unusual (an error, a key in another case, a repeated key, data behind the value) makes it give up, and the slow
one starts over with the exact scanner below.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from vllama.api.godecoder import Array, DecodeError, Decoder, GoType, Node, Number, Object, Odd, fold
from vllama.api.gotypes import Struct
from vllama.errors import BodyError
from vllama.goquote import quote

NATIVE_EMPTY = "missing request body"
"""What Ollama's own routes say to an empty body; the /v1 routes say `EOF`."""

MAX_DEPTH = 10_000

_CUT_TEXT = "unexpected end of JSON input"

_SPACE = re.compile(rb"[ \t\r\n]*+")
# Python before 3.11.3 matches a possessive group that fails halfway wrongly: only the class inside may be possessive.
_STRING_BODY = rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*'
_STRING = re.compile(b'"' + _STRING_BODY + b'"')
_STRING_PREFIX = re.compile(b'"' + _STRING_BODY)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_LITERALS = {ord("t"): (b"true", True), ord("f"): (b"false", False), ord("n"): (b"null", None)}
_ESCAPES = frozenset(b'"\\/bfnrt')
_HEX = frozenset(b"0123456789abcdefABCDEF")


def decode(body: bytes, schema: Struct, *, empty: str = NATIVE_EMPTY) -> dict[str, Any]:
    """The fields of `schema` that the body sets, by their JSON names. Raises BodyError with Go's text.

    A pure function: call it off the event loop for bodies above a megabyte or so.
    """
    try:
        value = orjson.loads(body)
        # orjson keeps only the last of equal keys; a lost key shows as a missing pair of quotes, unless an
        # escaped quote is spelled in hex.
        if b"\\u0022" not in body and orjson.dumps(value).count(b'"') == body.count(b'"'):
            return schema.fast(value)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, Odd):
        pass
    return decode_exact(body, schema, empty=empty)


def decode_exact(body: bytes, schema: Struct, *, empty: str = NATIVE_EMPTY) -> dict[str, Any]:
    """The slow way alone; agrees with `decode` on every body."""
    try:
        node = Scanner(body, empty).scan()
        value: dict[str, Any] | None = Decoder().run(schema, node)
    except DecodeError as error:
        raise BodyError(error.text) from None
    except RecursionError:
        # Go allows 10,000 levels; no honest request has a thousand.
        raise BodyError("exceeded max depth") from None
    return value or {}


def decode_text(text: str, go_type: GoType) -> Any:
    """The whole of `text` as one value, as json.Unmarshal reads it. Raises BodyError with Go's text."""
    body = text.encode()
    scanner = Scanner(body, _CUT_TEXT)
    try:
        node = scanner.scan()
        scanner.expect_end()
        return Decoder().run(go_type, node)
    except DecodeError as error:
        # A stream may still go on, which is what the scanner's text is about; a text has ended.
        raise BodyError(_CUT_TEXT if error.text == "unexpected EOF" else error.text) from None
    except RecursionError:
        raise BodyError("exceeded max depth") from None


def raw_member(body: bytes, name: str) -> str:
    """The text of the top-level member `name` (lower case) as it stands in the body, "" if there is none."""
    scanner = Scanner(body, NATIVE_EMPTY)
    scanner.scan()
    found = ""
    for key, start, end in scanner.members:
        if fold(key) == name:
            found = body[start:end].decode("utf-8", "vllama-go")
    return found


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    # Go replaces every bad byte; Python's "replace" makes one U+FFFD of a whole cut sequence.
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("vllama-go", _replace_each_byte)


@dataclass(slots=True)
class _Open:
    """A container whose end was not seen yet; `key` is the member being read, None in an array."""

    node: Object | Array
    key: str | None = None
    start: int = 0


class Scanner:
    """One pass over a body, without recursion. Errors are Go's: what stood where, and what was expected."""

    def __init__(self, body: bytes, empty: str) -> None:
        self.body = body
        self.pos = 0
        self.empty = empty
        self.members: list[tuple[str, int, int]] = []

    def scan(self) -> Node:
        """The first value of the body. Raises DecodeError."""
        self._skip_space()
        if self.pos >= len(self.body):
            raise DecodeError(self.empty)
        stack: list[_Open] = []
        while True:
            start = self.pos
            value, opened = self._begin_value()
            if opened is not None:
                if stack and stack[-1].key is not None:
                    stack[-1].start = start
                stack.append(_Open(opened))
                if len(stack) > MAX_DEPTH:
                    raise DecodeError("exceeded max depth")
                closed = self._begin_container(stack[-1])
                if not closed:
                    continue
                value = stack.pop().node
            elif stack:
                stack[-1].start = start
            while stack:
                if not self._end_element(stack[-1], value, len(stack)):
                    break
                value = stack.pop().node
            if not stack:
                return value

    def expect_end(self) -> None:
        """Raise DecodeError if more than blanks follow the value."""
        self._skip_space()
        if self.pos < len(self.body):
            raise self._unexpected("after top-level value")

    def _begin_value(self) -> tuple[Node, Object | Array | None]:
        c = self._peek()
        if c == 0x22:
            return self._string(), None
        if c == 0x7B:
            self.pos += 1
            return None, Object()
        if c == 0x5B:
            self.pos += 1
            return None, Array()
        if c == 0x2D or 0x30 <= c <= 0x39:
            return self._number(), None
        if c in _LITERALS:
            return self._literal(*_LITERALS[c]), None
        raise self._unexpected("looking for beginning of value")

    def _begin_container(self, top: _Open) -> bool:
        self._skip_space()
        c = self._peek()
        if isinstance(top.node, Array):
            if c == 0x5D:
                self.pos += 1
                return True
            return False
        if c == 0x7D:
            self.pos += 1
            return True
        self._key(top)
        return False

    def _end_element(self, top: _Open, value: Node, depth: int) -> bool:
        """Take a finished value into its container; true when the container ends with it."""
        end = self.pos
        if isinstance(top.node, Array):
            top.node.append(value)
        elif top.key is not None:
            top.node.append((top.key, value))
            if depth == 1:
                self.members.append((top.key, top.start, end))
        self._skip_space()
        c = self._peek()
        if isinstance(top.node, Array):
            if c == 0x5D:
                self.pos += 1
                return True
            if c != 0x2C:
                raise self._unexpected("after array element")
            self.pos += 1
            self._skip_space()
            return False
        if c == 0x7D:
            self.pos += 1
            return True
        if c != 0x2C:
            raise self._unexpected("after object key:value pair")
        self.pos += 1
        self._skip_space()
        self._peek()
        self._key(top)
        return False

    def _key(self, top: _Open) -> None:
        if self._peek() != 0x22:
            raise self._unexpected("looking for beginning of object key string")
        top.key = self._string()
        self._skip_space()
        if self._peek() != 0x3A:
            raise self._unexpected("after object key")
        self.pos += 1
        self._skip_space()

    def _string(self) -> str:
        match = _STRING.match(self.body, self.pos)
        if match is None:
            raise self._bad_string()
        self.pos = match.end()
        raw = self.body[match.start() + 1 : match.end() - 1]
        text = raw.decode("utf-8", "vllama-go")
        if "\\" in text:
            text = str(json.loads(f'"{text}"'))
            text = _LONE_SURROGATE.sub("\ufffd", text)
        return text

    def _bad_string(self) -> DecodeError:
        match = _STRING_PREFIX.match(self.body, self.pos)
        self.pos = match.end() if match else self.pos
        if self._peek() != 0x5C:
            return self._unexpected("in string literal")
        self.pos += 1
        if self._peek() != 0x75:
            return self._unexpected("in string escape code")
        self.pos += 1
        while self._peek() in _HEX:
            self.pos += 1
        return self._unexpected("in \\u hexadecimal character escape")

    def _number(self) -> Number:
        match = _NUMBER.match(self.body, self.pos)
        if match is None:
            self.pos += 1
            self._peek()
            raise self._unexpected("in numeric literal")
        self.pos = match.end()
        text = match.group().decode("ascii")
        follower = self.body[self.pos : self.pos + 1]
        if follower == b"." and not ("." in text or "e" in text or "E" in text):
            self.pos += 1
            self._peek()
            raise self._unexpected("after decimal point in numeric literal")
        if follower in (b"e", b"E") and not ("e" in text or "E" in text):
            self.pos += 1
            if self._peek() in b"+-":
                self.pos += 1
                self._peek()
            raise self._unexpected("in exponent of numeric literal")
        return Number(text)

    def _literal(self, word: bytes, value: bool | None) -> bool | None:
        for expected in word:
            if self._peek() != expected:
                raise self._unexpected(f"in literal {word.decode()} (expecting '{chr(expected)}')")
            self.pos += 1
        return value

    def _skip_space(self) -> None:
        match = _SPACE.match(self.body, self.pos)
        if match is not None:
            self.pos = match.end()

    def _peek(self) -> int:
        if self.pos >= len(self.body):
            raise DecodeError("unexpected EOF")
        return self.body[self.pos]

    def _unexpected(self, context: str) -> DecodeError:
        return DecodeError(f"invalid character {_quote_byte(self._peek())} {context}")


def _quote_byte(byte: int) -> str:
    # Go takes the byte for a code point, so the first byte of a BOM prints as ï.
    if byte == 0x27:
        return "'\\''"
    if byte == 0x22:
        return "'\"'"
    return f"'{quote(chr(byte))[1:-1]}'"
