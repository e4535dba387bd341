"""Writing GBNF, llama.cpp's grammar notation: literals, character classes, whole numbers within bounds, base rules."""

from __future__ import annotations

BASE_RULES = {
    "ws": r'(" " | "\n" [ \t]{0,20})?',
    "hex": "[0-9a-fA-F]",
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)',
    # No halves of surrogate pairs: nobody could decode them.
    "code": r'([0-9a-cA-CefEF] hex{3} | [dD] [0-7] hex{2} | [dD] [89abAB] hex{2} "\\u" [dD] [c-fC-F] hex{2})',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "unsigned": '("0" | [1-9] [0-9]{0,15}) fraction? exponent?',
    "number": '"-"? unsigned',
    "fraction": '"." [0-9]{1,24}',
    "exponent": "[eE] [+-]? [0-9]{1,3}",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (member ("," ws member)*)? "}"',
    "member": 'string ":" ws value ws',
    "array": '"[" ws (value ws ("," ws value ws)*)? "]"',
}
"""The rules for any JSON. White space is bounded, so that a model cannot go on with blanks forever."""

_BASE_REFERENCES = {
    "char": ("code",),
    "code": ("hex",),
    "string": ("char",),
    "unsigned": ("fraction", "exponent"),
    "number": ("unsigned",),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "object": ("ws", "member"),
    "member": ("string", "ws", "value"),
    "array": ("ws", "value"),
}


def with_references(names: set[str]) -> list[str]:
    """The base rules needed for `names`, in the order of the table."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in BASE_RULES and name not in needed:
            needed.add(name)
            waiting += _BASE_REFERENCES.get(name, ())
    return [name for name in BASE_RULES if name in needed]


def literal(text: str) -> str:
    """GBNF that matches exactly `text`."""
    return '"' + "".join(_in_literal(char) for char in text) + '"'


def _in_literal(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else code_point(char)


def code_point(char: str) -> str:
    """A character as GBNF's escape, which is safe in literals and in classes."""
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def class_member(char: str) -> str:
    """A character inside of a class."""
    return char if char.isalnum() and char.isascii() else code_point(char)


def integers(low: int | None, high: int | None) -> str:
    """GBNF for the whole numbers from `low` to `high`, both included; None is no bound (of 16 digits)."""
    parts = []
    if low is None or low < 0:
        smallest = 1 if high is None or high >= 0 else -high
        parts.append('"-" (' + _naturals(smallest, None if low is None else -low) + ")")
    if high is None or high >= 0:
        parts.append(_naturals(max(low or 0, 0), high))
    return " | ".join(parts)


def _naturals(low: int, high: int | None) -> str:
    parts = []
    digits = len(str(low))
    if high is None:
        parts.append(_same_length(str(low), "9" * digits))
        if digits < 16:
            parts.append(f"[1-9] [0-9]{{{digits},15}}")
    else:
        for length in range(digits, len(str(high)) + 1):
            first = max(low, 10 ** (length - 1) if length > 1 else 0)
            last = min(high, 10**length - 1)
            parts.append(_same_length(str(first), str(last)))
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """The numbers from `low` to `high`, which have the same count of digits."""
    if low == high:
        return literal(low) if low else '""'
    if low[0] == high[0]:
        rest = _same_length(low[1:], high[1:])
        return f"{literal(low[0])} ({rest})"
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        return f"[{low[0]}-{high[0]}]" + _any_digits(len(low) - 1)
    tail = len(low) - 1
    parts = [f"{literal(low[0])} ({_same_length(low[1:], '9' * tail)})"]
    if int(high[0]) - int(low[0]) > 1:
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}]" + _any_digits(tail))
    parts.append(f"{literal(high[0])} ({_same_length('0' * tail, high[1:])})")
    return " | ".join(parts)


def _any_digits(count: int) -> str:
    return f" [0-9]{{{count}}}" if count else ""
