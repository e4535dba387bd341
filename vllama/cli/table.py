"""Columns on standard output, as Ollama's lists have them."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

GAP = "    "


def width(text: str) -> int:
    """Terminal cells that a text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Lines with the cells of each column below each other, four blanks apart."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True))
        lines.append((indent + GAP.join(cells)).rstrip())
    return lines


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a header, even when it has no rows."""
    print("\n".join(columns([header, *rows])))


def print_json(value: Any) -> None:
    """Indented JSON with every character as it is."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()
