"""Writes floating point numbers as Go's strconv and fmt do."""

from __future__ import annotations

import math


def format_float(value: float, verb: str, precision: int | None) -> str:
    """strconv.FormatFloat for 64 bits; no precision means as many digits as tell the number apart."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if verb in "xX":
        return _hex_float(value, precision, upper=verb == "X")
    if verb == "b":
        mantissa, exponent = math.frexp(value)
        return f"{int(mantissa * 2**53)}p{exponent - 53:+d}"
    if verb in "gG":
        return _general(value, precision, verb)
    if precision is not None:
        text = f"{value:.{precision}{verb}}"
    elif verb == "f":
        text = _plain(value)
    else:
        text = _scientific(*_shortest(value))
        text = text.upper() if verb == "E" else text
    return text


def with_point(text: str, verb: str, precision: int | None) -> str:
    """A number (with its sign) under the flag #: it has a decimal point, and keeps zeros at its end."""
    mark = next((c for c in text if c in ("pP" if verb in "xX" else "eEpP")), "")
    body, _, exponent = text.partition(mark) if mark else (text, "", "")
    missing = 0
    if verb in "gGx":
        missing = 6 if precision is None else precision
        significant = body[1:].replace(".", "").lstrip("0")
        if verb == "x":
            significant = body[1:].replace(".", "").removeprefix("0")
        missing -= len(significant)
    if "." not in body:
        if body[1:] == "0":
            missing -= 1
        body += "."
    return body + "0" * missing + mark + exponent


def _shortest(value: float) -> tuple[str, str, int]:
    """Sign, digits and decimal exponent (of the first digit) of the shortest exact notation."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return sign, "0", 0
    leading = len(whole) - 1 if whole != "0" else -1 - (len(fraction) - len(fraction.lstrip("0")))
    return sign, digits.rstrip("0"), leading + int(exponent or "0")


def _scientific(sign: str, digits: str, exponent: int) -> str:
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _plain(value: float) -> str:
    sign, digits, exponent = _shortest(value)
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    if len(digits) <= exponent + 1:
        return sign + digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"


def _general(value: float, precision: int | None, verb: str) -> str:
    if precision is None:
        sign, digits, exponent = _shortest(value)
        large = exponent < -4 or exponent >= 6
        text = _scientific(sign, digits, exponent) if large else _plain(value)
    else:
        text = f"{value:.{precision or 1}g}"
        mantissa, mark, exponent_text = text.partition("e")
        if mark:
            number = int(exponent_text)
            text = f"{mantissa}e{'-' if number < 0 else '+'}{abs(number):02d}"
    return text.upper() if verb == "G" else text


def _hex_float(value: float, precision: int | None, *, upper: bool) -> str:
    text = value.hex()
    mantissa, _, exponent = text.partition("p")
    head, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    if precision is not None:
        fraction = fraction[:precision].ljust(precision, "0")
    number = int(exponent)
    text = head + ("." + fraction if fraction else "")
    text += f"p{'-' if number < 0 else '+'}{abs(number):02d}"
    return text.upper() if upper else text
