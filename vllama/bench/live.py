"""Watching a run: a table of ratios that narrow down, the current slot and the time left; plain lines elsewhere.

Nothing here runs while a slot is measured. The screen is drawn between slots only, by the calls of `Observer`; there is
no thread and no timer that could take CPU time from what is measured.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vllama.bench.measure import METRICS
from vllama.bench.observer import Nobody, Observer, Outline, Ratio
from vllama.bench.results import Sample, Slot

Say = Callable[[str], None]
LINES = 6
"""So many of the last lines of progress stay on the screen."""

ROWS = 24
"""So many rows of ratios fit; the cells that were measured last stay."""


@contextlib.contextmanager
def watch(stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Observer]:
    """An observer for a run: live where the stream is a terminal, plain lines where not."""
    out = sys.stdout if stream is None else stream
    console = Console(file=out)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(lambda text: print(text, file=out, flush=True), clock)
        return
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield Screen(live, clock)


class Progress:
    """How far a run is. The rate of the slots so far corrects what was expected before."""

    def __init__(self, outline: Outline, clock: Callable[[], float]) -> None:
        self.outline = outline
        self.done = 0
        self._clock = clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the first slot."""
        return self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds that the rest should take: as expected at first, then at the rate of the slots so far."""
        rest = max(0, self.outline.slots - self.done)
        if not self.outline.slots:
            return 0.0
        expected = self.outline.seconds / self.outline.slots
        # The plan's guess counts as much as ten slots: the first few differ widely between cells.
        each = (10 * expected + self.elapsed) / (10 + self.done)
        return rest * each


class Lines(Nobody):
    """Plain lines: one per cell and pair, and the ratios at the end."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._progress: Progress | None = None
        self._row: list[str] = []
        self._where: tuple[str, int] | None = None
        self._ratios: dict[tuple[str, str], Sequence[Ratio]] = {}

    def outlined(self, outline: Outline) -> None:
        """See `Observer`."""
        self._progress = Progress(outline, self._clock)
        self._say(f"{outline.slots} slots, about {duration(outline.seconds)}; records in {outline.folder}")

    def slot_finished(self, slot: Slot, samples: Sequence[Sample]) -> None:
        """See `Observer`."""
        where = slot.cell, slot.block
        if self._where != where:
            self._flush()
            self._where = where
        self._row.append(f"{slot.system} {slot.wall_ns / 1e9:.2f} s{' FAILED' if slot.error else ''}")
        if self._progress:
            self._progress.done += 1

    def ratios(self, cell: str, system: str, ratios: Sequence[Ratio]) -> None:
        """See `Observer`."""
        self._ratios[cell, system] = ratios

    def said(self, text: str) -> None:
        """See `Observer`."""
        self._flush()
        self._say(text)

    def finished(self, state: str) -> None:
        """See `Observer`."""
        self._flush()
        for (cell, system), ratios in self._ratios.items():
            self._say(f"{cell}  {system} ÷ control:  {'   '.join(map(shown, ratios))}")
        self._say(f"the run is {state}")

    def _flush(self) -> None:
        if self._row and self._where:
            cell, block = self._where
            head = f"pair {block + 1}"
            tail = ""
            if self._progress:
                head += f"/{self._progress.outline.pairs}"
                tail = f"  (about {duration(self._progress.left)} left)"
            self._say(f"{head}  {cell:<14} {'  '.join(self._row)}{tail}")
        self._row = []


class Screen(Nobody):
    """A live screen; every call draws it once."""

    def __init__(self, live: Live, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._progress: Progress | None = None
        self._now = ""
        self._said: deque[str] = deque(maxlen=LINES)
        self._ratios: dict[tuple[str, str], Sequence[Ratio]] = {}
        self._failed = 0

    def outlined(self, outline: Outline) -> None:
        """See `Observer`."""
        self._progress = Progress(outline, self._clock)
        self._draw()

    def slot_started(self, cell: str, block: int, system: str) -> None:
        """See `Observer`."""
        self._now = f"pair {block + 1}  {cell}  {system}"
        self._draw()

    def slot_finished(self, slot: Slot, samples: Sequence[Sample]) -> None:
        """See `Observer`. Draws nothing: the next slot's start does."""
        self._failed += bool(slot.error)
        if self._progress:
            self._progress.done += 1

    def ratios(self, cell: str, system: str, ratios: Sequence[Ratio]) -> None:
        """See `Observer`."""
        # At the end again: what was measured last is what stays in view.
        self._ratios.pop((cell, system), None)
        self._ratios[cell, system] = ratios

    def said(self, text: str) -> None:
        """See `Observer`."""
        self._said.extend(text.splitlines())
        self._draw()

    def finished(self, state: str) -> None:
        """See `Observer`."""
        self._now = f"the run is {state}"
        self._draw()

    def _draw(self) -> None:
        self._live.update(self.renderable(), refresh=True)

    def renderable(self) -> RenderableType:
        """The whole screen."""
        parts: list[RenderableType] = []
        if self._progress:
            outline = self._progress.outline
            parts.append(Text(f"{outline.profile}, plan {outline.plan_id}: {outline.folder}", style="bold"))
            parts.append(ProgressBar(total=max(1, outline.slots), completed=self._progress.done, width=60))
            failed = f", {self._failed} failed" if self._failed else ""
            times = f"{duration(self._progress.elapsed)} gone, about {duration(self._progress.left)} left"
            parts.append(Text(f"{self._progress.done} of {outline.slots} slots{failed}, {times}"))
        parts.append(Text(self._now, style="cyan"))
        if self._ratios and self._progress:
            parts.append(self._table(self._progress.outline))
        parts += [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._said]
        return Group(*parts)

    def _table(self, outline: Outline) -> Table:
        table = Table(title=f"ratio to {outline.systems.get(outline.control, outline.control)}", title_justify="left")
        for head in ("cell", "system", "metric", "ratio", "interval", "pairs", ""):
            table.add_column(head)
        rows = [(cell, system, ratio) for (cell, system), found in self._ratios.items() for ratio in found]
        for cell, system, ratio in rows[-ROWS:]:
            low, high = ratio.low, ratio.high
            interval = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "too few pairs"
            name = METRICS[ratio.metric].title if ratio.metric in METRICS else ratio.metric
            title = outline.systems.get(system, system)
            table.add_row(cell, title, name, f"{ratio.value:.3f}", interval, str(ratio.n), strip(ratio))
        return table


def shown(ratio: Ratio) -> str:
    """One ratio in a line of text."""
    name = METRICS[ratio.metric].title if ratio.metric in METRICS else ratio.metric
    if ratio.low is None or ratio.high is None:
        return f"{name} {ratio.value:.3f} (n = {ratio.n})"
    return f"{name} {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


WIDTH = 31
REACH = 0.5
"""The strip reaches from 1 - REACH to 1 + REACH."""


def strip(ratio: Ratio) -> str:
    """The interval as a strip with 1 in its middle: `···├──●──┤··|···`."""

    def place(value: float) -> int:
        share = (min(max(value, 1 - REACH), 1 + REACH) - (1 - REACH)) / (2 * REACH)
        return round(share * (WIDTH - 1))

    cells = ["·"] * WIDTH
    cells[WIDTH // 2] = "|"
    if ratio.low is not None and ratio.high is not None:
        low, high = place(ratio.low), place(ratio.high)
        for i in range(low, high + 1):
            cells[i] = "─"
        cells[low], cells[high] = "├", "┤"
    cells[place(ratio.value)] = "●"
    return "".join(cells)


def duration(seconds: float) -> str:
    """ "1 h 05 min", "12 min" or "40 s"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
