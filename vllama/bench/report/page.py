"""The HTML page: one file with everything in it, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from vllama.bench.claims import Claim
from vllama.bench.report.blocks import Block, Bullets, Figure, Section, Table, Text
from vllama.bench.report.document import document
from vllama.bench.results import Run

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 72rem;
  padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
nav { font-size: .85rem; } nav a { margin-right: .9em; display: inline-block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: left; vertical-align: top; }
th { background: #f6f6f6; }
td.good { background: #e3f3e6; } td.bad { background: #fbe3df; } td.weak { background: #f3f3f3; color: #555; }
code { font-size: .85em; background: #f3f3f3; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; max-width: 60rem; }
figcaption { font-size: .85rem; color: #444; max-width: 60rem; }
summary { cursor: pointer; color: #0050a0; }
"""

_TOKENS = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>[^*]+)\*\*|\[(?P<text>[^\]]+)\]\((?P<target>[^)]+)\)")
_DRAWN = re.compile(r"<svg .*?</svg>", re.DOTALL)


def render(run: Run, draw: Callable[[Figure], str], claims: Sequence[Claim] = ()) -> str:
    """The whole page; `draw` gives a figure's `<svg>`."""
    sections = document(run, claims)
    links = "".join(f'<a href="#{section.id}">{html.escape(section.title)}</a>' for section in sections)
    title = html.escape(f"{run.plan['title']} · {run.name}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Without an icon of its own the browser asks the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(run.plan['title'])}</h1>\n<nav>{links}</nav>\n"
        + "\n".join(_section(section, draw) for section in sections)
        + "\n</body>\n</html>\n"
    )


def undrawn(page: str) -> str:
    """A page without its plots. Each stands under the digest of its data, so this tells whether the plots are current
    too, on a machine where another version of matplotlib draws them differently."""
    return _DRAWN.sub("", page)


def _section(section: Section, draw: Callable[[Figure], str]) -> str:
    blocks = "\n".join(_block(block, draw) for block in section.blocks)
    return f'<section id="{section.id}">\n<h2>{html.escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block, draw: Callable[[Figure], str]) -> str:
    if isinstance(block, Text):
        return f"<p>{inline(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Figure):
        return (
            f'<figure id="figure-{block.id}" data-digest="{block.digest}">\n{draw(block)}\n'
            f"<figcaption>{inline(block.caption)}</figcaption>\n</figure>"
        )
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{inline(cell)}</th>" for cell in table.head)
    rows = []
    for y, row in enumerate(table.rows):
        cells = []
        for x, cell in enumerate(row):
            kind = table.kinds.get((y, x), "")
            cells.append(f'<td class="{kind}">{inline(cell)}</td>' if kind else f"<td>{inline(cell)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    drawn = f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    if table.fold:
        return f"<details><summary>{html.escape(table.fold)}</summary>\n{drawn}\n</details>"
    return drawn


def inline(text: str) -> str:
    """`code`, **bold** and [links](target) of a text; everything else is escaped."""
    parts, place = [], 0
    for found in _TOKENS.finditer(text):
        parts.append(html.escape(text[place : found.start()]))
        place = found.end()
        if found["code"]:
            parts.append(f"<code>{html.escape(found['code'])}</code>")
        elif found["bold"]:
            parts.append(f"<strong>{inline(found['bold'])}</strong>")
        else:
            parts.append(f'<a href="{html.escape(found["target"])}">{inline(found["text"])}</a>')
    return "".join([*parts, html.escape(text[place:])])
