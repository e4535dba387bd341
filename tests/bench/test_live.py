"""What somebody who watches a run sees: on a terminal, and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from tests.bench.test_measure import slot
from vllama.bench import live
from vllama.bench.live import Lines, Progress, Screen, duration, shown, strip, watch
from vllama.bench.observer import Observer, Outline, Ratio

OUTLINE = Outline(
    plan_id="abc",
    profile="quick",
    control="llama-server",
    pairs=2,
    cells=("streaming/c1",),
    systems={"vllama": "vLLama", "llama-server": "llama-server"},
    order={"streaming/c1": (("vllama", "llama-server"), ("llama-server", "vllama"))},
    slots=4,
    seconds=40.0,
    folder="results/x",
)
RATIO = Ratio("ttft", 1.123, 1.05, 1.2, 8)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def play(observer: Observer) -> None:
    """Two pairs of one cell; the last slot fails."""
    observer.said("starting vLLama")
    observer.outlined(OUTLINE)
    index = 0
    for block, order in enumerate(OUTLINE.order["streaming/c1"]):
        for place, system in enumerate(order):
            observer.slot_started("streaming/c1", block, system)
            error = "closed" if index == 3 else ""
            done = slot(index=index, block=block, place=place, system=system, error=error)
            observer.slot_finished(done, [])
            index += 1
        observer.ratios("streaming/c1", "vllama", [RATIO])
    observer.finished("complete")


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with watch(out, clock=Clock()) as observer:
        assert isinstance(observer, Lines)
        play(observer)
    said = out.getvalue().splitlines()
    assert said[0] == "starting vLLama"
    assert said[1] == "4 slots, about 40 s; records in results/x"
    assert said[2].startswith("pair 1/2  streaming/c1")
    assert said[3].startswith("pair 2/2  streaming/c1")
    assert "vllama 0.15 s FAILED" in said[3]
    assert said[-2:] == ["streaming/c1  vllama ÷ control:  first text 1.123 [1.050, 1.200]", "the run is complete"]
    assert "\x1b" not in out.getvalue()


def test_a_screen_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    out = Terminal()
    with watch(out, clock=Clock()) as observer:
        assert isinstance(observer, Screen)
        play(observer)
    assert "1.123" in out.getvalue()
    assert "the run is complete" in out.getvalue()


def screen(clock: Clock) -> tuple[Screen, Console]:
    console = Console(file=Terminal(), force_terminal=True, width=120, height=40, color_system=None)
    return Screen(Live(console=console, auto_refresh=False), clock), console


def drawn(observer: Screen, console: Console) -> str:
    with console.capture() as capture:
        console.print(observer.renderable())
    return capture.get()


def test_the_screen_says_where_the_run_stands() -> None:
    clock = Clock()
    observer, console = screen(clock)
    observer.outlined(OUTLINE)
    observer.slot_started("streaming/c1", 0, "vllama")
    text = drawn(observer, console)
    assert "0 of 4 slots, 0 s gone, about 40 s left" in text
    assert "pair 1  streaming/c1  vllama" in text
    clock.now = 30.0
    observer.slot_finished(slot(error="closed"), [])
    observer.ratios("streaming/c1", "vllama", [RATIO, Ratio("decode", 0.9, None, None, 3)])
    text = drawn(observer, console)
    assert "1 of 4 slots, 1 failed, 30 s gone" in text
    assert "1.050 to 1.200" in text
    assert "too few pairs" in text
    assert "ratio to llama-server" in text


def test_nothing_is_drawn_while_a_slot_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    observer, _ = screen(Clock())
    drawings = []
    monkeypatch.setattr(Screen, "_draw", lambda self: drawings.append("x"))
    observer.outlined(OUTLINE)
    observer.slot_started("streaming/c1", 0, "vllama")
    before = len(drawings)
    observer.slot_finished(slot(), [])
    assert len(drawings) == before
    assert observer._live.auto_refresh is False


def test_only_the_last_rows_and_lines_stay() -> None:
    observer, console = screen(Clock())
    observer.outlined(OUTLINE)
    for number in range(40):
        observer.said(f"line {number}")
        observer.ratios(f"cell{number}/c1", "vllama", [RATIO])
    text = drawn(observer, console)
    assert "line 33" not in text
    assert "line 34" in text
    assert "cell15/c1" not in text
    assert "cell16/c1" in text
    assert "cell39/c1" in text


def test_time_left_follows_the_rate_of_the_slots() -> None:
    clock = Clock()
    progress = Progress(OUTLINE, clock)
    assert progress.left == 40.0
    clock.now, progress.done = 60.0, 2
    # Ten slots of 10 s as expected and two of 30 s: 160 s for twelve, and two to go.
    assert progress.left == pytest.approx(2 * 160 / 12)
    progress.done = 4
    assert progress.left == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (89.4, "89 s"), (95, "2 min"), (3540, "59 min"), (3900, "1 h 05 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_strip_shows_the_interval_around_one() -> None:
    assert strip(Ratio("ttft", 1.0, None, None, 1)) == "·" * 15 + "●" + "·" * 15
    found = strip(Ratio("ttft", 0.8, 0.7, 0.9, 8))
    assert found.index("├") < found.index("●") < found.index("┤") < found.index("|")
    # What does not fit ends at the border.
    assert strip(Ratio("ttft", 9.0, 0.01, 20.0, 8))[-1] == "●"
    assert len(strip(Ratio("ttft", 9.0, 0.01, 20.0, 8))) == live.WIDTH


def test_unknown_metrics_show_their_key() -> None:
    assert shown(Ratio("new", 1.0, None, None, 2)) == "new 1.000 (n = 2)"
