"""Is the comparison valid? Each check has an id, looks only at the raw records, and gives a verdict per system.

The ids name the ways in which a comparison of servers can lie (docs/benchmarks.md). One failure withdraws the headline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from vllama.bench.measure import gaps_ns
from vllama.bench.results import Run, Sample, Slot
from vllama.bench.stats import relative_spread

MAX_CACHED_TOKENS = 4
"""Nonces of prompts may share their first tokens by chance."""

MAX_LOAD_NS = 100_000_000
"""A server that loads the model in a measured request takes longer than this."""

MAX_LOGIT_GAP = 0.5
MAX_FAR_SHARE = 0.01
"""Quantised kernels give sums that differ by some tenths of a logit from one batch shape to another."""

MAX_IDLE_SHARE = 0.01
MAX_STEAL = 0.05
MAX_FOREIGN = 0.05
MAX_DRIFT = 0.10
MAX_LAG_SHARE = 0.05
MAX_ERROR_RATE = 0.005
MAX_LENGTH_RATE = 0.02
MAX_BURST_SHARE = 0.30


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` None means that the check does not apply, or that the system does not say what it needs."""

    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One way to be wrong. `scope` "run" has one verdict, under the key ""."""

    id: str
    title: str
    scope: Literal["system", "run"]
    judge: Callable[[Run, str], Verdict]


def judge_all(run: Run) -> dict[str, dict[str, Verdict]]:
    """Check id -> system key (or "") -> verdict."""
    return {
        check.id: {key: check.judge(run, key) for key in (run.systems if check.scope == "system" else [""])}
        for check in CHECKS
    }


def failures(verdicts: dict[str, dict[str, Verdict]]) -> list[str]:
    """The failed ones as "id (system)"; empty if the comparison stands."""
    return [
        f"{check} ({key})" if key else check
        for check, by_system in verdicts.items()
        for key, verdict in by_system.items()
        if verdict.ok is False
    ]


def _slots(run: Run, system: str) -> list[Slot]:
    return [slot for slot in run.slots if slot.system == system]


def _pairs(run: Run, system: str) -> Iterator[tuple[Slot, Sample]]:
    for slot in _slots(run, system):
        for sample in run.samples.get(slot.index, []):
            yield slot, sample


def _good(run: Run, system: str) -> list[tuple[Slot, Sample]]:
    return [(slot, sample) for slot, sample in _pairs(run, system) if sample.ok]


def _is_ceiling(run: Run, system: str) -> bool:
    return bool(run.environment["systems"].get(system, {}).get("ceiling"))


def _count(bad: int, total: int, what: str) -> Verdict:
    if not total:
        return Verdict(None, "nothing to judge")
    return Verdict(bad == 0, f"{total - bad} of {total} {what}")


def same_weights(run: Run, system: str) -> Verdict:
    """W1."""
    expected = run.environment["model"]["sha256"]
    found = run.environment["systems"].get(system, {}).get("model_sha256", "")
    return Verdict(found == expected, f"sha256 {found[:12] or 'unknown'}")


def prompt_tokens(run: Run, system: str) -> Verdict:
    """W3: counts the prompts whose length differs from the control's."""
    control = {s.prompt_sha: s.n_prompt for _, s in _good(run, run.plan["control"]) if s.n_prompt >= 0}
    mine = [(s.n_prompt, control[s.prompt_sha]) for _, s in _good(run, system) if s.prompt_sha in control]
    return _count(sum(a != b for a, b in mine), len(mine), "prompts as long as the control's")


def no_prefix_hits(run: Run, system: str) -> Verdict:
    """C1."""
    said = [s.n_cached for _, s in _good(run, system) if s.n_cached >= 0 and not s.reuses]
    if not said:
        return Verdict(None, "the API does not say; the nonce stands first in every prompt")
    bad = sum(cached > MAX_CACHED_TOKENS for cached in said)
    return Verdict(bad == 0, f"at most {max(said)} cached prompt tokens in {len(said)} requests")


def output_length(run: Run, system: str) -> Verdict:
    """L1: slots with an answer of another length are left out of the statistics; more than a few forbid a headline."""
    good = [(slot, sample) for slot, sample in _good(run, system) if slot.asked(sample) >= 0]
    if not good:
        return Verdict(None, "nothing to judge")
    bad = sum(sample.n_out != slot.asked(sample) or sample.finish != "length" for slot, sample in good)
    return Verdict(
        bad / len(good) <= MAX_LENGTH_RATE, f"{len(good) - bad} of {len(good)} answers exactly as long as asked for"
    )


def same_text(run: Run, system: str) -> Verdict:
    """L3: every token is the raw engine's own choice, or nearly tied with it.

    Equal text would ask too much: a cache with holes or a bigger batch changes the order of sums, and a near tie then
    falls the other way, after which a greedy answer goes elsewhere. The share of equal texts is printed all the same.
    """
    control = {s.prompt_sha: s.text for slot, s in _good(run, run.plan["control"]) if slot.concurrency == 1}
    mine = [
        (sample.text, control[sample.prompt_sha])
        for slot, sample in _good(run, system)
        if slot.concurrency == 1 and sample.prompt_sha in control
    ]
    equal = sum(a == b for a, b in mine)
    said = f"{equal} of {len(mine)} texts at c = 1 equal the control's"
    slots = {slot.index for slot in _slots(run, system)}
    gaps = [gap for score in run.scores if score.slot in slots for gap in score.gaps]
    if not gaps:
        return Verdict(None if equal != len(mine) or not mine else True, f"{said}; no judgement by the raw engine")
    far = sum(gap > MAX_LOGIT_GAP for gap in gaps)
    return Verdict(
        far / len(gaps) <= MAX_FAR_SHARE,
        f"{len(gaps) - far} of {len(gaps)} tokens are the raw engine's choice or within {MAX_LOGIT_GAP} logits of it; "
        f"{said}",
    )


def no_load(run: Run, system: str) -> Verdict:
    """M1."""
    said = [s.native["load_duration"] for _, s in _good(run, system) if "load_duration" in s.native and not s.loads]
    if not said:
        return Verdict(None, "the API does not say")
    return Verdict(max(said) <= MAX_LOAD_NS, f"longest load_duration {max(said) / 1e6:.1f} ms")


def warmup_disjoint(run: Run, _: str) -> Verdict:
    """M3."""
    warm = set(run.environment["warmup_prompts"])
    measured = {sample.prompt_sha for samples in run.samples.values() for sample in samples}
    return Verdict(bool(warm) and not warm & measured, f"{len(warm & measured)} of {len(measured)} prompts shared")


def fresh_prompts(run: Run, system: str) -> Verdict:
    """C1b: no server is asked the same thing twice."""
    seen = [sample.prompt_sha for _, sample in _pairs(run, system)]
    return _count(len(seen) - len(set(seen)), len(seen), "prompts asked for the first time")


def counted_by_server(run: Run, system: str) -> Verdict:
    """T1."""
    good = _good(run, system)
    return _count(sum(s.source != "server" or s.n_out < 0 for _, s in good), len(good), "counted by the server")


def _plain_stream(slot: Slot) -> bool:
    return slot.stream and slot.concurrency == 1 and slot.kind == "closed"


def really_streams(run: Run, system: str) -> Verdict:
    """T2: a buffered stream comes in bursts, or all at the end."""
    streamed = [sample for slot, sample in _good(run, system) if _plain_stream(slot)]
    gaps = gaps_ns(streamed)
    if not gaps or _is_ceiling(run, system):
        return Verdict(None, "no streams at c = 1")
    # Against the mean: in a buffered stream more than half of the gaps are next to nothing, and so is their median.
    mean = sum(gaps) / len(gaps)
    burst = sum(gap < 0.2 * mean for gap in gaps) / len(gaps)
    first = median((s.texts[0] - s.t_sent) / (s.t_end - s.t_sent) for s in streamed)
    per_event = median(s.n_out / len(s.texts) for s in streamed)
    return Verdict(
        burst <= MAX_BURST_SHARE and first <= 0.9,
        f"{burst:.1%} of the gaps are bursts, first text after {first:.0%} of the time, "
        f"{per_event:.2f} tokens an event",
    )


def no_delay(run: Run, system: str) -> Verdict:
    """N1."""
    slots = _slots(run, system)
    return _count(sum(not slot.no_delay for slot in slots), len(slots), "slots with TCP_NODELAY")


def client_keeps_up(run: Run, system: str) -> Verdict:
    """K1: the client's own delay, as a share of the smallest thing it measures, the time to first text at c = 1."""
    lags = [slot.lag_ns[1] for slot in _slots(run, system) if slot.lag_ns]
    firsts = [s.texts[0] - s.t_sent for slot, s in _good(run, system) if slot.stream]
    if not lags or not firsts or _is_ceiling(run, system):
        return Verdict(None, "no client involved")
    share = median(lags) / median(firsts)
    return Verdict(
        share <= MAX_LAG_SHARE, f"p99 of the client's delay {median(lags) / 1e6:.2f} ms, {share:.1%} of first text"
    )


def machine_quiet(run: Run, _: str) -> Verdict:
    """E1."""
    work = [float(slot.control_work_ns) for slot in run.slots]
    stolen = [slot.steal for slot in run.slots if slot.steal >= 0]
    foreign = [slot.foreign for slot in run.slots if slot.foreign >= 0]
    if not work:
        return Verdict(None, "nothing to judge")
    drift = relative_spread(work)
    steal = sorted(stolen)[int(0.95 * (len(stolen) - 1))] if stolen else 0.0
    strangers = median(foreign) if foreign else 0.0
    return Verdict(
        drift <= MAX_DRIFT and steal <= MAX_STEAL and strangers <= MAX_FOREIGN,
        f"a fixed piece of work varied by {drift:.1%}; p95 of stolen CPU time {steal:.1%}; "
        f"other programs used {strangers:.1%} of the machine",
    )


def others_idle(run: Run, system: str) -> Verdict:
    """E2: CPU time of all other systems while this one was measured."""
    shares = [slot.others_cpu_s / (slot.wall_ns / 1e9) for slot in _slots(run, system) if slot.wall_ns]
    if not shares:
        return Verdict(None, "nothing to judge")
    return Verdict(median(shares) <= MAX_IDLE_SHARE, f"the others used {median(shares):.2%} of a core")


def all_measured(run: Run, system: str) -> Verdict:
    """A1: nothing that was planned may be missing."""
    expected = run.plan["pairs"] * len({slot.cell for slot in _slots(run, system)})
    have = sum(1 for slot in _slots(run, system) if len(run.samples.get(slot.index, [])) == slot.requests)
    if run.environment["state"] != "complete":
        return Verdict(False, f"{run.environment['state']} after {have} of {expected} slots")
    return _count(expected - have, expected, "planned slots measured")


def few_errors(run: Run, system: str) -> Verdict:
    """A2."""
    all_samples = list(_pairs(run, system))
    bad = sum(sample.failed for _, sample in all_samples)
    if not all_samples:
        return Verdict(None, "nothing to judge")
    return Verdict(bad / len(all_samples) <= MAX_ERROR_RATE, f"{bad} of {len(all_samples)} requests failed")


def in_order(run: Run, _: str) -> Verdict:
    """E1b: balanced order; each system stands about equally often at each place."""
    by_cell: dict[str, list[Slot]] = {}
    for slot in run.slots:
        by_cell.setdefault(slot.cell, []).append(slot)
    worst = 0.0
    for slots in by_cell.values():
        places = {key: [s.place for s in slots if s.system == key] for key in {s.system for s in slots}}
        means = [sum(p) / len(p) for p in places.values()]
        worst = max([worst, *(abs(a - b) for a, b in itertools.combinations(means, 2))])
    return Verdict(worst <= 1.0, f"mean places of the systems differ by at most {worst:.2f}")


CHECKS = (
    Check("W1", "the same model file", "system", same_weights),
    Check("W3", "the same prompt length, nothing cut", "system", prompt_tokens),
    Check("C1", "no answers from a prefix cache", "system", no_prefix_hits),
    Check("C1b", "no prompt asked twice", "system", fresh_prompts),
    Check("L1", "the same output length", "system", output_length),
    Check("L3", "the raw engine's own answers", "system", same_text),
    Check("M1", "no model load inside a measured request", "system", no_load),
    Check("M3", "warm-up prompts are others", "run", warmup_disjoint),
    Check("T1", "tokens counted by the server", "system", counted_by_server),
    Check("T2", "a real stream", "system", really_streams),
    Check("N1", "no Nagle delay", "system", no_delay),
    Check("K1", "the client is not the bottleneck", "system", client_keeps_up),
    Check("E1", "a steady machine", "run", machine_quiet),
    Check("E2", "the other systems idle", "system", others_idle),
    Check("E1b", "a balanced order", "run", in_order),
    Check("A1", "nothing left out", "system", all_measured),
    Check("A2", "failures at most 0.5 %", "system", few_errors),
)
