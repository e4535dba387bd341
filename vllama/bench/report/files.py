"""Writing a report's files, and whether those on the disk are what the records say."""

from __future__ import annotations

from pathlib import Path

from vllama.bench.report import markdown, page
from vllama.bench.report.document import document, figures_of
from vllama.bench.results import Run

SVG_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'


def write(run: Run, reports: Path) -> Path:
    """Write <run>.md with its pictures and <run>.html; older pictures of the run go. Returns the path of <run>.md."""
    from vllama.bench.report import drawing

    reports.mkdir(parents=True, exist_ok=True)
    drawn = {figure.id: drawing.svg(figure) for figure in figures_of(document(run))}
    for old in [*reports.glob(f"{run.name}.svg"), *reports.glob(f"{run.name}-*.svg")]:
        old.unlink()
    for figure in figures_of(document(run)):
        if figure.beside:
            (reports / markdown.picture(run.name, figure)).write_text(
                SVG_HEAD + drawn[figure.id] + "\n", encoding="utf-8"
            )
    (reports / f"{run.name}.html").write_text(page.render(run, lambda figure: drawn[figure.id]), encoding="utf-8")
    written = reports / f"{run.name}.md"
    written.write_text(markdown.render(run), encoding="utf-8")
    return written


def is_current(run: Run, reports: Path) -> bool:
    """Whether the pages on disk are what the records say today. Needs no matplotlib."""
    try:
        text = (reports / f"{run.name}.md").read_text(encoding="utf-8")
        written = (reports / f"{run.name}.html").read_text(encoding="utf-8")
    except OSError:
        return False
    pictures = [reports / markdown.picture(run.name, figure) for figure in figures_of(document(run)) if figure.beside]
    return (
        text == markdown.render(run)
        and page.undrawn(written) == page.undrawn(page.render(run, lambda _: ""))
        and all(picture.is_file() for picture in pictures)
    )
