"""The report of a run, in Markdown. Every number in it is computed here from the raw records; nothing is typed.

`render(run)` is a pure function of the records, so a test can demand that a committed report is current.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vllama.bench.checks import CHECKS, Verdict, failures, judge_all
from vllama.bench.measure import METRICS, Metric
from vllama.bench.pairing import paired, values
from vllama.bench.results import Run
from vllama.bench.stats import Estimate, paired_location, paired_ratio, relative_spread

SUBJECT = "vllama"

HEADLINE = (
    ("streaming/c1", "ttft"),
    ("streaming/c1", "decode"),
    ("sequential/c1", "e2e"),
    ("streaming/c1", "aggregate"),
    ("concurrent/c5", "ttft"),
    ("concurrent/c5", "aggregate"),
    ("concurrent/c8", "ttft"),
    ("concurrent/c8", "aggregate"),
)
"""(cell, metric) of the first table; cells that a run does not have are left out."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the project wants of itself. `how`: "ratio" to the control, "difference" (ours - control), or "scaling",
    the ratio to our own `cell` at another concurrency given by `base`."""

    title: str
    cell: str
    metric: str
    how: str
    target: float
    base: str = ""


GOALS = (
    Goal("decode at c = 1 at least 0.95 of the control", "streaming/c1", "decode", "ratio", 0.95),
    Goal("first text at most 5 ms after the control's", "streaming/c1", "ttft", "difference", 5.0),
    Goal("aggregate at c = 8 at least 0.97 of the control", "concurrent/c8", "aggregate", "ratio", 0.97),
    Goal("aggregate at c = 8 at least 1.4 of c = 1", "concurrent/c8", "aggregate", "scaling", 1.4, "streaming/c1"),
)


def ratio(run: Run, cell: str, system: str, metric: Metric) -> Estimate | None:
    """`system` over the control, or None without a common block."""
    return _ratio(run, metric, (cell, system), (cell, run.plan["control"]))


def _ratio(run: Run, metric: Metric, ours: tuple[str, str], base: tuple[str, str]) -> Estimate | None:
    above, below = paired(run, metric, ours, base)
    # A buffered stream has gaps of 0: no ratio then, and check T2 says why.
    if not above or min(*above, *below) <= 0:
        return None
    return paired_ratio(above, below, run.plan["confidence"])


def render(run: Run, plot: str = "") -> str:
    """The whole report. `plot` is the name of a picture beside it."""
    verdicts = judge_all(run)
    bad = failures(verdicts)
    parts = [
        f"# {run.plan['title']}",
        _scope(run),
        _headline(run, bad),
        "## The table\n\n" + _legend(run),
        _main_table(run),
        "## Where vLLama is behind\n",
        _losses(run),
        "## Goals\n",
        _goals(run),
        *([f"![Ratios to the control]({plot})"] if plot else []),
        "## Is the comparison valid?\n",
        _checks(run, verdicts),
        "## Everything measured\n",
        _details(run),
        "## What was started\n",
        _started(run),
        "## What the words mean\n",
        _definitions(run),
        "## Do it again\n",
        _reproduce(run),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _title(run: Run, system: str) -> str:
    return str(run.environment["systems"].get(system, {}).get("title", system))


def _scope(run: Run) -> str:
    machine, plan = run.environment["machine"], run.plan
    state = run.environment["state"]
    note = "" if state == "complete" else f" **This run is {state}.**"
    return (
        f"Run `{run.name}`, plan `{plan['id']}`, {plan['pairs']} pairs. {machine['cpu']}, "
        f"{machine['usable_cores']} usable cores, {machine['os']} {machine['kernel']}; {run.environment['threads']} "
        f"compute threads for every system; model {run.environment['model']['file']} "
        f"(sha256 {run.environment['model']['sha256'][:12]}…); context {plan['ctx']} tokens per request, "
        f"{plan['parallel']} requests at once; greedy sampling. These numbers hold for this machine, this model and "
        f"this load.{note}"
    )


def _headline(run: Run, bad: Sequence[str]) -> str:
    control = _title(run, run.plan["control"])
    lines = []
    for cell, key in HEADLINE:
        metric = METRICS[key]
        found = ratio(run, cell, SUBJECT, metric) if SUBJECT in run.systems else None
        if found is None:
            continue
        lines.append(f"- {cell}: vLLama's {metric.title} = **{found.value:.3f}x** {control} {_interval(found)}")
    if bad:
        return f"**No headline: {', '.join(bad)} failed** (see below). The numbers, for what they are worth:\n\n" + (
            "\n".join(lines)
        )
    return "\n".join(lines)


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        low, high = min(found.values), max(found.values)
        return f"(range {low:.3f} to {high:.3f}, n = {found.n}: too few pairs for an interval)"
    return f"[{found.low:.3f}, {found.high:.3f}] ({found.confidence:.0%} interval, n = {found.n} pairs)"


def _short(found: Estimate | None) -> str:
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.3f} (n = {found.n})"
    mark = "" if found.excludes_one else " ~"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]{mark}"


def _spread(run: Run, cell: str, system: str, metric: Metric) -> str:
    """Median over the slots and their spread."""
    found = list(values(run, cell, system, metric).values())
    if not found:
        return "–"
    return f"{median(found):.{metric.digits}f} ±{relative_spread(found):.1%}"


def _legend(run: Run) -> str:
    return (
        f"Median over the slots ± robust spread (scaled median absolute deviation). ÷ is the ratio to "
        f"{_title(run, run.plan['control'])} in the same pair: Hodges-Lehmann estimate with the exact "
        f"{run.plan['confidence']:.0%} interval; ~ means that the interval contains 1."
    )


def _others(run: Run) -> list[str]:
    """All systems but the control, ours first."""
    rest = [system for system in run.systems if system not in (SUBJECT, run.plan["control"])]
    return [SUBJECT, *rest] if SUBJECT in run.systems else rest


def _row(run: Run, cell: str, metric: Metric) -> list[str]:
    row = [cell, f"{metric.title}, {metric.unit}", _spread(run, cell, run.plan["control"], metric)]
    for system in _others(run):
        row.append(_spread(run, cell, system, metric))
        is_ceiling = bool(run.environment["systems"].get(system, {}).get("ceiling"))
        # There is no server and no socket in front of the ceiling: its first token is another thing.
        row.append("–" if is_ceiling and metric.key == "ttft" else _short(ratio(run, cell, system, metric)))
    return row


def _main_table(run: Run) -> str:
    head = ["scenario", "metric", f"{_title(run, run.plan['control'])} (control)"]
    for system in _others(run):
        head += [_title(run, system), "÷"]
    rows = [_row(run, cell, METRICS[key]) for cell, key in HEADLINE if cell in run.cells]
    last = next((cell for cell in reversed(run.cells)), None)
    if last is not None:
        rows += [_row(run, last, METRICS[key]) for key in ("cpu", "pss")]
    return table(head, rows)


def _losses(run: Run) -> str:
    """Every cell and metric where the estimate says that ours is worse, significant or not."""
    if SUBJECT not in run.systems:
        return "vLLama was not measured."
    rows = []
    for system in [s for s in run.systems if s != SUBJECT]:
        is_ceiling = bool(run.environment["systems"].get(system, {}).get("ceiling"))
        for cell in run.cells:
            for metric in METRICS.values():
                if is_ceiling and metric.key not in ("decode", "aggregate", "steady"):
                    continue
                found = _ratio(run, metric, (cell, SUBJECT), (cell, system))
                if found is None:
                    continue
                if found.value < 1 if metric.better == "higher" else found.value > 1:
                    certain = {True: "yes", False: "no"}[found.excludes_one] if found.low is not None else "n too small"
                    rows.append([cell, metric.title, _title(run, system), _short(found), certain])
    if not rows:
        return "Nowhere in this run."
    return table(["scenario", "metric", "against", "vLLama ÷ it", "beyond the noise?"], rows)


def _goals(run: Run) -> str:
    rows = []
    for goal in GOALS:
        metric = METRICS[goal.metric]
        base = (goal.base or goal.cell, SUBJECT if goal.how == "scaling" else run.plan["control"])
        ours, theirs = paired(run, metric, (goal.cell, SUBJECT), base)
        if not ours:
            rows.append([goal.title, "not measured", "–"])
            continue
        if goal.how == "difference":
            deltas = [a - b for a, b in zip(ours, theirs, strict=True)]
            found = paired_location(deltas, run.plan["confidence"])
            met = found.value <= goal.target
            low, high = (found.low, found.high) if found.low is not None else (min(deltas), max(deltas))
            shown = f"{found.value:+.1f} {metric.unit} [{low:+.1f}, {high:+.1f}]"
        else:
            found = paired_ratio(ours, theirs, run.plan["confidence"])
            met = found.value >= goal.target
            shown = _short(found).removesuffix(" ~")
        rows.append([goal.title, shown, "yes" if met else "**no**"])
    return table(["goal", "measured", "estimate reaches it"], rows)


def _checks(run: Run, verdicts: dict[str, dict[str, Verdict]]) -> str:
    signs = {True: "ok", False: "**FAILED**", None: "n/a"}
    rows = []
    for check in CHECKS:
        for key, verdict in verdicts[check.id].items():
            rows.append([check.id, check.title, _title(run, key) if key else "run", signs[verdict.ok], verdict.detail])
    floor = ""
    twin = f"{run.plan['control']}-twin"
    if twin in run.systems:
        lines = []
        for cell, key in HEADLINE:
            found = ratio(run, cell, twin, METRICS[key])
            if found is not None:
                lines.append([cell, METRICS[key].title, _short(found)])
        floor = (
            "\n\nThe control against itself (a second process of the same program): what this run cannot tell apart."
            "\n\n" + table(["scenario", "metric", "twin ÷ control"], lines)
        )
    return table(["id", "check", "system", "verdict", "evidence"], rows) + floor


def _details(run: Run) -> str:
    head = ["scenario", "metric", *(_title(run, system) for system in run.systems)]
    rows = []
    for cell in run.cells:
        for metric in METRICS.values():
            row = [_spread(run, cell, system, metric) for system in run.systems]
            if any(value != "–" for value in row):
                rows.append([cell, f"{metric.title}, {metric.unit}", *row])
    return table(head, rows)


def _started(run: Run) -> str:
    parts = []
    for key, system in run.environment["systems"].items():
        lines = [f"**{system['title']}** (`{key}`, lane {system['lane']}): {system['version']}"]
        if system["notes"]:
            lines.append(f"- {'; '.join(system['notes'])}")
        if system["argv"]:
            lines.append(f"- `{' '.join(system['argv'])}`")
        lines += [f"- child: `{' '.join(child)}`" for child in system["children"]]
        if system["env"]:
            lines.append(f"- environment: `{' '.join(f'{k}={v}' for k, v in sorted(system['env'].items()))}`")
        if system["options"]:
            lines.append(f"- options of each request: `{system['options']}`")
        parts.append("\n".join(lines))
    missing = run.environment["missing"]
    if missing:
        parts.append("Not measured:\n" + "\n".join(f"- `{key}`: {reason}" for key, reason in missing.items()))
    packages = ", ".join(f"{name} {number}" for name, number in run.environment["machine"]["packages"].items())
    parts.append(f"Python {run.environment['machine']['python']}; {packages}.")
    return "\n\n".join(parts)


def _definitions(run: Run) -> str:
    lines = [f"- **{metric.title}**: {metric.definition}." for metric in METRICS.values()]
    for scenario in run.plan["scenarios"]:
        slots = ", ".join(
            f"c = {c}: {r} requests" for c, r in zip(scenario["concurrency"], scenario["requests"], strict=True)
        )
        lines.append(
            f"- **{scenario['id']}**: {scenario['title']}. {scenario['why']} {scenario['n_out']} output tokens; "
            f"a slot is {slots}."
        )
    return "\n".join(lines)


def _reproduce(run: Run) -> str:
    plan = run.plan
    return (
        f"`nox -s bench -- --profile {plan['profile']} --pairs {plan['pairs']} --seed {plan['seed']}` runs plan "
        f"`{plan['id']}` again. The raw records are in `results/{run.name}/`; "
        f"`python -m vllama.bench report results/{run.name}` writes this page from them."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " for _ in head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def forest(run: Run, path: Path) -> bool:
    """Draw the ratios of the headline rows to the control; False if matplotlib is not installed."""
    try:
        import matplotlib as mpl

        mpl.use("svg")
        from matplotlib import pyplot
    except ImportError:
        return False
    mpl.rcParams["svg.hashsalt"] = run.name
    entries: list[tuple[str, str, Estimate]] = []
    systems = [s for s in _others(run) if not run.environment["systems"].get(s, {}).get("ceiling")]
    for cell, key in HEADLINE:
        for system in systems:
            found = ratio(run, cell, system, METRICS[key])
            if found is not None:
                entries.append((f"{cell} {METRICS[key].title} ({METRICS[key].better} is better)", system, found))
    if not entries:
        return False
    labels = list(dict.fromkeys(label for label, _, _ in entries))
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.45 * len(labels)))
    for number, system in enumerate(systems):
        mine = [(labels.index(label), found) for label, name, found in entries if name == system]
        offset = 0.12 * (number - (len(systems) - 1) / 2)
        low = [found.value - (min(found.values) if found.low is None else found.low) for _, found in mine]
        high = [(max(found.values) if found.high is None else found.high) - found.value for _, found in mine]
        axes.errorbar(
            [found.value for _, found in mine],
            [place + offset for place, _ in mine],
            xerr=[low, high],
            fmt="o",
            capsize=3,
            label=_title(run, system),
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"ratio to {_title(run, run.plan['control'])}")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def summary(run: Run) -> str:
    """What a README shows of a run: the table, the losses, the goals, and whether all of it is valid."""
    bad = failures(judge_all(run))
    verdict = f"**Checks that failed: {', '.join(bad)}; see the report.**" if bad else "All validity checks passed."
    parts = [
        _scope(run),
        _legend(run),
        _main_table(run),
        "Where vLLama is behind:",
        _losses(run),
        "Goals:",
        _goals(run),
        f"{verdict} [The whole report](reports/{run.name}.md), [raw records](results/{run.name}).",
    ]
    return "\n\n".join(part.strip("\n") for part in parts)


def with_summary(readme: str, run: Run) -> str:
    """The README with the block between its two markers replaced. Raises ValueError without them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{summary(run)}\n{END}{after}"


def write(run: Run, reports: Path) -> Path:
    """Write reports/<run>.md (and its plot where matplotlib is installed); returns the page's path."""
    reports.mkdir(parents=True, exist_ok=True)
    picture = reports / f"{run.name}.svg"
    has_plot = forest(run, picture)
    page = reports / f"{run.name}.md"
    page.write_text(render(run, picture.name if has_plot else ""), encoding="utf-8")
    return page


def is_current(run: Run, reports: Path) -> bool:
    """Whether the page on disk is what the records say today."""
    picture = reports / f"{run.name}.svg"
    try:
        page = (reports / f"{run.name}.md").read_text(encoding="utf-8")
    except OSError:
        return False
    return page == render(run, picture.name if picture.exists() else "")
