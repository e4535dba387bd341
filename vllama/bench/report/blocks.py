"""What a report is made of. Both pages, Markdown and HTML, are written from the same sections.

Texts may use `code`, **bold** and [links](target), as in Markdown; everything else in them is literal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["good", "bad", "weak", ""]


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under a head. `kinds` colours single cells, (row, column) -> kind, in HTML only.

    `fold` is the title under which a long table is hidden until it is asked for.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: Mapping[tuple[int, int], Kind] = field(default_factory=dict)
    fold: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: `shows` names the function of `drawing` and `data` is all that it draws, as plain JSON values.

    `beside` puts it into the Markdown page too, as a file of its own.
    """

    id: str
    shows: str
    caption: str
    data: Mapping[str, object]
    beside: bool = False

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the data: whether a drawn plot is current, without drawing it."""
        raw = json.dumps(self.data, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(raw.encode()).hexdigest()[:12]


Block = Text | Bullets | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it. `html_only` sections are too bulky for the Markdown page."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    html_only: bool = False
