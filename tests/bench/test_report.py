"""The pages of a report: what they say of runs made by hand, that the same records give the same bytes, and no more."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from tests.bench.test_measure import make_run
from vllama.bench import report
from vllama.bench.measure import METRICS
from vllama.bench.report import drawing, figures, markdown, numbers, page, setup
from vllama.bench.report.blocks import Figure, Table
from vllama.bench.report.document import WITHIN, WITHIN_TITLE, document, figures_of, legend, main_tables
from vllama.bench.report.numbers import losses
from vllama.bench.results import Run, read_run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def real() -> Run:
    """A measured run of this repository."""
    folder = next(folder for folder in sorted((ROOT / "results").iterdir()) if (folder / "slots.jsonl").exists())
    return read_run(folder)


@pytest.fixture(scope="module")
def html(real: Run) -> str:
    return page.render(real, drawing.svg)


class Outline(HTMLParser):
    """Which tags a page has, which are open at its end, and what it would load."""

    VOID = ("meta", "link", "br", "img", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.errors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if "svg" not in self.open and found.get("id"):
            self.ids.append(str(found["id"]))
        target = found.get("src") or (found.get("href") if tag != "a" else None) or found.get("xlink:href")
        if target and not target.startswith(("#", "data:")):
            self.loads.append(target)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)


def outline(text: str) -> Outline:
    parser = Outline()
    parser.feed(text)
    parser.close()
    return parser


def test_the_same_records_give_the_same_bytes(real: Run, html: str) -> None:
    assert page.render(real, drawing.svg) == html
    assert markdown.render(real) == markdown.render(real)


def test_one_file_that_loads_nothing_and_runs_nothing(html: str) -> None:
    found = outline(html)
    assert found.loads == []
    assert "script" not in found.tags
    assert found.errors == []
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_all_figures_are_drawn(real: Run, html: str) -> None:
    ids = {figure.id for figure in figures_of(document(real))}
    assert ids == {"forest", "curves", "cdf-ttft", "cdf-gaps", "timeline", "order", "memory"}
    for id_ in ids:
        (inner,) = re.findall(rf'<figure id="figure-{id_}"[^>]*>(.*?)</figure>', html, re.DOTALL)
        root = ElementTree.fromstring(inner[inner.index("<svg") : inner.index("</svg>") + len("</svg>")])
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 3, id_
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "vLLama" in texts, id_


def test_claims_then_losses_then_validity_come_first(real: Run) -> None:
    order = [section.id for section in document(real)]
    assert order[0] == "claims"
    assert order.index("losses") < order.index("table") < order.index("validity") < order.index("ratios")
    assert order[-1] == "again"


def test_every_claim_has_its_verdict_before_the_losses(real: Run) -> None:
    claims = report.claims_of(ROOT)
    sections = document(real, claims)
    assert [section.id for section in sections][:3] == ["claims", "verdicts", "losses"]
    (table,) = sections[1].blocks
    assert isinstance(table, Table)
    assert {row[0] for row in table.rows} == {f"`{claim.id}`" for claim in claims}
    for number, row in enumerate(table.rows):
        assert table.kinds[number, 2] == {"**does": "bad", "holds": "good", "cannot": "weak"}[row[2].split()[0]]
    assert report.claims_of(ROOT / "tests") == []


def test_current_pages_are_recognised_and_others_are_not(tmp_path: Path) -> None:
    run = make_run()
    written = report.write(run, tmp_path)
    assert report.is_current(run, tmp_path)
    text = written.read_text()
    written.write_text(text.replace("llama-server", "llama-servr", 1))
    assert not report.is_current(run, tmp_path)
    written.write_text(text)
    # One value changed: neither the page nor its plots are current, whatever draws them.
    run.samples[0][0].t_end += 10**9
    assert not report.is_current(run, tmp_path)


def test_only_the_plots_of_the_html_may_differ(tmp_path: Path) -> None:
    run = make_run()
    report.write(run, tmp_path)
    file = tmp_path / f"{run.name}.html"
    whole = file.read_text()
    file.write_text(re.sub(r"<svg .*?</svg>", "<svg >drawn by another version</svg>", whole, flags=re.DOTALL))
    assert report.is_current(run, tmp_path)
    digest = next(iter(figures_of(document(run)))).digest
    file.write_text(whole.replace(digest, "0" * 12))
    assert not report.is_current(run, tmp_path)


def test_a_missing_picture_is_not_current(tmp_path: Path) -> None:
    run = make_run()
    report.write(run, tmp_path)
    (picture,) = tmp_path.glob("*.svg")
    assert f"]({picture.name})" in (tmp_path / f"{run.name}.md").read_text()
    picture.unlink()
    assert not report.is_current(run, tmp_path)


def test_writing_again_leaves_no_old_picture(tmp_path: Path) -> None:
    run = make_run()
    report.write(run, tmp_path)
    report.write(make_run(ours=1.3), tmp_path)
    assert len(list(tmp_path.glob("*.svg"))) == 1


def test_the_forest_turns_times_so_that_right_is_better() -> None:
    slower = figures.forest(make_run(ours=1.25))
    assert slower is not None
    data: Any = slower.data
    assert "streaming/c1  first text" in data["labels"]
    assert [row[3] for row in data["rows"]] == pytest.approx([0.8] * len(data["rows"]), rel=0.01)
    assert all(row[2] <= row[3] <= row[4] for row in data["rows"])


def test_a_distribution_keeps_its_ends_and_its_shape() -> None:
    points = figures._distribution([float(n) for n in range(10_000)])
    assert points[0] == [0.0, 0.0001]
    assert points[-1] == [9999.0, 1.0]
    assert len(points) <= figures.POINTS
    assert all(abs(x / 9999 - share) < 0.01 for x, share in points)


def test_the_timeline_shows_one_block_of_all_systems(real: Run) -> None:
    found = figures.timeline(real)
    assert found is not None
    rows: Any = found.data["rows"]
    assert len(rows) == len(real.systems)
    assert {len(row["streams"]) for row in rows} == {8}
    assert all(sent <= texts[0] <= texts[-1] <= end for row in rows for sent, end, texts in row["streams"])


def test_a_run_without_streams_has_no_latency_figures() -> None:
    run = make_run()
    for slot in run.slots:
        slot.stream = False
    assert {figure.id for figure in figures_of(document(run))} == {"forest", "order", "memory"}
    assert "e2e" in [metric.key for _, metric in numbers.headline(run)]


def test_losses_without_a_ratio_are_differences() -> None:
    run = make_run()
    for slot in run.slots:
        if slot.system == "vllama":
            run.samples[slot.index] = [replace(s, error="closed") for s in run.samples[slot.index]]
    lost = {loss.metric.key: loss for loss in numbers.losses(run)}
    # The slots count as they are: nothing is dropped because it failed.
    assert lost["errors"].is_difference
    assert lost["errors"].shown.startswith("+100.0 %")
    assert lost["errors"].certain is True


def test_certain_losses_come_first_and_the_worst_of_them() -> None:
    found = numbers.losses(make_run(ours=1.3))
    assert found
    keys = [(loss.certain is not True, loss.certain is not None, -loss.factor) for loss in found]
    assert keys == sorted(keys)


def with_twin(run: Run, factor: float = 1.0) -> Run:
    """The control twice."""
    slots, samples = list(run.slots), dict(run.samples)
    for slot in run.slots:
        if slot.system == "llama-server":
            index = len(slots)
            slots.append(replace(slot, index=index, system="llama-server-twin", place=2))
            stretched = [round(t * factor) for t in run.samples[slot.index][0].texts]
            samples[index] = [replace(run.samples[slot.index][0], slot=index, texts=stretched)]
    run.plan["systems"] = ["vllama", "llama-server", "llama-server-twin"]
    run.environment["systems"]["llama-server-twin"] = dict(run.environment["systems"]["llama-server"])
    return replace(run, slots=slots, samples=samples)


def test_the_twin_is_shown_and_is_no_loss() -> None:
    run = with_twin(make_run(), factor=0.9)
    assert {loss.system for loss in numbers.losses(run)} <= {"llama-server"}
    assert "The control against itself" in markdown.render(run)


def test_what_fails_by_design_says_so_with_its_evidence() -> None:
    run = make_run()
    run.environment["cells"] = {
        "streaming/c1": {
            "other": {"verdict": "fails by design", "reason": "It cuts streams.", "evidence": "3 of 3 cut"}
        }
    }
    run.plan["systems"].append("other")
    run.environment["systems"]["other"] = {**run.environment["systems"]["vllama"], "title": "Other"}
    text = markdown.render(run)
    assert "streaming/c1, Other: **fails by design**. It cuts streams. 3 of 3 cut" in text


def test_texts_are_escaped() -> None:
    run = make_run()
    run.plan["title"] = "<script>alert(1)</script> & more"
    run.environment["systems"]["vllama"]["title"] = "v<b>L|Lama"
    text = page.render(run, lambda _: "")
    assert "<script>" not in text
    assert "v&lt;b&gt;L|Lama" in text
    assert "v<b>L\\|Lama" in markdown.render(run)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `b < c` d", "a <code>b &lt; c</code> d"),
        ("**bold `x`**", "<strong>bold <code>x</code></strong>"),
        ("[a](b.md)", '<a href="b.md">a</a>'),
        ("`**not bold**`", "<code>**not bold**</code>"),
        ("2 ** 3 * 4", "2 ** 3 * 4"),
    ],
)
def test_inline(text: str, expected: str) -> None:
    assert page.inline(text) == expected


def test_command_lines_are_compared_by_long_names() -> None:
    short = setup.options(["x/llama-server", "-m", "a.gguf", "-np", "8", "--no-ui", "-t", "-1"])
    assert short == {"--model": "a.gguf", "--parallel": "8", "--no-webui": "yes", "--threads": "-1"}


def test_the_real_engines_command_lines_differ_where_they_do(real: Run) -> None:
    (_, table) = setup.differences(real)
    assert isinstance(table, Table)
    assert table.head == ("option", "llama-server", "Ollama (defaults)")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["--parallel"] == ("8", "1")
    assert "--port" not in rows
    number = [row[0] for row in table.rows].index("--parallel")
    assert table.kinds[number, 1] == "bad"
    same = [row[0] for row in table.rows].index("--model")
    assert (same, 1) not in table.kinds


def test_agreement_counts_equal_texts() -> None:
    run = make_run(pairs=4)
    mine = [slot.index for slot in run.slots if slot.system == "vllama"]
    run.samples[mine[0]] = [replace(run.samples[mine[0]][0], text="once upon a mile")]
    for index in [slot.index for slot in run.slots if slot.system == "llama-server"][:1]:
        run.samples[index] = [replace(run.samples[index][0], text="once upon a time")]
    (_, table) = setup.agreement(run)
    assert isinstance(table, Table)
    assert table.rows[0][2] == "3 of 4, else from character 12"
    assert table.kinds[0, 2] == "weak"


def test_colours_mark_what_is_certain(real: Run) -> None:
    tables = [block for block in main_tables(real) if isinstance(block, Table)]
    assert len(tables) == len(real.cells)
    for table in tables:
        for (y, x), kind in table.kinds.items():
            assert not table.rows[y][x].endswith("~")
            assert "[" in table.rows[y][x]
            assert kind in ("good", "bad")
    assert any(table.kinds for table in tables)


def test_each_cell_has_a_row_for_each_system_the_control_first_and_ours_next(real: Run) -> None:
    last = main_tables(real)[-1]
    assert isinstance(last, Table)
    assert [row[0] for row in last.rows][:2] == ["llama-server (control)", "vLLama"]
    assert len(last.rows) == len(real.systems)
    assert {"CPU, s per 1,000 tok", "memory, MiB"} <= set(last.head)
    assert {row[2] for row in last.rows if row[0].endswith("(control)")} == {"1"}


def test_the_clients_own_error_stands_above_the_table(real: Run) -> None:
    assert "vllama bench selfcheck" in legend(real)
    environment = {**real.environment, "client_error_ms": {"idle": 0.0712, "busy": 0.3}}
    shown = legend(replace(real, environment=environment))
    assert "at most 0.07 ms on an idle machine, 0.30 ms beside two busy threads" in shown
    assert "vllama bench selfcheck" not in shown


def test_the_readme_block_needs_its_markers() -> None:
    run = make_run()
    text = report.with_summary(f"a\n{report.BEGIN}\nstale numbers\n{report.END}\nb\n", run)
    assert text.startswith(f"a\n{report.BEGIN}\nRun `")
    assert text.endswith(f"{report.END}\nb\n")
    assert "stale numbers" not in text
    assert report.with_summary(text, run) == text
    with pytest.raises(ValueError, match="results:begin"):
        report.with_summary("nothing here", run)


def test_every_figure_has_a_drawing_and_every_drawing_is_used(real: Run) -> None:
    used = {figure.shows for figure in figures_of(document(real))}
    assert used == set(drawing.DRAWINGS)


def test_a_figure_changes_its_digest_with_its_data() -> None:
    one = Figure("a", "memory", "c", {"bars": [[0, 1.0, 2.0]]})
    assert one.digest == replace(one, caption="other").digest
    assert one.digest != replace(one, data={"bars": [[0, 1.0, 2.5]]}).digest


def test_special_metrics_name_metrics_that_exist() -> None:
    assert set(numbers.SPECIAL) <= set(METRICS)


def test_losses_within_the_noise_are_counted_above_and_listed_below(real: Run) -> None:
    within = [loss for loss in losses(real) if loss.certain is False]
    assert within
    page = markdown.render(real)
    first, _, rest = page.partition("## Where vLLama is behind")[2].partition("\n## ")
    assert first.count("\n| ") == 1 + 1 + sum(loss.certain is not False for loss in losses(real))
    assert f"In {len(within)} more places" in first
    assert f"(#{WITHIN})" in first
    assert f"\n## {WITHIN_TITLE}\n" in page
    # What GitHub makes of a heading is its link.
    assert WITHIN_TITLE.lower().replace(",", "").replace(" ", "-") == WITHIN
    folded = rest.partition(f"## {WITHIN_TITLE}")[2].partition("\n## ")[0]
    assert "<details>" in folded
    assert folded.count("\n| ") == 1 + 1 + len(within)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_legend_of_many_long_names_fits_on_the_page(count: int) -> None:
    names = [f"llama_cpp.server ({n}, uninterrupted, twin)" for n in range(count)]
    canvas = Canvas(figsize=(9, 3), layout="constrained")
    axes = canvas.add_subplot()
    for name in names:
        axes.plot([0, 1], [0, 1], label=name)
    drawing._legend(canvas, [axes])
    FigureCanvasAgg(canvas).draw()
    (legend,) = canvas.legends
    box = legend.get_window_extent()
    assert [text.get_text() for text in legend.get_texts()] == names
    assert box.x0 >= 0
    assert box.x1 <= canvas.bbox.x1
    assert box.y1 <= axes.get_window_extent().y0
