"""Draws a figure's data as SVG with matplotlib. The same data gives the same bytes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from vllama.bench.report.blocks import Figure

# Okabe and Ito's colours: distinguishable with any kind of colour vision.
COLOURS = ("#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#7f7f7f", "#5e3c99")
MARKERS = "osD^vPX<>*"
FONT_SIZE = 9.0  # points


def svg(figure: Figure) -> str:
    """The plot as one `<svg>` element without references to anything outside of it."""
    # Text as text: half the size, and it can be searched.
    options: Any = {
        "svg.hashsalt": figure.id,
        "svg.fonttype": "none",
        "font.size": FONT_SIZE,
        "font.family": "DejaVu Sans",
    }
    with rc_context(options):
        canvas = DRAWINGS[figure.shows](figure.data)
        FigureCanvasSVG(canvas)
        out = io.StringIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Groups are numbered from 1 in each figure; several on one page would share their ids. Nothing refers to them.
    text = re.sub(r'<g id="[a-z]+[A-Za-z]*(?:_[0-9]+)?">', "<g>", text)
    label = figure.caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def _plain(axis: Any) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _steps(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones for a logarithmic axis: 1, 2, 5, 10, ..., or finer where it is short."""
    digits: tuple[float, ...] = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    if high / low > 300:
        digits = (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    return [step for step in every if low <= step <= high]


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(canvas: Canvas, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = _columns(list(found), canvas)
    rows = math.ceil(len(found) / columns)
    canvas.set_figheight(canvas.get_figheight() + max(0, rows - 1) * 1.6 * FONT_SIZE / 72)
    canvas.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, frameon=False)


def _columns(labels: Sequence[str], canvas: Canvas) -> int:
    """As many columns, at most four, as fit beside one another; a legend that is wider than the page is cut off."""
    handle = 0.55  # inches: the sign, and the room before and behind the label
    longest = max((len(label) for label in labels), default=0) * 0.6 * FONT_SIZE / 72
    return max(1, min(4, len(labels), int(canvas.get_figwidth() / (handle + longest))))


def forest(data: Any) -> Canvas:
    """Points with intervals around 1."""
    labels, systems = data["labels"], data["systems"]
    used = sorted({row[1] for row in data["rows"]})
    canvas = Canvas(figsize=(9, 1.4 + len(labels) * max(0.32, 0.15 * len(used))), layout="constrained")
    axes = canvas.add_subplot()
    axes.axvspan(1 / (1 + data["delta"]), 1 + data["delta"], color="#eeeeee", zorder=0)
    axes.axvline(1.0, color="black", linewidth=0.8)
    for number in used:
        rows = [row for row in data["rows"] if row[1] == number]
        offset = 0.7 * ((used.index(number) + 0.5) / len(used) - 0.5)
        for exact in (True, False):
            mine = [row for row in rows if row[5] is exact]
            if mine:
                axes.errorbar(
                    [row[3] for row in mine],
                    [row[0] + offset for row in mine],
                    xerr=[[row[3] - row[2] for row in mine], [row[4] - row[3] for row in mine]],
                    fmt=_marker(number),
                    color=_colour(number),
                    markersize=4.5,
                    elinewidth=1.4 if exact else 0.5,
                    capsize=2.5 if exact else 0,
                    label=systems[number][1],
                )
    axes.set_xscale("log")
    low, high = min(row[2] for row in data["rows"]), max(row[4] for row in data["rows"])
    low, high = min(low, 1 / (1 + data["delta"])) / 1.05, max(high, 1 + data["delta"]) * 1.05
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
    axes.set_xlim(low, high)
    axes.set_xticks([step for step in steps if low <= step <= high])
    axes.xaxis.set_minor_locator(NullLocator())
    _plain(axes.xaxis)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(f"worse  ←  compared with {data['control']}  →  better")
    _tidy(axes)
    _legend(canvas, [axes])
    return canvas


def curves(data: Any) -> Canvas:
    """One panel per metric, a line per system."""
    panels = data["panels"]
    canvas = Canvas(figsize=(9, 6.2), layout="constrained")
    grid = canvas.subplots(2, 2)
    places = list(grid.flat)
    for axes, panel in zip(places, panels, strict=False):
        counts = sorted({point[0] for line in panel["lines"] for point in line["points"]})
        for line in panel["lines"]:
            number, points = line["system"], line["points"]
            axes.errorbar(
                [point[0] for point in points],
                [point[1] for point in points],
                yerr=[[p[1] - p[2] for p in points], [p[3] - p[1] for p in points]],
                color=_colour(number),
                marker=_marker(number),
                markersize=4,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=2,
                label=data["systems"][number][1],
            )
        axes.set_title(f"{panel['title']} ({panel['better']} is better)", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts)
        _plain(axes.xaxis)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("streams at once")
        _tidy(axes)
    _legend(canvas, places)
    return canvas


def distributions(data: Any) -> Canvas:
    """One panel per cell, a stepped curve per system."""
    panels = data["panels"]
    canvas = Canvas(figsize=(9, 3.9), layout="constrained")
    places = [canvas.add_subplot(1, len(panels), number + 1) for number in range(len(panels))]
    for axes, panel in zip(places, panels, strict=True):
        for line in panel["lines"]:
            axes.step(
                [point[0] for point in line["points"]],
                [point[1] for point in line["points"]],
                where="post",
                color=_colour(line["system"]),
                linewidth=1.3,
                label=data["systems"][line["system"]][1],
            )
        axes.set_xscale("log")
        axes.set_xticks(_steps(*axes.get_xlim()))
        axes.xaxis.set_minor_locator(NullLocator())
        _plain(axes.xaxis)
        axes.set_ylim(0, 1.02)
        axes.set_title(panel["title"], fontsize=9)
        axes.set_xlabel(data["unit"])
        _tidy(axes)
    places[0].set_ylabel("share of all")
    _legend(canvas, places)
    return canvas


def timeline(data: Any) -> Canvas:
    """A band per system, a row per request, a tick per text."""
    streams = sum(len(row["streams"]) for row in data["rows"])
    canvas = Canvas(figsize=(9, 0.9 + 0.16 * streams + 0.2 * len(data["rows"])), layout="constrained")
    axes = canvas.add_subplot()
    place, middles, names = 0.0, [], []
    for row in data["rows"]:
        colour, first = _colour(row["system"]), place
        for sent, end, texts in row["streams"]:
            axes.hlines(place, sent, end, color="#cccccc", linewidth=0.8)
            axes.plot(texts, [place] * len(texts), linestyle="none", marker="|", markersize=5, color=colour)
            place += 1
        middles.append((first + place - 1) / 2)
        names.append(data["systems"][row["system"]][1])
        place += 1.2
    axes.set_yticks(middles, names)
    axes.set_ylim(place - 1, -1)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms since the slot's start")
    _tidy(axes)
    axes.grid(visible=False, axis="y")
    return canvas


def order(data: Any) -> Canvas:
    """Slots above, the machine's probes below, against the time of the run."""
    canvas = Canvas(figsize=(9, 6.4), layout="constrained")
    places = list(canvas.subplots(3, 1, sharex=True, height_ratios=(2, 1, 1)))
    speed, work, shares = places
    for number, (_, name) in enumerate(data["systems"]):
        mine = [slot for slot in data["slots"] if slot[1] == number]
        if mine:
            xs, ys = [slot[0] for slot in mine], [slot[2] for slot in mine]
            style = {"linestyle": "none", "marker": _marker(number), "markersize": 4, "color": _colour(number)}
            speed.plot(xs, ys, label=name, **style)
    speed.axhline(1.0, color="black", linewidth=0.6)
    speed.set_ylabel("÷ own median")
    times = [probe[0] for probe in data["probes"]]
    work.plot(times, [probe[1] for probe in data["probes"]], color="#444444", linewidth=0.9)
    work.axhline(1.0, color="black", linewidth=0.6)
    work.set_ylabel("fixed work")
    for column, name, colour in ((2, "stolen", "#d55e00"), (3, "other programs", "#0072b2")):
        shares.plot(
            times, [max(0.0, probe[column]) for probe in data["probes"]], color=colour, linewidth=0.9, label=name
        )
    shares.set_ylabel("share of CPU")
    shares.set_xlabel("s since the first slot")
    shares.set_ylim(bottom=0)
    load = shares.twinx()
    load.plot(times, [probe[4] for probe in data["probes"]], color="#999999", linewidth=0.7, label="load (right)")
    load.set_ylim(bottom=0)
    for axes in places:
        _tidy(axes)
    _legend(canvas, [speed, shares, load])
    return canvas


def memory(data: Any) -> Canvas:
    """Bars."""
    bars = data["bars"]
    canvas = Canvas(figsize=(9, 0.9 + 0.34 * len(bars)), layout="constrained")
    axes = canvas.add_subplot()
    for place, (number, middle, peak) in enumerate(bars):
        axes.barh(place, middle, color=_colour(number), height=0.6)
        axes.plot([peak, peak], [place - 0.3, place + 0.3], color=_colour(number), linewidth=1.5)
        axes.annotate(
            f"{middle:.0f}", (max(middle, peak), place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(bars)), [data["systems"][number][1] for number, _, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_xlabel("MiB")
    _tidy(axes)
    return canvas


DRAWINGS: dict[str, Callable[[Any], Canvas]] = {
    "forest": forest,
    "curves": curves,
    "distributions": distributions,
    "timeline": timeline,
    "order": order,
    "memory": memory,
}
