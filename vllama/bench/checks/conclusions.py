"""E, A: was the machine fair to all, and does the evidence carry the conclusion?"""

from __future__ import annotations

import itertools
import math
from statistics import fmean, median

from vllama.bench.checks.model import NOTHING, Verdict, count, requests_of, slots_of
from vllama.bench.measure import METRICS
from vllama.bench.pairing import paired
from vllama.bench.results import Run, Slot
from vllama.bench.stats import relative_spread

MAX_IDLE_SHARE = 0.01
MAX_STEAL = 0.05
MAX_FOREIGN = 0.05
MAX_DRIFT = 0.10
MAX_ERROR_RATE = 0.005
MAX_DISK_WAITS = 20
MAX_DISK_SHARE = 0.05
"""Weights that are not in memory take hundreds of waits; a library that is used for the first time takes a few."""

MIN_PAIRS = 8


def machine_quiet(run: Run, _: str) -> Verdict:
    """E1."""
    work = [float(slot.control_work_ns) for slot in run.slots]
    stolen = [slot.steal for slot in run.slots if slot.steal >= 0]
    foreign = [slot.foreign for slot in run.slots if slot.foreign >= 0]
    if not work:
        return NOTHING
    drift = relative_spread(work)
    steal = sorted(stolen)[int(0.95 * (len(stolen) - 1))] if stolen else 0.0
    strangers = median(foreign) if foreign else 0.0
    return Verdict(
        drift <= MAX_DRIFT and steal <= MAX_STEAL and strangers <= MAX_FOREIGN,
        f"a fixed piece of work varied by {drift:.1%}; p95 of stolen CPU time {steal:.1%}; "
        f"other programs used {strangers:.1%} of the machine",
    )


def in_order(run: Run, _: str) -> Verdict:
    """E1b: balanced order; each system stands about equally often at each place."""
    by_cell: dict[str, list[Slot]] = {}
    for slot in run.slots:
        by_cell.setdefault(slot.cell, []).append(slot)
    if not by_cell:
        return NOTHING
    worst = 0.0
    for slots in by_cell.values():
        places = {key: [s.place for s in slots if s.system == key] for key in {s.system for s in slots}}
        means = [sum(p) / len(p) for p in places.values()]
        worst = max([worst, *(abs(a - b) for a, b in itertools.combinations(means, 2))])
    if worst > 1.0 and run.plan["pairs"] < MIN_PAIRS:
        return Verdict(None, f"{run.plan['pairs']} pairs cannot be balanced")
    return Verdict(worst <= 1.0, f"mean places of the systems differ by at most {worst:.2f}")


def others_idle(run: Run, system: str) -> Verdict:
    """E2: CPU time of all other systems while this one was measured."""
    shares = [slot.others_cpu_s / (slot.wall_ns / 1e9) for slot in slots_of(run, system) if slot.wall_ns]
    if not shares:
        return NOTHING
    return Verdict(median(shares) <= MAX_IDLE_SHARE, f"the others used {median(shares):.2%} of a core")


def threads_fit(run: Run, _: str) -> Verdict:
    """E2b: no more threads than cores. Swap in use is only said: it may be years old."""
    threads = run.environment.get("threads", 0)
    machine = run.environment["machine"]
    cores, swap = machine.get("usable_cores", 0), machine.get("swap_used_bytes", 0)
    if not threads or not cores:
        return Verdict(None, "not recorded")
    return Verdict(threads <= cores, f"{threads} threads on {cores} usable cores, {swap >> 20} MiB of swap in use")


def from_memory(run: Run, system: str) -> Verdict:
    """E3: a server that reads its weights from the disk while it is measured was not measured, the disk was."""
    waits = [slot.extra["major_faults"] for slot in slots_of(run, system) if "major_faults" in slot.extra]
    if not waits:
        return Verdict(None, "not recorded")
    many = sum(one > MAX_DISK_WAITS for one in waits)
    return Verdict(
        many <= MAX_DISK_SHARE * len(waits),
        f"{many} of {len(waits)} slots waited for the disk more than {MAX_DISK_WAITS} times; at most {max(waits):.0f}",
    )


def all_measured(run: Run, system: str) -> Verdict:
    """A1: nothing that was planned may be missing."""
    expected = run.plan["pairs"] * len({slot.cell for slot in slots_of(run, system)})
    have = sum(1 for slot in slots_of(run, system) if len(run.samples.get(slot.index, [])) == slot.requests)
    if run.environment["state"] != "complete":
        return Verdict(False, f"{run.environment['state']} after {have} of {expected} slots")
    return count(expected - have, expected, "planned slots measured")


def few_errors(run: Run, system: str) -> Verdict:
    """A2: an end that was meant (a cancelled stream, a refusal under a burst) is no failure."""
    everything = [sample for _, sample in requests_of(run, system)]
    bad = sum(sample.failed for sample in everything)
    if not everything:
        return NOTHING
    return Verdict(bad / len(everything) <= MAX_ERROR_RATE, f"{bad} of {len(everything)} requests failed")


def percentiles_founded(run: Run, _: str) -> Verdict:
    """A3: every percentile that was computed has five samples beyond it."""
    founded = refused = 0
    for slot in run.slots:
        samples = run.samples.get(slot.index, [])
        gaps = sum(max(0, len(s.texts) - 1) for s in samples if s.ok and s.n_out > 0)
        if not slot.stream or not gaps:
            continue
        computed = METRICS["gap95"].of(slot, samples) is not None
        if computed and gaps * 0.05 < 5 - 1e-9:
            return Verdict(False, f"{slot.cell}: a 95th percentile of {gaps} gaps")
        founded, refused = founded + computed, refused + (not computed)
    if not founded and not refused:
        return Verdict(None, "no streams")
    return Verdict(True, f"p95 of the gaps in {founded} slots, refused in {refused} with too few gaps")


def pairs_independent(run: Run, system: str) -> Verdict:
    """A4: the slot is the unit, not the request; neighbouring pairs must not predict each other."""
    if system == run.plan["control"]:
        return Verdict(None, "the control")
    found = []
    for cell in run.cells:
        ours, theirs = paired(run, METRICS["e2e"], (cell, system), (cell, run.plan["control"]))
        logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
        if len(logs) >= MIN_PAIRS and (rho := autocorrelation(logs)) is not None:
            found.append((rho, len(logs)))
    if not found:
        return Verdict(None, f"needs {MIN_PAIRS} pairs")
    rho = median(r for r, _ in found)
    n = fmean(n for _, n in found)
    left = n * (1 - rho) / (1 + rho) if rho > 0 else n
    return Verdict(
        rho <= 2 / math.sqrt(n), f"lag-1 autocorrelation {rho:+.2f}: {n:.0f} pairs are worth {min(left, n):.1f}"
    )


def autocorrelation(values: list[float]) -> float | None:
    """Of neighbours; None without variation."""
    mean = fmean(values)
    spread = sum((v - mean) ** 2 for v in values)
    # Rounding alone makes a spread of this size.
    if spread <= len(values) * (1e-9 * max(1.0, abs(mean))) ** 2:
        return None
    return sum((a - mean) * (b - mean) for a, b in itertools.pairwise(values)) / spread


def scope_known(run: Run, _: str) -> Verdict:
    """A5: a number says for what machine, model, context and lengths it holds."""
    machine, model = run.environment["machine"], run.environment["model"]
    parts = {
        "CPU": machine.get("cpu"),
        "cores": machine.get("usable_cores"),
        "model": model.get("file"),
        "context": run.plan.get("ctx"),
        "plan": run.plan.get("id"),
    }
    if missing := [name for name, value in parts.items() if not value]:
        return Verdict(False, f"not recorded: {', '.join(missing)}")
    return Verdict(True, ", ".join(f"{name} {value}" for name, value in parts.items()))
