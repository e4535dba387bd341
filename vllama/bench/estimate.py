"""Before a run: how long it will take, and what it could show. From earlier results, else from constants."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from vllama.bench.measure import METRICS
from vllama.bench.pairing import paired
from vllama.bench.plan import Cell, Plan, Scenario
from vllama.bench.results import Run, read_run
from vllama.bench.stats import location_error, power
from vllama.errors import ConfigError

START_S = 6.0
"""Starting a system, giving it the model, and warming it up, without its cells."""

BETWEEN_S = 0.36
"""Around a slot: a small request to the system, probes, records."""

FIRST_S = 15.0
SCORED_S = 7.0
"""Per run: hashing the model, and judging the answers of one system."""

SCREENED = 1.3
"""Of the time of a slot: some prompts are refused and others asked instead."""

TOKEN_S, BATCHED_TOKEN_S, PROMPT_TOKEN_S = 0.0125, 0.0095, 0.004
"""Of a model of 135 million parameters on two cores; only used for cells that nobody has measured here."""

INVENTED = ("golden", "scripted")
"""Systems without a model: faster than any that has one."""

POWER = 0.9
ASSUMED_NOISE = 0.05
"""Standard deviation of a pair's log-ratio of two equal systems on a shared machine, where nobody has measured it."""

HEADLINE_METRICS = ("ttft", "decode", "aggregate", "e2e")


@dataclass(frozen=True, slots=True)
class Duration:
    """`seconds` in all; `measured` is the share of the slots whose time is known from earlier results. `screening` is
    what the prompts' screening takes besides, once for a model; it grows with the pairs, as `per_pair` does."""

    seconds: float
    measured: float
    per_pair: float
    fixed: float

    screening: float = 0.0

    def pairs_within(self, budget: float) -> int:
        """How many pairs fit into that many seconds."""
        if not self.per_pair:
            return 0
        planned = (self.seconds - self.fixed - self.screening) / self.per_pair
        return max(0, math.floor((budget - self.fixed) / (self.per_pair + self.screening / planned)))


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest true change of a ratio that `pairs` pairs show at 90 % power and one-sided alpha 1 %."""

    cell: str
    metric: str
    change: float
    origin: str


def duration(
    plan: Plan, cells: Mapping[str, Sequence[str]], earlier: Iterable[Path], unscreened: Iterable[Cell] = ()
) -> Duration:
    """`cells`: the systems of each cell. `earlier`: result folders. `unscreened`: the cell of each slot whose prompts
    are still to be screened."""
    known = _walls(earlier)
    by_cell = {cell: [w for (c, _), walls in known.items() if c == cell for w in walls] for cell in cells}
    block, slots, found = 0.0, 0, 0
    for cell in plan.cells:
        for key in cells.get(cell.id, ()):
            walls = known.get((cell.id, key)) or (by_cell[cell.id] if key not in INVENTED else [])
            seconds = median(walls) if walls else guess(plan.scenario(cell.scenario), cell)
            block += BETWEEN_S + (seconds if walls or key not in INVENTED else seconds / 3)
            slots += 1
            found += bool(walls)
    systems = {key for keys in cells.values() for key in keys}
    # Warming up is about one slot of each kind at each system, with shorter answers.
    screening = sum(SCREENED * guess(plan.scenario(cell.scenario), cell) for cell in unscreened)
    fixed = FIRST_S + len(systems) * (START_S + SCORED_S) + 0.3 * block
    return Duration(fixed + screening + plan.pairs * block, found / slots if slots else 0.0, block, fixed, screening)


def guess(scenario: Scenario, cell: Cell) -> float:
    """Seconds of a slot that nobody has measured."""
    token = TOKEN_S if cell.concurrency < 4 else BATCHED_TOKEN_S
    text = cell.requests * (cell.n_out * token + scenario.prompt_tokens * PROMPT_TOKEN_S)
    return {
        "open": cell.requests / scenario.rate + 2.0 if scenario.rate else 0.0,
        "idle": scenario.idle_s + 0.5,
        "cold-start": 2.5 * cell.requests,
        "load": text + 1.0 * cell.requests,
        "num-ctx": text + 1.0 * cell.requests,
        "keep-alive": text + cell.requests / 2 * (scenario.keep_alive_s + 1.0),
        "embeddings": cell.requests * scenario.inputs * scenario.prompt_tokens * PROMPT_TOKEN_S,
        "burst": cell.requests * 0.045,
        "cancel": cell.requests * (scenario.cancel_after * 2 * token + 0.3),
    }.get(cell.kind, text)


def _walls(folders: Iterable[Path]) -> dict[tuple[str, str], list[float]]:
    """(cell, system) -> seconds of its good slots."""
    found: dict[tuple[str, str], list[float]] = {}
    for folder in folders:
        try:
            text = (folder / "slots.jsonl").read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            try:
                slot = json.loads(line)
                if not slot["error"]:
                    key = (f"{slot['scenario']}/c{slot['concurrency']}", slot["system"])
                    found.setdefault(key, []).append(slot["wall_ns"] / 1e9)
            except (ValueError, KeyError):
                continue
    return found


def detectable(plan: Plan, folders: Sequence[Path]) -> list[Detectable]:
    """For each cell and headline metric, from the newest run in which the control ran twice; none without one."""
    runs = [run for folder in sorted(folders, reverse=True) if (run := _with_twin(folder, plan)) is not None]
    found = []
    for cell in plan.cells:
        for key in HEADLINE_METRICS:
            for run in runs:
                if error := _pair_error(run, cell.id, key):
                    change = power(error / math.sqrt(plan.pairs), 0.0, 1 - plan.confidence, POWER).detectable
                    found.append(Detectable(cell.id, key, math.expm1(change), run.name))
                    break
    return found


def assumed(plan: Plan) -> float:
    """The smallest ratio above 1 that the plan shows if the noise of a pair is `ASSUMED_NOISE`, less 1."""
    return math.expm1(power(ASSUMED_NOISE / math.sqrt(plan.pairs), 0.0, 1 - plan.confidence, POWER).detectable)


def _with_twin(folder: Path, plan: Plan) -> Run | None:
    try:
        run = read_run(folder)
    except ConfigError:
        return None
    return run if {plan.control, f"{plan.control}-twin"} <= set(run.systems) else None


def _pair_error(run: Run, cell: str, metric: str) -> float | None:
    """The standard error of one pair's log-ratio of the control to itself."""
    control = str(run.plan["control"])
    above, below = paired(run, METRICS[metric], (cell, f"{control}-twin"), (cell, control))
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True) if a > 0 and b > 0]
    error = location_error(logs) if len(logs) > 1 else None
    return error * math.sqrt(len(logs)) if error else None
