"""Values as Go writes them: %v and %#v of decoded JSON, encoding/json, and the human sizes of the CLI.

Ollama builds error texts, the `parameters` text, Modelfiles and the JSON layers of a model with these, so
clients and digests depend on the exact form.
"""

from __future__ import annotations

import json
import math
from typing import Any

from vllama.goquote import quote

_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML_TABLE = str.maketrans(_HTML)


def format_float(value: float) -> str:
    """A float64 by %v: the shortest digits that read back; exponent form below 1e-4 and from 1e6 on, as long
    as the digits before the point do not need more places than there are digits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    sign = "-" if value < 0 else ""
    base, _, shift = repr(abs(value)).partition("e")
    whole, _, fraction = base.partition(".")
    padded = whole + fraction
    digits = padded.lstrip("0")
    exponent = int(shift or "0") + len(whole) - 1 - (len(padded) - len(digits))
    digits = digits.rstrip("0")
    if exponent < -4 or exponent >= 6:
        tail = "." + digits[1:] if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if len(digits) <= exponent + 1:
        return sign + digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"


def format_value(value: Any, *, syntax: bool = False) -> str:
    """A decoded JSON value by %v, or by %#v with `syntax`. JSON numbers are float64, as Go decodes them."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return format_float(float(value))
    if isinstance(value, str):
        return quote(value) if syntax else value
    if isinstance(value, dict):
        pairs = sorted(value.items())
        if syntax:
            inner = ", ".join(f"{quote(k)}:{_interface(v)}" for k, v in pairs)
            return f"map[string]interface {{}}{{{inner}}}"
        return "map[" + " ".join(f"{k}:{format_value(v)}" for k, v in pairs) + "]"
    if syntax:
        return "[]interface {}{" + ", ".join(_interface(v) for v in value) + "}"
    return "[" + " ".join(format_value(v) for v in value) + "]"


def _interface(value: Any) -> str:
    return "interface {}(nil)" if value is None else format_value(value, syntax=True)


def encode_json(value: Any) -> bytes:
    """JSON as Go's Encoder writes a map: sorted keys, no blanks, <>& escaped, whole floats as integers, a newline."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.translate(_HTML_TABLE).encode("utf-8", "replace") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def human_number(count: int) -> str:
    """A count of parameters as Ollama prints it: 134.52M, 1.2B, 7B."""
    if count >= 1_000_000_000:
        number = count / 1_000_000_000
        return f"{number:.0f}B" if number.is_integer() else f"{number:.1f}B"
    if count >= 1_000_000:
        number = count / 1_000_000
        return f"{number:.0f}M" if number.is_integer() else f"{number:.2f}M"
    if count >= 1000:
        return f"{count / 1000:.0f}K"
    return str(count)
