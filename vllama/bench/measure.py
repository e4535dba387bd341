"""From raw records to numbers. One slot gives one value per metric; the slot is the unit of every statistic.

The definitions are printed in every report (`DEFINITIONS`), because tools disagree about these words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from vllama.bench.results import Sample, Slot
from vllama.bench.stats import quantile


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a slot has, or None where it does not apply. `digits` after the point when printed."""

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    digits: int
    definition: str
    of: Callable[[Slot, Sequence[Sample]], float | None]


def _usable(samples: Sequence[Sample], role: str | None = None) -> list[Sample]:
    """Answers in full; of one role, if given ("": requests that all play the same part)."""
    return [s for s in samples if s.ok and s.n_out > 0 and (role is None or s.role == role)]


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _first_ms(samples: Sequence[Sample]) -> float | None:
    return _median([(s.texts[0] - s.t_sent) / 1e6 for s in samples])


def ttft_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests; None without streaming, and where the requests play different roles."""
    return _first_ms(_usable(samples, "")) if slot.stream else None


def decode_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests; None without streaming."""
    return _median(_rates(slot, _usable(samples, "")))


def _rates(slot: Slot, samples: Sequence[Sample]) -> list[float]:
    """Tokens a second of each request after its first token."""
    if not slot.stream:
        return []
    return [(s.n_out - 1) / ((s.texts[-1] - s.texts[0]) / 1e9) for s in samples if _has_rate(s)]


def _has_rate(sample: Sample) -> bool:
    return sample.n_out > 1 and sample.texts[-1] > sample.texts[0]


def tpot_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests of the time per token after the first."""
    return _median([1e3 / rate for rate in _rates(slot, _usable(samples, ""))])


def e2e_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median over the slot's requests."""
    return _median([(s.t_end - s.t_sent) / 1e6 for s in _usable(samples, "")])


def aggregate_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Whole slot, prefill included. None where requests come by a clock or wait for something else than an answer."""
    usable = _usable(samples)
    if not usable or slot.kind not in ("closed", "shared-prefix", "conversation", "burst"):
        return None
    span = sum(max(s.t_end for s in part) - min(s.t_sent for s in part) for part in _parts(slot, usable))
    return sum(s.n_out for s in usable) / (span / 1e9) if span > 0 else None


def _parts(slot: Slot, samples: Sequence[Sample]) -> list[list[Sample]]:
    """The requests of each part of a slot that was measured in turns with others; between its parts it waits."""
    rounds = round(slot.extra.get("rounds", 1))
    by_part: dict[int, list[Sample]] = {}
    for sample in samples:
        by_part.setdefault(sample.index * rounds // max(1, slot.requests), []).append(sample)
    return list(by_part.values())


def steady_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Only while all streams produce text; a request's tokens are spread evenly over its text time."""
    usable = [s for s in _usable(samples, "") if len(s.texts) > 1]
    if not slot.stream or slot.kind != "closed" or len(usable) < slot.concurrency or "rounds" in slot.extra:
        return None
    edges = sorted([(s.texts[0], 1) for s in usable] + [(s.texts[-1], -1) for s in usable])
    running, full = 0, []
    for time, change in edges:
        running += change
        if running >= slot.concurrency or (change < 0 and running == slot.concurrency - 1):
            full.append(time)
    if len(full) < 2 or full[-1] <= full[0]:
        return None
    start, end = full[0], full[-1]
    tokens = sum(
        s.n_out * max(0, min(end, s.texts[-1]) - max(start, s.texts[0])) / (s.texts[-1] - s.texts[0])
        for s in usable
        if s.texts[-1] > s.texts[0]
    )
    return tokens / ((end - start) / 1e9)


def gaps_ns(samples: Sequence[Sample], role: str | None = None) -> list[int]:
    """All gaps between neighbouring events with text."""
    return [later - earlier for s in _usable(samples, role) for earlier, later in itertools.pairwise(s.texts)]


def _gaps(slot: Slot, samples: Sequence[Sample]) -> list[float]:
    return [float(gap) for gap in gaps_ns(samples, "")] if slot.stream else []


def gap_p50_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median gap; None without streaming."""
    gaps = _gaps(slot, samples)
    return median(gaps) / 1e6 if gaps else None


def _gap_quantile(q: float) -> Callable[[Slot, Sequence[Sample]], float | None]:
    def of(slot: Slot, samples: Sequence[Sample]) -> float | None:
        found = quantile(_gaps(slot, samples), q)
        return None if found is None else found / 1e6

    return of


def gap_max_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The longest gap."""
    gaps = _gaps(slot, samples)
    return max(gaps) / 1e6 if gaps else None


STALL_FACTOR = 5


def stalls(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """How many gaps of 1,000 are longer than five times the slot's median."""
    gaps = _gaps(slot, samples)
    if not gaps:
        return None
    limit = STALL_FACTOR * median(gaps)
    return 1000 * sum(gap > limit for gap in gaps) / len(gaps)


def jitter(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Median absolute deviation of the gaps from their median, over that median."""
    gaps = _gaps(slot, samples)
    middle = median(gaps) if gaps else 0.0
    return median(abs(gap - middle) for gap in gaps) / middle if middle else None


def jain(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Jain's index of the streams' decode rates; None with fewer than two streams at once."""
    rates = _rates(slot, _usable(samples, ""))
    if slot.concurrency < 2 or len(rates) < 2:
        return None
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


def slowest_share(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The slowest stream's decode rate over the fastest one's."""
    rates = _rates(slot, _usable(samples, ""))
    return min(rates) / max(rates) if slot.concurrency > 1 and len(rates) > 1 else None


def together(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The highest number of streams that produced text at the same time; None with one stream at a time."""
    if not slot.stream or slot.concurrency < 2:
        return None
    edges = sorted(
        edge for s in _usable(samples) for edge in ((s.texts[0], 1), (s.texts[-1], 2)) if s.texts[-1] > s.texts[0]
    )
    running = highest = 0
    for _, kind in edges:
        running += 1 if kind == 1 else -1
        highest = max(highest, running)
    return float(highest) if highest else None


def goodput(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Percent of the requests that were to be sent which kept all limits of the slot's SLO; None without one.

    Times count from the scheduled time where there is one, so late sending is as bad as late answering; errors,
    refusals and requests that are not there are bad.
    """
    if not slot.slo or not slot.requests:
        return None
    return 100 * sum(_is_good(sample, slot.slo) for sample in samples) / slot.requests


def _is_good(sample: Sample, slo: Mapping[str, float]) -> bool:
    if not sample.ok:
        return False
    wanted = sample.t_sched if sample.t_sched >= 0 else sample.t_sent
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(sample.texts))
    found = {
        "ttft_ms": (sample.texts[0] - wanted) / 1e6,
        # Nearest rank: with fewer than 100 gaps that is the longest one.
        "gap_p99_ms": gaps[math.ceil(0.99 * len(gaps)) - 1] / 1e6 if gaps else 0.0,
        "e2e_ms": (sample.t_end - wanted) / 1e6,
    }
    return all(found[name] <= limit for name, limit in slo.items())


def error_share(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Percent of the requests that failed or are not there."""
    if not slot.requests:
        return None
    missing = max(0, slot.requests - len(samples))
    return 100 * (missing + sum(sample.failed for sample in samples)) / slot.requests


def cpu_per_1k(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """CPU-seconds of the whole process tree per 1,000 output tokens; None where the slot's CPU time pays for more."""
    tokens = sum(sample.n_out for sample in _usable(samples))
    if not tokens or slot.kind in ("cold-start", "load", "keep-alive", "num-ctx", "cancel"):
        return None
    return slot.cpu_s / tokens * 1000


def pss_mib(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Memory of the whole process tree after the slot."""
    return slot.pss / 2**20 if slot.pss else None


def prefill_tps(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """More tokens of the long prompts over their longer time to first text; cached ones do not count."""
    long, short = _usable(samples, "long"), _usable(samples, "short")
    if not long or not short:
        return None

    def tokens(found: Sequence[Sample]) -> float:
        return median(s.n_prompt - max(0, s.n_cached) for s in found)

    more_ms = (_first_ms(long) or 0.0) - (_first_ms(short) or 0.0)
    return (tokens(long) - tokens(short)) / (more_ms / 1e3) if more_ms > 0 else None


def _role_ttft(role: str) -> Callable[[Slot, Sequence[Sample]], float | None]:
    def of(slot: Slot, samples: Sequence[Sample]) -> float | None:
        return _first_ms(_usable(samples, role))

    return of


def _role_tps(role: str) -> Callable[[Slot, Sequence[Sample]], float | None]:
    def of(slot: Slot, samples: Sequence[Sample]) -> float | None:
        usable = _usable(samples, role)
        span = max(s.t_end for s in usable) - min(s.t_sent for s in usable) if usable else 0
        return sum(s.n_out for s in usable) / (span / 1e9) if span > 0 else None

    return of


def idle_share(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Decode speed beside a full cache over that beside an empty one; medians of the slot."""
    full, empty = (_rates(slot, _usable(samples, role)) for role in ("full", "empty"))
    return median(full) / median(empty) if full and empty else None


def _beside(samples: Sequence[Sample], slot: Slot) -> tuple[list[float], list[float]]:
    """Decode rates of two models alone and together."""
    alone, together_ = (_rates(slot, _usable(samples, role)) for role in ("alone", "together"))
    return (alone, together_) if len(alone) > 1 and len(together_) > 1 else ([], [])


def beside_sum(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Decode rates of two models that generate at once, added up, over that of one alone."""
    alone, at_once = _beside(samples, slot)
    return sum(at_once) / median(alone) if alone else None


def beside_each(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The slower of two models that generate at once over one alone."""
    alone, at_once = _beside(samples, slot)
    return min(at_once) / median(alone) if alone else None


def later_turn_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Time to first text in every turn of a conversation but the first."""
    return _first_ms([s for s in _usable(samples) if s.role.startswith("turn") and s.role != "turn1"])


def num_ctx_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Time to first text behind a change of the context length."""
    return _first_ms([s for s in _usable(samples) if s.role.startswith("ctx")])


def _victims(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Gaps of the victims that end after the joiner was sent, as (start, end)."""
    joined = [s.t_sent for s in samples if s.role == "joiner"]
    if not joined:
        return []
    return [
        (earlier, later)
        for s in _usable(samples, "victim")
        for earlier, later in itertools.pairwise(s.texts)
        if later > joined[0]
    ]


def victim_gap_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The longest gap of a running stream after the long prompt was sent."""
    gaps = _victims(samples)
    return max(later - earlier for earlier, later in gaps) / 1e6 if gaps else None


def joiner_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """The long prompt's own time to first text."""
    return _first_ms(_usable(samples, "joiner"))


def scheduled_ttft_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """From the scheduled time; median."""
    if slot.kind != "open":
        return None
    return _median([(s.texts[0] - s.t_sched) / 1e6 for s in _usable(samples)])


def scheduled_e2e_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """From the scheduled time; median."""
    if slot.kind != "open":
        return None
    return _median([(s.t_end - s.t_sched) / 1e6 for s in _usable(samples)])


def scheduled_e2e_max_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """From the scheduled time; the worst of the slot."""
    found = [(s.t_end - s.t_sched) / 1e6 for s in _usable(samples)] if slot.kind == "open" else []
    return max(found) if found else None


LATE_NS = 10_000_000


def late_share(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Percent of the requests that the client itself sent more than 10 ms late."""
    due = [s for s in samples if s.t_sched >= 0] if slot.kind == "open" else []
    return 100 * sum(s.t_sent - s.t_sched > LATE_NS for s in due) / len(due) if due else None


def refused(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Requests of a burst that were answered 503."""
    return float(sum(s.outcome == "refused" for s in samples)) if slot.kind == "burst" else None


def lost(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Requests of a burst that were neither answered nor refused."""
    if slot.kind != "burst":
        return None
    return float(slot.requests - sum(not s.failed for s in samples))


def connecting_ttft_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """From the beginning of a new connection to the first text of the one request that it carries."""
    if slot.kind != "fresh-connections":
        return None
    return _median([(s.texts[0] - s.t_sched) / 1e6 for s in _usable(samples) if s.texts])


def cold_start_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """From the start of the process to the first text."""
    if slot.kind != "cold-start":
        return None
    return _median([(s.texts[0] - s.t_sched) / 1e6 for s in _usable(samples)])


def load_ms(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Time to first text behind a load of the model, the server running."""
    return _first_ms(_usable(samples, "reload"))


def _extra(name: str) -> Callable[[Slot, Sequence[Sample]], float | None]:
    """A number of the slot, or the median of one that each request has."""

    def of(slot: Slot, samples: Sequence[Sample]) -> float | None:
        if name in slot.extra:
            return slot.extra[name]
        return _median([s.extra[name] for s in samples if name in s.extra])

    return of


def valid_share(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Percent of the constrained answers that are whole JSON with the keys that were demanded."""
    share = _mean([s.extra["valid"] for s in samples if "valid" in s.extra])
    return None if share is None else 100 * share


def embeddings_rate(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """Texts a second."""
    done = [s for s in samples if s.outcome == "embedded"]
    span = sum(s.t_end - s.t_sent for s in done)
    return sum(s.extra["inputs"] for s in done) / (span / 1e9) if span else None


def idle_cpu(slot: Slot, samples: Sequence[Sample]) -> float | None:
    """CPU-milliseconds a second while nobody asks."""
    if slot.kind != "idle" or not slot.wall_ns:
        return None
    return slot.cpu_s * 1e3 / (slot.wall_ns / 1e9)


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("ttft", "first text", "ms", "lower", 1, "from the last byte of the request handed to the socket to "
               "the first event with non-empty text (thinking counts); median over the slot's requests", ttft_ms),
        Metric("decode", "decode", "tok/s", "higher", 1, "(output tokens - 1) / (last text - first text), the tokens "
               "as the server counts them; median over the slot's requests", decode_tps),
        Metric("aggregate", "aggregate", "tok/s", "higher", 1, "output tokens of all requests / (last end - first "
               "request sent): the whole slot, prefill included", aggregate_tps),
        Metric("steady", "aggregate, steady", "tok/s", "higher", 1, "the same only while all streams produce text, a "
               "request's tokens spread evenly between its first and last text", steady_tps),
        Metric("e2e", "end to end", "ms", "lower", 0, "from sending to the last byte of the response; median over "
               "the slot's requests", e2e_ms),
        Metric("gap50", "gap p50", "ms", "lower", 2, "time between neighbouring events with text (chunks, not "
               "tokens), all requests of the slot", gap_p50_ms),
        Metric("gap95", "gap p95", "ms", "lower", 2, "the same, 95th percentile; n/a with fewer than five gaps "
               "beyond it", _gap_quantile(0.95)),
        Metric("gap99", "gap p99", "ms", "lower", 2, "the same, 99th percentile", _gap_quantile(0.99)),
        Metric("gap_max", "longest gap", "ms", "lower", 1, "the longest gap of the slot", gap_max_ms),
        Metric("stalls", "stalls", "per 1,000 gaps", "lower", 1, "gaps longer than five times the slot's median gap",
               stalls),
        Metric("jitter", "jitter", "of the median gap", "lower", 3, "median absolute deviation of the gaps from their "
               "median, over that median", jitter),
        Metric("tpot", "time per token", "ms", "lower", 2, "1 / decode: (last text - first text) / (output tokens - "
               "1); median over the slot's requests", tpot_ms),
        Metric("jain", "fairness (Jain)", "1 = equal", "higher", 3, "(sum of the streams' decode rates)^2 / (streams x "
               "sum of their squares)", jain),
        Metric("slowest", "slowest ÷ fastest", "", "higher", 3, "decode rate of the slowest stream over that of the "
               "fastest", slowest_share),
        Metric("together", "streams at once", "", "higher", 0, "the highest number of streams between their first and "
               "their last text at the same time", together),
        Metric("goodput", "goodput", "%", "higher", 1, "requests that kept all limits of the scenario's SLO / requests "
               "that were to be sent; errors, refusals and missing ones are bad, times count from the scheduled time "
               "where there is one, and each request's own p99 gap counts", goodput),
        Metric("errors", "errors", "%", "lower", 2, "requests that failed or were never sent / requests that were to "
               "be sent", error_share),
        Metric("cpu", "CPU", "s per 1,000 tok", "lower", 2, "CPU time of the system's whole process tree in the slot "
               "per 1,000 output tokens", cpu_per_1k),
        Metric("pss", "memory", "MiB", "lower", 0, "proportional set size of the whole process tree right after the "
               "slot", pss_mib),
        Metric("prefill", "prefill", "tok/s", "higher", 0, "(prompt tokens of the long prompts - of the short ones, "
               "cached ones not counted) / (their times to first text subtracted); medians of the slot", prefill_tps),
        Metric("ttft_cold", "first text, new prefix", "ms", "lower", 1, "time to first text of clients that share a "
               "beginning that the server has not seen; median", _role_ttft("cold")),
        Metric("ttft_warm", "first text, known prefix", "ms", "lower", 1, "the same in a second round behind the same "
               "beginning", _role_ttft("warm")),
        Metric("aggregate_cold", "aggregate, new prefix", "tok/s", "higher", 1, "output tokens of the round whose "
               "beginning the server has not seen / (last end - first request sent)", _role_tps("cold")),
        Metric("aggregate_warm", "aggregate, known prefix", "tok/s", "higher", 1, "the same of the second round",
               _role_tps("warm")),
        Metric("ttft_turn1", "first text, first turn", "ms", "lower", 1, "time to first text in the first turn of a "
               "conversation; median", _role_ttft("turn1")),
        Metric("ttft_turns", "first text, later turns", "ms", "lower", 1, "the same in all later turns", later_turn_ms),
        Metric("victim_gap", "victims' longest gap", "ms", "lower", 1, "the longest gap of a running stream that ends "
               "after a long prompt was sent", victim_gap_ms),
        Metric("joiner", "first text of the joiner", "ms", "lower", 1, "time to first text of the long prompt that "
               "joins running streams", joiner_ms),
        Metric("sched_ttft", "first text from schedule", "ms", "lower", 1, "from the time at which an open loop wanted "
               "to send to the first text; median", scheduled_ttft_ms),
        Metric("sched_e2e", "end to end from schedule", "ms", "lower", 0, "the same to the last byte",
               scheduled_e2e_ms),
        Metric("sched_max", "worst from schedule", "ms", "lower", 0, "the same, the worst of the slot",
               scheduled_e2e_max_ms),
        Metric("late", "sent late", "%", "lower", 1, "requests of an open loop that the client sent more than 10 ms "
               "after their time", late_share),
        Metric("connect_ttft", "first text, new connection", "ms", "lower", 1, "from the beginning of a new connection "
               "to the first text of the one request that it carries; median", connecting_ttft_ms),
        Metric("refused", "refused", "requests", "lower", 0, "requests of a burst that were answered 503", refused),
        Metric("lost", "lost", "requests", "lower", 0, "requests of a burst that were neither answered nor refused",
               lost),
        Metric("recover", "recovery", "ms", "lower", 0, "from the end of a burst's last answer to the first text of a "
               "request that comes after it", _extra("recover_ms")),
        Metric("cancel_tokens", "tokens after a hang-up", "tok", "lower", 1, "CPU time of the process tree that a "
               "cancelled request costs above one that ends by itself at that length, in units of the CPU time of a "
               "token", _extra("tokens_after")),
        Metric("cancel_free", "free after a hang-up", "ms", "lower", 0, "from the hang-up until the process tree is "
               "idle for 30 ms", _extra("free_ms")),
        Metric("cold", "cold start", "ms", "lower", 0, "from the start of the process to the first text, the files in "
               "the page cache", cold_start_ms),
        Metric("listen", "start to open port", "ms", "lower", 0, "from the start of the process until it accepts "
               "connections", _extra("listen_ms")),
        Metric("load", "model load", "ms", "lower", 0, "time to first text of a request that has to load the model, "
               "the server running", load_ms),
        Metric("expiry", "late expiry", "ms", "lower", 0, "how much later than its keep-alive time a model left",
               _extra("expiry_late_ms")),
        Metric("ctx_change", "first text, other context", "ms", "lower", 1, "time to first text of a request that asks "
               "for another context length than the last one", num_ctx_ms),
        Metric("embed", "embeddings", "texts/s", "higher", 1, "texts / time of their requests", embeddings_rate),
        Metric("valid", "valid JSON", "%", "higher", 0, "answers that are whole JSON with the keys that the schema "
               "demands", valid_share),
        Metric("pss_start", "memory at start", "MiB", "lower", 0, "proportional set size of a fresh process tree after "
               "its first answer", _extra("pss_start_mib")),
        Metric("pss_busy", "memory after work", "MiB", "lower", 0, "the same after some dozen different prompts",
               _extra("pss_busy_mib")),
        Metric("pss_full", "memory when full", "MiB", "lower", 0, "the same after as many requests at once as it "
               "serves, each with nearly its whole context", _extra("pss_full_mib")),
        Metric("idle_cache", "full cache ÷ empty", "", "higher", 3, "decode speed while the cache is full of other "
               "prompts, over that of a model that was just loaded", idle_share),
        Metric("beside_sum", "two models, sum ÷ one", "", "higher", 2, "decode speeds of two models that generate at "
               "once, added up, over that of one alone", beside_sum),
        Metric("beside_each", "two models, slower ÷ one", "", "higher", 2, "the slower of the two over one alone",
               beside_each),
        Metric("idle_cpu", "idle CPU", "ms/s", "lower", 2, "CPU time of the process tree while nobody asks", idle_cpu),
    )
}  # fmt: skip
