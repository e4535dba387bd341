"""Is the comparison valid? Each check has an id, looks only at the raw records, and gives a verdict per system.

The ids name the ways in which a comparison of servers can lie (docs/validity.md). One failure withdraws the headline.
"""

from __future__ import annotations

from vllama.bench.checks import conclusions, wire, work
from vllama.bench.checks.model import Check, Verdict
from vllama.bench.checks.work import Agreement, agreement_matrix
from vllama.bench.results import Run

__all__ = ["CHECKS", "Agreement", "Check", "Verdict", "agreement_matrix", "failures", "judge_all"]

CHECKS = (
    Check("W1", "the same model file", "system", work.same_weights),
    Check("W2", "the same settings", "system", work.same_settings),
    Check("W3", "the same prompt length, nothing cut", "system", work.prompt_tokens),
    Check("C1", "no answers from a prefix cache", "system", work.no_prefix_hits),
    Check("C1b", "no prompt asked twice", "system", work.fresh_prompts),
    Check("C1c", "no answer from a cache", "system", work.no_cached_answers),
    Check("C2", "prefill from the client's clock", "system", work.prefill_seen),
    Check("L1", "the same output length", "system", work.output_length),
    Check("L2", "greedy sampling", "system", work.greedy),
    Check("L3", "the raw engine's own answers", "system", work.same_text),
    Check("M1", "no model load inside a measured request", "system", wire.no_load),
    Check("M2", "warm from the first block", "system", wire.warm_from_the_start),
    Check("M3", "warm-up prompts are others", "run", wire.warmup_disjoint),
    Check("T1", "tokens counted as tokens", "system", wire.counted_as_tokens),
    Check("T1b", "counts that fit the text", "system", work.counts_fit_text),
    Check("T1c", "counts that re-tokenising confirms", "system", work.counted_again),
    Check("T2", "a real stream", "system", wire.really_streams),
    Check("T3", "the same tokenizer", "system", wire.same_tokenizer),
    Check("N1", "no Nagle delay", "system", wire.no_nagle),
    Check("N2", "sound connections", "system", wire.sound_connections),
    Check("N3", "127.0.0.1 everywhere", "system", wire.loopback),
    Check("K1", "the client is not the bottleneck", "system", wire.client_keeps_up),
    Check("K2", "latency from the schedule", "system", wire.from_schedule),
    Check("K3", "as many at once as asked for", "system", wire.as_many_at_once),
    Check("E1", "a steady machine", "run", conclusions.machine_quiet),
    Check("E1b", "a balanced order", "run", conclusions.in_order),
    Check("E2", "the other systems idle", "system", conclusions.others_idle),
    Check("E2b", "no more threads than cores", "run", conclusions.threads_fit),
    Check("E3", "files in the page cache", "system", conclusions.from_memory),
    Check("A1", "nothing left out", "system", conclusions.all_measured),
    Check("A2", "failures at most 0.5 %", "system", conclusions.few_errors),
    Check("A3", "percentiles with data behind them", "run", conclusions.percentiles_founded),
    Check("A4", "independent pairs", "system", conclusions.pairs_independent),
    Check("A5", "scope on record", "run", conclusions.scope_known),
)


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
