"""Sizes, counts, times and rates in words, as Ollama's commands print them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from vllama.goduration import NS_PER_SECOND, format_duration

_HOUR = 3600


def size(count: int) -> str:
    """Bytes in decimal units; from 10 up cut, not rounded: "9.9 KB", "45 MB"."""
    value, unit = float(count), "B"
    for name, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            value, unit = count / factor, name
            break
    if value >= 10 or value == int(value):
        return f"{int(value)} {unit}"
    return f"{value:.1f} {unit}"


def binary_size(count: int) -> str:
    """Bytes in binary units: "1.5 GiB"."""
    for name, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {name}"
    return f"{count} B"


def number(count: int) -> str:
    """A count of parameters: "134.52M", "1.5B"."""
    for name, factor, digits in (("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= factor:
            return f"{count / factor:.{0 if count % factor == 0 else digits}f}{name}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def when(moment: datetime | None, zero: str = "Never", now: datetime | None = None) -> str:
    """ "2 weeks ago", "4 minutes from now", "Forever" for more than 20 years ahead; `zero` for no moment at all."""
    if moment is None or moment.year <= 1:
        return zero
    delta = (now or datetime.now(UTC)) - moment
    if int(abs(delta).total_seconds()) // _HOUR // 24 // 365 > 20 and delta < timedelta(0):
        return "Forever"
    return f"{_span(delta)} ago" if delta >= timedelta(0) else f"{_span(-delta)} from now"


def _span(delta: timedelta) -> str:
    seconds = int(delta.total_seconds())
    if seconds < 60:
        return {0: "Less than a second", 1: "1 second"}.get(seconds, f"{seconds} seconds")
    minutes = seconds // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    # Half an hour rounds up, also where the next larger unit is then cut.
    hours = int(delta.total_seconds() / _HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{int(delta.total_seconds()) // _HOUR // 24 // 365} years"


def rates(reply: Mapping[str, Any]) -> str:
    """The lines of `run --verbose` for the last object of a reply; what is missing or 0 is left out."""
    lines = []

    def line(name: str, value: str) -> None:
        lines.append(f"{name + ':':<22}{value}\n")

    if total := reply.get("total_duration"):
        line("total duration", format_duration(total))
    if load := reply.get("load_duration"):
        line("load duration", format_duration(load))
    for name in ("prompt eval", "eval"):
        key = name.replace(" ", "_")
        tokens, ns = reply.get(f"{key}_count", 0), reply.get(f"{key}_duration", 0)
        if tokens:
            line(f"{name} count", f"{tokens} token(s)")
        if ns:
            line(f"{name} duration", format_duration(ns))
            line(f"{name} rate", f"{tokens / ns * NS_PER_SECOND:.2f} tokens/s")
    return "".join(lines)


def moment(text: str) -> datetime | None:
    """A time of the API (RFC 3339 with up to nanoseconds); None if it is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
