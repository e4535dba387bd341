"""Tables laid out as Ollama's commands lay them out, to the last blank: `list`, `ps` and `show`.

Ollama prints through the Go package tablewriter. Its rules: columns are padded, the last one too, and four blanks
apart; a cell wider than its limit is broken at blanks into lines of about equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from vllama.cli.table import GAP, width

CELL_WIDTH = 30
"""Cells that a cell may be wide before it is broken, where a table says nothing else."""
_TOO_LONG = 100_000
"""What a line that is longer than the limit costs; more than any raggedness."""
_LINE_OF_NONE = "  "
"""What stands in a cell beside one of more lines."""


def table(
    rows: Sequence[Sequence[str]], header: Sequence[str] = (), *, indented: bool = False, cell_width: int = CELL_WIDTH
) -> list[str]:
    """The lines of a table. `indented`: with an empty first column, as the sections of `show` have it."""
    cells = [[wrapped(cell, cell_width) for cell in (("", *row) if indented else row)] for row in rows]
    heads = [[name] for name in header]
    # A broken cell makes its column as wide as it was allowed to be, whatever its lines need.
    widths = [
        max((max(cell_width if len(cell) > 1 else 0, *map(width, cell)) for cell in column if cell), default=0)
        for column in zip_longest(heads, *cells)
    ]
    lines = []
    if header:
        padded = [_padded(name, wide) for name, wide in zip(header, widths, strict=True)]
        lines.append(GAP.join(padded) + " ")
    for row in cells:
        for number in range(max(map(len, row), default=0)):
            parts = (cell[number] if number < len(cell) else _LINE_OF_NONE for cell in row)
            lines.append("".join(_padded(part, wide) + GAP for part, wide in zip(parts, widths, strict=False)))
    return lines


def wrapped(text: str, limit: int) -> list[str]:
    """A cell's lines: its words, broken so that the squares of what is left free on each line are least."""
    text = text.replace("\n", " ")
    words = text.split(" ")
    widths = [width(word) for word in words]
    limit = max(min(width(text), limit), *widths)
    count = len(words)
    if sum(widths) + count - 1 <= limit:
        return [text]
    cost, breaks = [0] * (count + 1), [count] * (count + 1)
    for start in range(count - 1, -1, -1):
        length = sum(widths[start:]) + count - 1 - start
        if length <= limit:
            continue
        best, length = 1 << 62, -1
        for end in range(start + 1, count):
            length += widths[end - 1] + 1
            free = limit - length
            tried = free * free + cost[end] + (_TOO_LONG if free < 0 else 0)
            if tried < best:
                best, breaks[start] = tried, end
            if free < 0:
                break  # longer lines only cost more
        cost[start] = best
    lines, start = [], 0
    while start < count:
        lines.append(" ".join(words[start : breaks[start]]))
        start = breaks[start]
    return lines


def _padded(text: str, wide: int) -> str:
    return text + " " * (wide - width(text))
