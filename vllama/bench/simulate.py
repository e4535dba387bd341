"""How often does the gate err? Simulated runs on a noisy shared machine, judged by the gate's own `decide`.

A run is simulated slot by slot in the order in which the harness would run it (blocks, cells, Williams order), on one
time axis: a machine that drifts, neighbours that come in bursts, and slots with heavy tails. So what pairing can and
cannot cancel is part of the simulation, and nothing in it knows how the gate decides.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.bench.gate import Observed, Word, decide, overall
from vllama.bench.measure import METRICS
from vllama.bench.policy import Policy, read_policy
from vllama.bench.stats import williams_order
from vllama.bench.tables import keyed, read_toml
from vllama.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Machine:
    """The noise of a shared machine, on the scale of log time; docs/gate.md says where each number comes from.

    `drift` is the standard deviation of a component whose correlation from one slot to the next is `memory`. A slot is
    in a neighbour's burst with probability `busy`; bursts last `burst_slots` slots on average and slow down by a
    factor between 1 + `burst_low` and 1 + `burst_high`. `slot` scales the independent noise of a slot, Student's t
    with `tails` degrees of freedom. `trend` is the standard deviation of a linear change over a whole run.
    """

    drift: float
    memory: float
    busy: float
    burst_slots: float
    burst_low: float
    burst_high: float
    slot: float
    tails: float
    trend: float


@dataclass(frozen=True, slots=True)
class Model:
    """The machine, and how strongly a metric in a cell follows it ("cell metric" -> factor, default 1; 0.02 = 2 %).

    `turns`: cells whose slots are measured in turns -> the share of the machine's noise that tells them apart still.
    """

    machine: Machine
    follows: dict[str, float]
    turns: dict[str, float] = field(default_factory=dict)


def read_model(path: Path) -> Model:
    """The table [simulation] of a policy's neighbour file. Raises `ConfigError` naming the key."""
    raw = read_toml(path)
    machine = Machine(**keyed(Machine, raw.pop("machine", {}), f"{path.name} machine"))
    follows, turns = raw.pop("follows", {}), raw.pop("turns", {})
    if raw or not isinstance(follows, dict) or not isinstance(turns, dict):
        raise ConfigError(f"{path.name}: only [machine], [follows] and [turns] are known")
    return Model(machine, *({str(key): float(value) for key, value in table.items()} for table in (follows, turns)))


def simulate(
    policy: Policy, model: Model, runs: int, seed: int, effects: Mapping[str, float] | None = None
) -> list[list[list[Observed]]]:
    """`runs` simulated runs, each as [first look, both looks] for `gate.decide`.

    `effects` plants a slow-down: rule id -> factor above 1 (0.1 = 10 % slower), on the judged system alone.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    first = _segment(policy, model, runs, policy.pairs, seed, rng, effects or {})
    second = _segment(policy, model, runs, policy.extend, seed + 1, rng, effects or {})
    found = []
    for number in range(runs):
        look = [
            Observed(rule, tuple(first[rule.id][0][number].tolist()), tuple(first[rule.id][1][number].tolist()))
            for rule in policy.rules
        ]
        both = [
            Observed(
                o.rule,
                (*o.slowdowns, *second[o.rule.id][0][number].tolist()),
                (*o.floor, *second[o.rule.id][1][number].tolist()),
            )
            for o in look
        ]
        found.append([look, both])
    return found


def verdict(run: list[list[Observed]], policy: Policy) -> tuple[Word, int]:
    """What the gate says of a simulated run, and after how many looks: the extension only if the first is open."""
    word = overall(decide(run[:1], policy))
    return (word, 1) if word in ("PASS", "FAIL") else (overall(decide(run, policy)), 2)


def machine_noise(machine: Machine, runs: int, slots: int, rng: np.random.Generator) -> Array:
    """(runs, slots): log slow-down of the machine itself at each slot."""
    import numpy as np

    noise = np.empty((runs, slots))
    state = rng.normal(0.0, machine.drift, runs)
    bursting = rng.random(runs) < machine.busy
    size = np.zeros(runs)
    fresh = machine.drift * math.sqrt(1 - machine.memory**2)
    leave = 1 / machine.burst_slots
    enter = leave * machine.busy / (1 - machine.busy)
    low, high = math.log1p(machine.burst_low), math.log1p(machine.burst_high)
    size[bursting] = rng.uniform(low, high, int(bursting.sum()))
    for slot in range(slots):
        noise[:, slot] = state + np.where(bursting, size, 0.0)
        state = machine.memory * state + rng.normal(0.0, fresh, runs)
        chance = rng.random(runs)
        starts = ~bursting & (chance < enter)
        bursting = np.where(bursting, chance >= leave, starts)
        size = np.where(starts, rng.uniform(low, high, runs), size)
    slope = rng.normal(0.0, machine.trend, (runs, 1))
    trended: Array = noise + slope * np.linspace(-0.5, 0.5, slots)
    return trended


def _segment(
    policy: Policy,
    model: Model,
    runs: int,
    pairs: int,
    seed: int,
    rng: np.random.Generator,
    effects: Mapping[str, float],
) -> dict[str, tuple[Array, Array]]:
    """Rule id -> (log slow-downs of the change, of the control against itself), each (runs, pairs)."""
    import numpy as np

    systems = [policy.system, policy.against, policy.control, policy.twin]
    cells = list(dict.fromkeys(rule.cell for rule in policy.rules))
    orders = {cell: williams_order(systems, pairs, seed + number) for number, cell in enumerate(cells)}
    noise = machine_noise(model.machine, runs, pairs * len(cells) * len(systems), rng)
    found = {}
    for rule in policy.rules:
        follows = model.follows.get(rule.id, 1.0)
        left = model.turns.get(rule.cell, 1.0)
        times = {}
        for system in systems:
            slots = [
                (block * len(cells) + cells.index(rule.cell)) * len(systems) + orders[rule.cell][block].index(system)
                for block in range(pairs)
            ]
            own = rng.standard_t(model.machine.tails, (runs, pairs)) * model.machine.slot
            # In turns, all meet what the machine does on average while the block runs.
            first = [slot - slot % len(systems) for slot in slots]
            shared = np.mean([noise[:, [slot + place for slot in first]] for place in range(len(systems))], axis=0)
            times[system] = follows * (left * noise[:, slots] + (1 - left) * shared + own)
        times[policy.system] = times[policy.system] + math.log1p(effects.get(rule.id, 0.0))
        found[rule.id] = (
            np.asarray(times[policy.system] - times[policy.against]),
            np.asarray(times[policy.twin] - times[policy.control]),
        )
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `simulate`."""
    parser.add_argument("--runs", type=int, default=2000, help="simulated runs of each kind (default 2000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", type=Path, help="default: scenarios/gate.toml")
    parser.add_argument("--model", type=Path, help="the noise; default: scenarios/noise.toml")


def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Print how often the gate errs; 1 if it errs more often than docs/gate.md promises."""
    policy = read_policy(args.policy or root / "scenarios" / "gate.toml")
    model = read_model(args.model or root / "scenarios" / "noise.toml")
    if args.runs < 1:
        raise ConfigError("--runs must be at least 1")
    say(f"gate {policy.id}, {policy.pairs} + {policy.extend} pairs, {args.runs} runs of each kind, seed {args.seed}")
    kept = True
    for title, effects in scenarios(policy).items():
        counts, looks = tally(policy, model, args.runs, args.seed, effects)
        shares = {word: counts[word] / args.runs for word in ("PASS", "FAIL", "INCONCLUSIVE", "BLIND")}
        promised = promise(shares, planted=bool(effects))
        kept = kept and promised
        say(
            f"  {title:<44} "
            + "  ".join(f"{word} {share:6.2%}" for word, share in shares.items())
            + f"  extended {looks[2] / args.runs:.0%}{'' if promised else '  NOT AS PROMISED'}"
        )
    return EXIT_OK if kept else EXIT_MISSED


def scenarios(policy: Policy) -> dict[str, dict[str, float]]:
    """Title -> planted slow-downs: none, 2 delta in each gated metric alone, and in all of them."""
    each = {
        f"{METRICS[rule.metric].title} of {rule.cell} slower by 2 delta ({2 * rule.delta:.0%})": {
            rule.id: 2 * rule.delta
        }
        for rule in policy.rules
    }
    return {"no change": {}, **each, "all slower by 2 delta": {rule.id: 2 * rule.delta for rule in policy.rules}}


def tally(
    policy: Policy, model: Model, runs: int, seed: int, effects: Mapping[str, float]
) -> tuple[Counter[str], Counter[int]]:
    """How often each verdict was given, and how many looks it took."""
    found = [verdict(run, policy) for run in simulate(policy, model, runs, seed, effects)]
    return Counter(word for word, _ in found), Counter(look for _, look in found)


def promise(shares: Mapping[str, Any], *, planted: bool) -> bool:
    """What docs/gate.md promises: no change FAILs at most 1 % and PASSes at least 90 %; 2 delta FAILs at least 90 %."""
    if planted:
        return bool(shares["FAIL"] >= 0.90)
    return bool(shares["FAIL"] <= 0.01 and shares["PASS"] >= 0.90)
