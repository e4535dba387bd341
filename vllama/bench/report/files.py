"""Writing a report's files, and whether those on the disk are what the records say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllama.bench.claims import Claim, read_claims
from vllama.bench.report import markdown, page
from vllama.bench.report.document import document, figures_of
from vllama.bench.results import Run

SVG_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'


def claims_of(clone: Path) -> list[Claim]:
    """The claims of a clone; none where it has no file of them."""
    file = clone / "scenarios" / "claims.toml"
    return read_claims(file) if file.is_file() else []


def write(run: Run, reports: Path, claims: Sequence[Claim] | None = None) -> Path:
    """Write <run>.md with its pictures and <run>.html; older pictures of the run go. Returns the path of <run>.md.

    `claims` default to those of the clone that `reports` lies in.
    """
    # Plots need most of the time that a report takes; a check whether it is current needs none.
    from vllama.bench.report import drawing

    wanted = claims_of(reports.parent) if claims is None else claims
    reports.mkdir(parents=True, exist_ok=True)
    figures = figures_of(document(run, wanted))
    drawn = {figure.id: drawing.svg(figure) for figure in figures}
    for old in [*reports.glob(f"{run.name}.svg"), *reports.glob(f"{run.name}-*.svg")]:
        old.unlink()
    for figure in figures:
        if figure.beside:
            picture = reports / markdown.picture(run.name, figure)
            picture.write_text(SVG_HEAD + drawn[figure.id] + "\n", encoding="utf-8")
    whole = page.render(run, lambda figure: drawn[figure.id], wanted)
    (reports / f"{run.name}.html").write_text(whole, encoding="utf-8")
    written = reports / f"{run.name}.md"
    written.write_text(markdown.render(run, wanted), encoding="utf-8")
    return written


def is_current(run: Run, reports: Path, claims: Sequence[Claim] | None = None) -> bool:
    """Whether the pages on disk are what the records say today. Needs no matplotlib."""
    wanted = claims_of(reports.parent) if claims is None else claims
    try:
        text = (reports / f"{run.name}.md").read_text(encoding="utf-8")
        written = (reports / f"{run.name}.html").read_text(encoding="utf-8")
    except OSError:
        return False
    figures = figures_of(document(run, wanted))
    return (
        text == markdown.render(run, wanted)
        and page.undrawn(written) == page.undrawn(page.render(run, lambda _: "", wanted))
        and all((reports / markdown.picture(run.name, figure)).is_file() for figure in figures if figure.beside)
    )
