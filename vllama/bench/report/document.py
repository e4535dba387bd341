"""The report as sections. Claims and losses come first, then whether any of it may be believed, then the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllama.bench.checks import CHECKS, Verdict, failures, judge_all
from vllama.bench.claims import WORDS, Claim, judge_claims, row
from vllama.bench.measure import METRICS, Metric
from vllama.bench.report import frames, setup
from vllama.bench.report.blocks import Block, Bullets, Figure, Kind, Section, Table, Text
from vllama.bench.report.figures import figures
from vllama.bench.report.numbers import (
    SUBJECT,
    Loss,
    comparable,
    headline,
    interval,
    is_twin,
    losses,
    measured,
    others,
    ratio,
    short,
    spread,
    title,
)
from vllama.bench.results import Run

SIGNS: dict[bool | None, str] = {True: "ok", False: "**FAILED**", None: "n/a"}
CLIENT_LOADS = {"idle": "on an idle machine", "busy": "beside two busy threads"}
KINDS: dict[bool | None, Kind] = {True: "good", False: "bad", None: "weak"}

WITHIN, WITHIN_TITLE = "behind-but-within-the-noise", "Behind, but within the noise"
"""The id is what GitHub makes of the title, so that one link serves both pages."""


def document(run: Run, claims: Sequence[Claim] = ()) -> list[Section]:
    """Everything that a report says, in its order. `claims` are those that get a verdict."""
    verdicts = judge_all(run)
    drawn = figures(run)

    def plots(*ids: str) -> tuple[Block, ...]:
        return tuple(drawn[id_] for id_ in ids if id_ in drawn)

    sections = [
        Section("claims", "In short", (Text(scope(run)), *_headline(run, failures(verdicts)))),
        Section("verdicts", "What was claimed, and what it wants of itself", _claims(run, claims)),
        Section("losses", "Where vLLama is behind", losses_blocks(run)),
        Section("table", "The table", (Text(legend(run)), *main_tables(run))),
        Section("validity", "Is the comparison valid?", _validity(run, verdicts)),
        Section("ratios", "Ratios to the control", plots("forest")),
        Section("load", "Against the number of streams", plots("curves"), html_only=True),
        Section("distributions", "Every request, every gap", plots("cdf-ttft", "cdf-gaps"), html_only=True),
        Section("timeline", "One slot of each system, text by text", plots("timeline"), html_only=True),
        Section("order", "The order of the run, and the machine meanwhile", plots("order"), html_only=True),
        Section("memory", "Memory", plots("memory"), html_only=True),
        Section("agreement", "Who gives the same answers?", setup.agreement(run)),
        Section(WITHIN, WITHIN_TITLE, _within_noise(run)),
        Section("everything", "Everything measured", _everything(run)),
        Section("started", "What was started", setup.started(run)),
        Section("differences", "How the engines' command lines differ", setup.differences(run)),
        Section("words", "What the words mean", (Bullets(tuple(_definitions(run))),)),
        Section("again", "Do it again", (Text(_reproduce(run)),)),
    ]
    return [section for section in sections if section.blocks]


def figures_of(sections: Sequence[Section]) -> list[Figure]:
    """All figures, in their order."""
    return [block for section in sections for block in section.blocks if isinstance(block, Figure)]


def scope(run: Run) -> str:
    """What the numbers hold for: one sentence that stands above every table."""
    machine, plan = run.environment["machine"], run.plan
    state = run.environment["state"]
    pairs = "1 pair" if plan["pairs"] == 1 else f"{plan['pairs']} pairs"
    note = "" if state == "complete" else f" **This run is {state}.**"
    return (
        f"Run `{run.name}`, plan `{plan['id']}`, {pairs}. {machine['cpu']}, "
        f"{machine['usable_cores']} usable cores, {machine['os']} {machine['kernel']}; {run.environment['threads']} "
        f"compute threads for every system; model {run.environment['model']['file']} "
        f"(sha256 {run.environment['model']['sha256'][:12]}…); context {plan['ctx']} tokens per request, "
        f"{plan['parallel']} requests at once; greedy sampling. These numbers hold for this machine, this model and "
        f"this load.{note}"
    )


def legend(run: Run) -> str:
    """How to read the main table."""
    return (
        f"Median over the slots ± robust spread (scaled median absolute deviation). ÷ is the ratio to "
        f"{title(run, run.plan['control'])} in the same pair: Hodges-Lehmann estimate with the exact "
        f"{run.plan['confidence']:.0%} interval; ~ means that the interval contains 1. {client_error(run)}"
    )


def client_error(run: Run) -> str:
    """What a latency can be wrong by because of the client that took it."""
    bounds: Mapping[str, float] = run.environment.get("client_error_ms", {})
    said = [f"{bounds[load]:.2f} ms {when}" for load, when in CLIENT_LOADS.items() if load in bounds]
    if not said:
        return "The client's own error was not measured on this machine (`vllama bench selfcheck`)."
    return f"The client's own error in a first text or a gap is at most {', '.join(said)} (99th percentile, selfcheck)."


def _headline(run: Run, bad: Sequence[str]) -> tuple[Block, ...]:
    control = title(run, run.plan["control"])
    lines = []
    for cell, metric in headline(run):
        found = ratio(run, cell, SUBJECT, metric) if SUBJECT in run.systems else None
        if found is not None:
            lines.append(f"{cell}: vLLama's {metric.title} = **{found.value:.3f}x** {control} {interval(found)}")
    bullets = (Bullets(tuple(lines)),) if lines else ()
    if not bad:
        return bullets
    withdrawn = f"**No headline: {', '.join(bad)} failed** (see below)."
    return (Text(f"{withdrawn} The numbers, for what they are worth:" if lines else withdrawn), *bullets)


def _claims(run: Run, claims: Sequence[Claim]) -> tuple[Block, ...]:
    if not claims:
        return ()
    verdicts = judge_claims(claims, run)
    colours: dict[str, Kind] = dict(zip(WORDS, ("bad", "good", "weak"), strict=True))
    kinds = {(y, 2): colours[verdict.word] for y, verdict in enumerate(verdicts)}
    head = ("id", "what was said", "verdict", "measured, or what it takes")
    return (Table(head, tuple(row(verdict) for verdict in verdicts), kinds),)


def losses_blocks(run: Run, *, only_headline: bool = False) -> tuple[Block, ...]:
    """The table of what is worse, as far as this run can tell, and how much more lies within the noise."""
    if SUBJECT not in run.systems:
        return (Text("vLLama was not measured."),)
    found = losses(run)
    if only_headline:
        wanted = [(cell, metric.key) for cell, metric in headline(run)]
        found = [loss for loss in found if (loss.cell, loss.metric.key) in wanted or loss.metric.key in ("cpu", "pss")]
    if not found:
        return (Text("Nowhere in this run."),)
    head = ("scenario", "metric", "against", "vLLama ÷ it")
    blocks: list[Block] = []
    if seen := [loss for loss in found if loss.certain is not False]:
        rows = [(*_loss(run, loss), "yes" if loss.certain else "too few pairs to say") for loss in seen]
        kinds: dict[tuple[int, int], Kind] = {(y, 3): "bad" if loss.certain else "weak" for y, loss in enumerate(seen)}
        blocks.append(Table((*head, "beyond the noise?"), tuple(rows), kinds))
    else:
        blocks.append(Text("Nowhere beyond the noise of this run."))
    if within := sum(loss.certain is False for loss in found):
        one = "one more place" if within == 1 else f"{within} more places"
        blocks.append(
            Text(f"In {one} the estimate is on the wrong side, within the noise: [{WITHIN_TITLE.lower()}](#{WITHIN}).")
        )
    return tuple(blocks)


def _within_noise(run: Run) -> tuple[Block, ...]:
    """Where the estimate is on the wrong side and the interval contains equality."""
    within = [loss for loss in losses(run) if loss.certain is False]
    if not within:
        return ()
    head = ("scenario", "metric", "against", "vLLama ÷ it")
    return (
        Text("The interval contains equality: these pairs cannot tell vLLama from the other there."),
        Table(head, tuple(_loss(run, loss) for loss in within), fold=f"cells and metrics: {len(within)}"),
    )


def _loss(run: Run, loss: Loss) -> tuple[str, ...]:
    return loss.cell, loss.metric.title, title(run, loss.system), loss.shown


def _excuse(run: Run, cell: str, system: str) -> str:
    """Why a system has no number there, in a word."""
    return run.not_measured.get(cell, {}).get(system, {}).get("verdict", "–")


def _row(run: Run, cell: str, system: str, metrics: Sequence[Metric]) -> tuple[list[str], dict[int, Kind]]:
    control = run.plan["control"]
    row = [f"{title(run, system)} (control)" if system == control else title(run, system)]
    kinds: dict[int, Kind] = {}
    for metric in metrics:
        shown = spread(run, cell, system, metric)
        found = None
        if system != control and comparable(run, system, metric):
            found = ratio(run, cell, system, metric)
        row += [_excuse(run, cell, system) if shown == "–" else shown, "1" if system == control else short(found)]
        if found is not None and found.excludes_one:
            better = found.value > 1 if metric.better == "higher" else found.value < 1
            kinds[len(row) - 1] = "good" if better else "bad"
    return row, kinds


def main_tables(run: Run) -> tuple[Block, ...]:
    """What each cell is for, a table each, and in the last one what the run costs in CPU time and memory."""
    wanted: dict[str, list[Metric]] = {}
    for cell, metric in headline(run):
        wanted.setdefault(cell, []).append(metric)
    if busiest := _busiest(run):
        wanted.setdefault(busiest, []).extend(METRICS[key] for key in ("cpu", "pss"))
    titles = {scenario["id"]: scenario["title"] for scenario in run.plan["scenarios"]}
    blocks: list[Block] = []
    for cell, metrics in wanted.items():
        head = ["system"]
        for metric in metrics:
            head += [f"{metric.title}, {metric.unit}", "÷"]
        rows = []
        kinds: dict[tuple[int, int], Kind] = {}
        for y, system in enumerate([run.plan["control"], *others(run)]):
            row, colours = _row(run, cell, system, metrics)
            rows.append(tuple(row))
            kinds |= {(y, x): kind for x, kind in colours.items()}
        blocks += [
            Text(f"**{cell}**: {titles.get(cell.partition('/')[0], '')}"),
            Table(tuple(head), tuple(rows), kinds),
        ]
    return tuple(blocks)


def _busiest(run: Run) -> str:
    """The cell with the most requests at once, the last of them: where memory and CPU time say most."""
    at_once = {cell: next(slot.concurrency for slot in run.slots if slot.cell == cell) for cell in run.cells}
    return max(reversed(run.cells), key=lambda cell: at_once[cell], default="")


def _validity(run: Run, verdicts: Mapping[str, Mapping[str, Verdict]]) -> tuple[Block, ...]:
    rows = []
    kinds: dict[tuple[int, int], Kind] = {}
    for y, check in enumerate(CHECKS):
        found = verdicts[check.id]
        keys = [""] if check.scope == "run" else run.systems
        signs = [SIGNS[found[key].ok] if key in found else "–" for key in keys]
        cells = signs if check.scope == "system" else signs * len(run.systems)
        rows.append((check.id, check.title, *cells))
        for x, key in enumerate(keys if check.scope == "system" else keys * len(run.systems)):
            if key in found:
                kinds[(y, x + 2)] = KINDS[found[key].ok]
    head = ("id", "check", *(title(run, system) for system in run.systems))
    evidence = tuple(
        (check.id, title(run, key) if key else "run", SIGNS[verdict.ok], verdict.detail)
        for check in CHECKS
        for key, verdict in verdicts[check.id].items()
    )
    blocks: list[Block] = [
        Table(head, tuple(rows), kinds),
        Text("The evidence:"),
        Table(("id", "system", "verdict", "evidence"), evidence, fold="the evidence for each verdict"),
    ]
    if twin := next((system for system in run.systems if is_twin(run, system)), None):
        same = []
        for cell, metric in headline(run):
            if (found_ratio := ratio(run, cell, twin, metric)) is not None:
                same.append((cell, metric.title, short(found_ratio)))
        blocks.append(
            Text("The control against itself (a second process of the same program): what this run cannot tell apart.")
        )
        blocks.append(Table(("scenario", "metric", "twin ÷ control"), tuple(same)))
    return tuple(blocks)


def _everything(run: Run) -> tuple[Block, ...]:
    head, rows = frames.details(run)
    named = ["scenario", *head[1:2], *(title(run, system) for system in run.systems)]
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(tuple(named), tuple(tuple(row) for row in rows), fold="all cells and metrics"))
    excuses = [
        f"{cell}, {title(run, system)}: **{why['verdict']}**. {why['reason']} {why['evidence']}".strip()
        for cell, systems in run.not_measured.items()
        for system, why in systems.items()
    ]
    if excuses:
        blocks += [Text("Cells without a number:"), Bullets(tuple(excuses))]
    return tuple(blocks)


def _definitions(run: Run) -> list[str]:
    lines = [f"**{metric.title}**: {metric.definition}." for metric in measured(run)]
    for scenario in run.plan["scenarios"]:
        slots = ", ".join(
            f"c = {c}: {r} requests"
            for c, r in zip(scenario.get("concurrency", ()), scenario.get("requests", ()), strict=False)
        )
        lines.append(
            f"**{scenario['id']}**: {scenario['title']}. {scenario.get('why', '')} {scenario['n_out']} output tokens"
            + (f"; a slot is {slots}." if slots else ".")
        )
    return lines


def _reproduce(run: Run) -> str:
    plan = run.plan
    return (
        f"`nox -s bench -- --profile {plan['profile']} --pairs {plan['pairs']} --seed {plan['seed']}` runs plan "
        f"`{plan['id']}` again. The raw records are in `results/{run.name}/`; "
        f"`python -m vllama.bench report results/{run.name}` writes this page from them, and `export` with `--csv` or "
        f"`--benchstat` gives the numbers to other programs."
    )
