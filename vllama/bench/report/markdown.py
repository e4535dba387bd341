"""The Markdown page, and the block of a README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vllama.bench.checks import failures, judge_all
from vllama.bench.claims import Claim
from vllama.bench.report.blocks import Block, Bullets, Figure, Text
from vllama.bench.report.document import document, legend, losses_blocks, main_tables, scope
from vllama.bench.results import Run

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def render(run: Run, claims: Sequence[Claim] = ()) -> str:
    """The whole page. Pictures lie beside it as <run>-<figure>.svg; the HTML page has all of them."""
    parts = [f"# {run.plan['title']}"]
    for section in document(run, claims):
        if section.html_only:
            continue
        parts.append(f"## {section.title}")
        parts += [block(part, run.name) for part in section.blocks]
    parts.append(
        f"The curves, distributions, the timeline, the order of the run and the memory are drawn in [{run.name}.html]"
        f"({run.name}.html): one file, to be opened in a browser."
    )
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def block(part: Block, name: str) -> str:
    """One block as Markdown."""
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Bullets):
        return "\n".join(f"- {item}" for item in part.items)
    if isinstance(part, Figure):
        return f"![{part.caption}]({picture(name, part)})"
    drawn = table(part.head, part.rows)
    return f"<details>\n<summary>{part.fold}</summary>\n\n{drawn}\n\n</details>" if part.fold else drawn


def picture(name: str, figure: Figure) -> str:
    """The file name of a figure beside the page. It ends with what is drawn: an old picture cannot pass for a new."""
    return f"{name}-{figure.id}-{figure.digest}.svg"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " for _ in head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def summary(run: Run) -> str:
    """What a README shows of a run: the losses, the table, and whether all of it is valid."""
    bad = failures(judge_all(run))
    verdict = f"**Checks that failed: {', '.join(bad)}; see the report.**" if bad else "All validity checks passed."
    parts: list[Block] = [
        Text(scope(run)),
        Text("Where vLLama is behind, in the metrics of the table below (the report has all metrics):"),
        losses_blocks(run, only_headline=True)[0],
        Text(legend(run)),
        *main_tables(run),
        Text(f"{verdict} [The whole report](reports/{run.name}.md), [raw records](results/{run.name})."),
    ]
    return "\n\n".join(block(part, run.name).strip("\n") for part in parts)


def with_summary(readme: str, run: Run) -> str:
    """The README with the block between its two markers replaced. Raises ValueError without them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{summary(run)}\n{END}{after}"
