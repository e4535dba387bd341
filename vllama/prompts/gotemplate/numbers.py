"""Numeric constants of Go templates."""

from __future__ import annotations

import re

from vllama.prompts.gotemplate.quoting import quote, unquote_char

MAX_INT, MIN_INT = 2**63 - 1, -(2**63)
_MAX_UINT = 2**64 - 1

# Underscores may stand between digits and after a base prefix, as in Go source.
_INTEGER = re.compile(
    r"(?P<sign>[+-]?)(?:0[xX](?P<hex>(?:_?[0-9a-fA-F])+)|0[bB](?P<bin>(?:_?[01])+)"
    r"|0[oO]?(?P<oct>(?:_?[0-7])+)|(?P<dec>0|[1-9](?:_?[0-9])*))"
)
_FLOAT = re.compile(r"[+-]?(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9]+)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX]_?[0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?[0-9]+")
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    base = match.lastgroup or "dec"
    digits = match[base].replace("_", "").lstrip("0") or "0"
    if len(digits) > 64:
        return None  # far out of range; also keeps a long text from costing quadratic time
    value = int(digits, _BASES[base])
    return -value if match["sign"] == "-" else value


def _float(text: str) -> float | None:
    try:
        if _HEX_FLOAT.fullmatch(text):
            value = float.fromhex(text.replace("_", ""))
        elif _FLOAT.fullmatch(text):
            value = float(text.replace("_", ""))
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return None if value in (float("inf"), float("-inf")) else value


def parse_number(text: str) -> int | float | complex | None:
    """The value of a number or character constant, None where Go would say that it overflows int.

    Raises ValueError with Go's text for what is no number.
    """
    if text.startswith("'"):
        return unquote_char(text)
    if text.endswith("i"):
        return _complex(text)
    integer = _integer(text)
    if integer is not None and integer > MAX_INT and integer <= _MAX_UINT and text[0] not in "+-":
        return None
    if integer is not None and MIN_INT <= integer <= MAX_INT:
        return integer
    value = _float(text)
    if value is None:
        raise ValueError(f"illegal number syntax: {quote(text)}")
    if not any(char in ".eEpP" for char in text):
        raise ValueError(f"integer overflow: {quote(text)}")
    return value


def _complex(text: str) -> complex:
    body = text[:-1]
    split = max(body.rfind("+"), body.rfind("-"))
    if split > 0 and body[split - 1] in "eEpP":
        split = max(body.rfind("+", 0, split - 1), body.rfind("-", 0, split - 1))
    real = _real(body[:split]) if split > 0 else 0.0
    imaginary = _real(body[split:] if split > 0 else body)
    if real is None or imaginary is None:
        raise ValueError(f"illegal number syntax: {quote(text)}")
    return complex(real, imaginary)


def _real(text: str) -> float | None:
    value = _float(text)
    if value is None:
        integer = _integer(text)
        value = None if integer is None else float(integer)
    return value
