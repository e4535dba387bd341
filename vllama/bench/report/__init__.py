"""The report of a run: a Markdown page with one picture, and a single HTML file with all of them.

Every number is computed here from the raw records; nothing is typed. Rendering is a pure function of the records, so a
test can demand that committed reports are current.

    numbers.py      ratios and losses
    frames.py       the same as data frames
    document.py     the sections, made of paragraphs, tables and figures (blocks.py); setup.py what was started
    figures.py      what each figure shows, as plain numbers; drawing.py draws them
    markdown.py     the Markdown page and the README's block; page.py the HTML page; files.py writes both
"""

from __future__ import annotations

from vllama.bench.pairing import paired, values
from vllama.bench.report.files import claims_of, is_current, write
from vllama.bench.report.markdown import BEGIN, END, render, summary, table, with_summary
from vllama.bench.report.numbers import SUBJECT, ratio

__all__ = [
    "BEGIN",
    "END",
    "SUBJECT",
    "claims_of",
    "is_current",
    "paired",
    "ratio",
    "render",
    "summary",
    "table",
    "values",
    "with_summary",
    "write",
]
