"""Go's string constants: what strconv.Quote writes and strconv.Unquote reads.

A Go string is bytes. Here it is a `str` in which a byte that is not UTF-8 stands as a lone
surrogate (Python's "surrogateescape"), so that slices through a character come back whole.
"""

from __future__ import annotations

import re

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_SHORT = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\"}
_WIDTHS = {"x": 2, "u": 4, "U": 8}


def to_bytes(text: str) -> bytes:
    """The bytes of a Go string; U+FFFD for surrogates that stand for no byte."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _NO_BYTE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """The Go string of some bytes."""
    return data.decode("utf-8", "surrogateescape")


def clean(text: str) -> str:
    """The text with U+FFFD for bytes that are not UTF-8: such as may leave this package."""
    return text if text.isascii() else to_bytes(text).decode("utf-8", "replace")


def quote(text: str, mark: str = '"', *, ascii_only: bool = False) -> str:
    """The text as a Go constant (strconv.Quote; `mark` "'" for characters; `ascii_only` = QuoteToASCII)."""
    parts = [mark]
    for char in text:
        code = ord(char)
        if char == mark:
            parts.append("\\" + mark)
        elif code in _SHORT:
            parts.append(_SHORT[code])
        elif 0xDC80 <= code <= 0xDCFF:
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable() and (code < 0x80 or not ascii_only):
            parts.append(char)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    parts.append(mark)
    return "".join(parts)


def _escape(body: str, pos: int, mark: str) -> tuple[int, bool, int]:
    """Reads the escape whose backslash is before `pos`: its value, whether it is one byte, what follows.

    Raises ValueError where there is no such escape.
    """
    letter = body[pos : pos + 1]
    pos += 1
    if letter in _ESCAPES:
        return _ESCAPES[letter], False, pos
    if letter == mark and mark in "\"'":
        return ord(mark), False, pos
    if letter in _WIDTHS:
        digits = body[pos : pos + _WIDTHS[letter]]
        if len(digits) < _WIDTHS[letter] or not all(c in "0123456789abcdefABCDEF" for c in digits):
            raise ValueError("invalid syntax")
        value = int(digits, 16)
        if letter != "x" and (value > 0x10FFFF or 0xD800 <= value < 0xE000):
            raise ValueError("invalid syntax")
        return value, letter == "x", pos + len(digits)
    digits = body[pos - 1 : pos + 2]
    if len(digits) == 3 and all(c in "01234567" for c in digits) and int(digits, 8) < 256:
        return int(digits, 8), True, pos + 2
    raise ValueError("invalid syntax")


def unquote(quoted: str) -> str:
    """The value of a string constant in double or back quotes; ValueError("invalid syntax") otherwise."""
    body = quoted[1:-1]
    if quoted[0] == "`":
        return body.replace("\r", "")
    if "\\" not in body:
        return body
    data = bytearray()
    pos = 0
    while pos < len(body):
        if body[pos] != "\\":
            data += body[pos].encode("utf-8", "surrogatepass")
            pos += 1
            continue
        value, is_byte, pos = _escape(body, pos + 1, '"')
        if is_byte:
            data.append(value)
        else:
            data += chr(value).encode()
    return from_bytes(bytes(data))


def unquote_char(quoted: str) -> int:
    """The number of a character constant; ValueError with Go's text if it holds none or several."""
    body = quoted[1:]
    if body[0] == "'":
        raise ValueError("invalid syntax")
    if body[0] == "\\":
        value, _, after = _escape(body, 1, "'")
    else:
        value, after = ord(body[0]), 1
    if body[after:] != "'":
        raise ValueError(f"malformed character constant: {quoted}")
    return value
