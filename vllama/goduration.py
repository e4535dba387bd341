"""Durations as Go reads and prints them, because that is what Ollama's clients send and expect.

Everything is an int of nanoseconds in the range of Go's int64; errors carry Go's own text.
"""

from __future__ import annotations

FOREVER_NS = 2**63 - 1
"""What Ollama stores for a keep_alive that never ends."""

NS_PER_SECOND = 1_000_000_000

_MIN_NS = -(2**63)
_LIMIT = 2**63
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, micro sign
    "μs": 1_000,  # U+03BC, Greek letter mu
    "ms": 1_000_000,
    "s": NS_PER_SECOND,
    "m": 60 * NS_PER_SECOND,
    "h": 3600 * NS_PER_SECOND,
}
_DIGITS = "0123456789"


def parse_duration(text: str) -> int:
    """Nanoseconds of a text like "1h15m30.918s", "-1.5h" or "300ms". Raises ValueError with Go's text."""
    invalid = f"time: invalid duration {_quote(text)}"
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(invalid)
    total = 0
    while rest:
        whole, rest = _split_digits(rest)
        fraction = ""
        if rest.startswith("."):
            fraction, rest = _split_digits(rest[1:])
        if not whole and not fraction:
            raise ValueError(invalid)
        name, rest = _split_unit(rest)
        if not name:
            raise ValueError(f"time: missing unit in duration {_quote(text)}")
        # Go notices this overflow while it reads the digits, so before it looks the unit up.
        if len(whole.lstrip("0")) > 19 or int(whole or "0") > _LIMIT:
            raise ValueError(invalid)
        unit = _UNITS.get(name)
        if unit is None:
            raise ValueError(f"time: unknown unit {_quote(name)} in duration {_quote(text)}")
        total += int(whole or "0") * unit + _fraction_ns(fraction, unit)
        if total > _LIMIT:
            raise ValueError(invalid)
    if negative:
        return -total
    if total > FOREVER_NS:
        raise ValueError(invalid)
    return total


def format_duration(ns: int) -> str:
    """The text of Go's Duration.String: "1h15m30.918s", "1.5µs", "0s"."""
    sign = "-" if ns < 0 else ""
    rest = abs(ns)
    if rest == 0:
        return "0s"
    if rest < NS_PER_SECOND:
        for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if rest < size * 1_000:
                return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60 * NS_PER_SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, NS_PER_SECOND)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    if minutes:
        return f"{sign}{minutes}m{seconds}"
    return sign + seconds


def duration_from_json(value: object) -> int:
    """Nanoseconds of a decoded JSON keep_alive: a number counts seconds, a string is a Go duration.

    Anything negative is `FOREVER_NS`. Raises ValueError with Ollama's text for other types.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"Unsupported type: '{_go_type(value)}'")
    if isinstance(value, str):
        ns = parse_duration(value)
        return FOREVER_NS if ns < 0 else ns
    if value < 0:
        return FOREVER_NS
    # A float64 that does not fit an int64 becomes the smallest one on amd64.
    if value >= _LIMIT or float(value) * 1e9 >= _LIMIT:
        return _MIN_NS
    return int(float(value) * 1e9)


def _split_digits(text: str) -> tuple[str, str]:
    rest = text.lstrip(_DIGITS)
    return text[: len(text) - len(rest)], rest


def _split_unit(text: str) -> tuple[str, str]:
    for position, char in enumerate(text):
        if char == "." or char in _DIGITS:
            return text[:position], text[position:]
    return text, ""


def _fraction_ns(digits: str, unit: int) -> int:
    """Go keeps as many digits as an int64 holds and multiplies in float64; so do we."""
    value, scale = 0, 1.0
    for digit in digits:
        if value > (2**63 - 1) // 10:
            break
        grown = value * 10 + int(digit)
        if grown > _LIMIT:
            break
        value, scale = grown, scale * 10
    return int(float(value) * (float(unit) / scale)) if value else 0


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    width = len(str(size)) - 1
    return f"{whole}.{rest:0{width}d}".rstrip("0")


def _quote(text: str) -> str:
    out = ['"']
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif " " <= char < "\x80":
            out.append(char)
        else:
            out.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass"))
    out.append('"')
    return "".join(out)


def _go_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list | tuple):
        return "[]interface {}"
    if isinstance(value, dict):
        return "map[string]interface {}"
    return "<nil>"
