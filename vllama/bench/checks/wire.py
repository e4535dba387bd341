"""M, T, N, K: was it the server that was measured, over a sound wire, by a client that keeps up?"""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import geometric_mean, median

from vllama.bench.checks.model import (
    NOTHING,
    Verdict,
    answered,
    count,
    described,
    is_ceiling,
    lone_streams,
    requests_of,
    slots_of,
)
from vllama.bench.measure import e2e_ms, gaps_ns
from vllama.bench.results import Run, Slot

MAX_LOAD_NS = 100_000_000
"""A server that loads the model in a measured request takes longer than this."""

MAX_FIRST_SLOWER = 1.25
MAX_BURST_SHARE = 0.30
MAX_FIRST_SHARE = 0.9
NAGLE_NS = (36_000_000, 50_000_000)
"""What a gap is longer than usual by, where a delayed acknowledgement held up a segment."""

NAGLE_EVERY_NS = (38_000_000, 46_000_000)
"""The same, for a system whose every gap is held up."""

QUICK_NS = 20_000_000
"""Longer gaps vary by as much as a delayed acknowledgement takes."""

MAX_NAGLE_SHARE = 0.02
MAX_LAG_SHARE = 0.05
MAX_COALESCED_SHARE = 0.10
MAX_CLIENT_CORES = 0.8
MAX_LATE_NS = 10_000_000
MIN_ACHIEVED = 0.98


def no_load(run: Run, system: str) -> Verdict:
    """M1: the scenarios that load on purpose say so, and are left out."""
    said = [s.native["load_duration"] for _, s in answered(run, system) if "load_duration" in s.native and not s.loads]
    if not said:
        return Verdict(None, "the API does not say")
    return Verdict(max(said) <= MAX_LOAD_NS, f"longest load_duration {max(said) / 1e6:.1f} ms")


def warm_from_the_start(run: Run, system: str) -> Verdict:
    """M2: the first block is not slower than the others by more than the control's is."""

    def first_to_rest(key: str, cell: str) -> float | None:
        slots = run.of(cell, key)
        found = {block: e2e_ms(slot, run.samples.get(slot.index, [])) for block, slot in slots.items()}
        rest = [value for block, value in found.items() if block and value]
        return found[0] / median(rest) if len(rest) >= 2 and found.get(0) else None  # type: ignore[operator]

    ratios = []
    for cell in run.cells:
        mine, control = first_to_rest(system, cell), first_to_rest(run.plan["control"], cell)
        if mine is not None:
            own = system == run.plan["control"] or control is None
            ratios.append(mine if own else mine / control)  # type: ignore[operator]
    if not ratios:
        return Verdict(None, "needs three blocks")
    slower = geometric_mean(ratios)
    return Verdict(slower <= MAX_FIRST_SLOWER, f"first block / the others {slower:.2f} over {len(ratios)} cells")


def warmup_disjoint(run: Run, _: str) -> Verdict:
    """M3."""
    warm = set(run.environment["warmup_prompts"])
    measured = {sample.prompt_sha for samples in run.samples.values() for sample in samples}
    if not measured:
        return NOTHING
    return Verdict(bool(warm) and not warm & measured, f"{len(warm & measured)} of {len(measured)} prompts shared")


def counted_as_tokens(run: Run, system: str) -> Verdict:
    """T1: by the server, or by its own tokenizer afterwards; a chunk is never taken for a token."""
    good = answered(run, system)
    sources = Counter(sample.source for _, sample in good)
    bad = sum(sample.source == "chunks" or sample.n_out < 0 for _, sample in good)
    if not good:
        return NOTHING
    return Verdict(bad == 0, ", ".join(f"{n} counted by: {source}" for source, n in sources.items()))


def really_streams(run: Run, system: str) -> Verdict:
    """T2: a buffered stream comes in bursts, or all at the end."""
    streamed = lone_streams(run, system)
    gaps = gaps_ns(streamed)
    if is_ceiling(run, system) or not any(s.n_out > 1 for s in streamed):
        return Verdict(None, "no streams at c = 1")
    # Against the mean: in a buffered stream more than half of the gaps are next to nothing, and so is their median.
    mean = sum(gaps) / len(gaps) if gaps else 0.0
    burst = sum(gap <= 0.2 * mean for gap in gaps) / len(gaps) if gaps else 0.0
    first = median((s.texts[0] - s.t_sent) / (s.t_end - s.t_sent) for s in streamed)
    per_event = median(s.n_out / len(s.texts) for s in streamed)
    return Verdict(
        burst <= MAX_BURST_SHARE and first <= MAX_FIRST_SHARE,
        f"{burst:.1%} of the gaps are bursts, first text after {first:.0%} of the time, "
        f"{per_event:.2f} tokens an event",
    )


def same_tokenizer(run: Run, system: str) -> Verdict:
    """T3: an equal answer has as many tokens as the control's."""
    control = {s.prompt_sha: (s.text, s.n_out) for _, s in answered(run, run.plan["control"])}
    both = [
        (s.n_out, control[s.prompt_sha][1])
        for _, s in answered(run, system)
        if s.prompt_sha in control and control[s.prompt_sha][0] == s.text
    ]
    return count(sum(a != b for a, b in both), len(both), "answers equal to the control's have as many tokens")


def no_nagle(run: Run, system: str) -> Verdict:
    """N1: TCP_NODELAY on the client's sockets, and no gaps that are longer by a delayed acknowledgement."""
    slots = slots_of(run, system)
    if not slots:
        return NOTHING
    bad = sum(not slot.no_delay for slot in slots)
    said = f"{len(slots) - bad} of {len(slots)} slots with TCP_NODELAY"
    if is_ceiling(run, system):
        return Verdict(None, "no socket")
    quick = [gaps for s in lone_streams(run, system) if (gaps := gaps_ns([s])) and median(gaps) < QUICK_NS]
    held = [NAGLE_NS[0] <= gap - median(gaps) <= NAGLE_NS[1] for gaps in quick for gap in gaps]
    mine, control = (gaps_ns(lone_streams(run, key)) for key in (system, run.plan["control"]))
    every = False
    if mine and control and median(control) < QUICK_NS:
        # A sender that is held up falls behind: its gaps are the delay itself, or the delay on top of its own.
        shifts = (median(mine), median(mine) - median(control))
        every = any(NAGLE_EVERY_NS[0] <= shift <= NAGLE_EVERY_NS[1] for shift in shifts)
    if not held and not every:
        return Verdict(bad == 0, f"{said}; no gaps so short that a delayed acknowledgement would show")
    share = 1.0 if every else sum(held) / len(held)
    return Verdict(
        not bad and share <= MAX_NAGLE_SHARE, f"{said}; {share:.1%} of the gaps are longer by a delayed acknowledgement"
    )


def sound_connections(run: Run, system: str) -> Verdict:
    """N2: no two systems on one port; connections kept as HTTP says, or opened again and counted."""
    ports = [port for key in run.systems for port in {_port(run, key)} if port]
    if is_ceiling(run, system):
        return Verdict(None, "no socket")
    requests = [sample for _, sample in requests_of(run, system)]
    if not requests:
        return NOTHING
    again = sum(sample.reconnected for sample in requests)
    kept = sum(sample.reused for sample in requests)
    port = _port(run, system)
    return Verdict(
        not port or ports.count(port) == 1,
        f"a port of its own that its own process listens on; {kept} of {len(requests)} requests on a kept connection, "
        f"{again} after the server had dropped it",
    )


def _port(run: Run, system: str) -> str:
    found = described(run, system)
    for flag, value in itertools.pairwise(found.get("argv", [])):
        if flag == "--port":
            return str(value)
    return str(found.get("env", {}).get("OLLAMA_HOST", "")).rpartition(":")[2]


def loopback(run: Run, system: str) -> Verdict:
    """N3: an address, not a name that may mean ::1 first."""
    found = described(run, system)
    hosts = [value for flag, value in itertools.pairwise(found.get("argv", [])) if flag == "--host"]
    hosts += [str(found.get("env", {}).get("OLLAMA_HOST", "")).rpartition(":")[0]]
    names = [host for host in hosts if host]
    if is_ceiling(run, system):
        return Verdict(None, "no socket")
    return Verdict(all(host == "127.0.0.1" for host in names), f"client and {', '.join(names) or 'server'}: 127.0.0.1")


def client_keeps_up(run: Run, system: str) -> Verdict:
    """K1: the client's own delay, as a share of the smallest thing it measures, the time to first text at c = 1.

    Kernel stamps leave the delay out of every arrival; then it is the reads with several texts in one that count.
    """
    slots = slots_of(run, system)
    streams = [(slot, s) for slot, s in answered(run, system) if slot.stream]
    lags = [slot.lag_ns[1] for slot in slots if slot.lag_ns]
    firsts = [s.texts[0] - s.t_sent for _, s in streams]
    if not lags or not firsts or is_ceiling(run, system):
        return Verdict(None, "no client involved")
    cores = median(slot.client_cpu_s / (slot.wall_ns / 1e9) for slot in slots if slot.wall_ns)
    share = median(lags) / median(firsts)
    said = f"p99 of the loop's delay {median(lags) / 1e6:.2f} ms, {share:.1%} of first text; {cores:.0%} of a core"
    if all(s.stamps == "kernel" for _, s in streams):
        joined = sum(s.coalesced for _, s in streams) / max(1, sum(len(s.texts) for _, s in streams))
        ok = joined <= MAX_COALESCED_SHARE and share <= 10 * MAX_LAG_SHARE and cores <= MAX_CLIENT_CORES
        return Verdict(ok, f"kernel stamps, {joined:.1%} of the texts share a read; {said}")
    return Verdict(share <= MAX_LAG_SHARE and cores <= MAX_CLIENT_CORES, said)


def from_schedule(run: Run, system: str) -> Verdict:
    """K2: an open loop sends when the schedule says, whatever the server does; latencies count from the schedule."""
    planned = [s for slot, s in requests_of(run, system) if slot.kind == "open"]
    if not planned:
        return Verdict(None, "no open loop in this run")
    if any(s.t_sched < 0 for s in planned):
        return Verdict(False, f"{sum(s.t_sched < 0 for s in planned)} of {len(planned)} requests without a schedule")
    late = sorted(s.t_sent - s.t_sched for s in planned if s.t_sent >= 0)
    achieved = len(late) / len(planned)
    p99 = late[-(-99 * len(late) // 100) - 1] if late else 0
    return Verdict(
        achieved >= MIN_ACHIEVED and p99 <= MAX_LATE_NS,
        f"{achieved:.1%} of the schedule sent, p99 late by {p99 / 1e6:.2f} ms",
    )


def as_many_at_once(run: Run, system: str) -> Verdict:
    """K3: a closed loop has exactly its number of requests under way; rates come from the time when all of them run."""
    closed = [slot for slot in slots_of(run, system) if slot.kind == "closed" and not slot.error]
    found = [(slot, most) for slot in closed if (most := _most_at_once(run, slot))]
    bad = sum(most != min(slot.concurrency, slot.requests) for slot, most in found)
    return count(bad, len(found), "slots with exactly as many requests at once as asked for")


def _most_at_once(run: Run, slot: Slot) -> int:
    samples = [s for s in run.samples.get(slot.index, []) if s.t_sent >= 0 and s.t_end >= 0]
    # Where one ends as another is sent, the end comes first.
    edges = sorted([(s.t_end, -1) for s in samples] + [(s.t_sent, 1) for s in samples])
    return max(itertools.accumulate(change for _, change in edges), default=0)
