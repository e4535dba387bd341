"""W, C, L: did the systems do the same work, all of it, and get the same answers?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

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
from vllama.bench.checks.settings import differences, settings
from vllama.bench.results import Run, Sample

MAX_CACHED_TOKENS = 4
"""Nonces of prompts may share their first tokens by chance."""

MAX_LOGIT_GAP = 0.5
MAX_FAR_SHARE = 0.01
"""Quantised kernels give sums that differ by some tenths of a logit from one batch shape to another."""

MAX_LENGTH_RATE = 0.02
MAX_REPEATED_SHARE = 0.50
MAX_INSTANT_SHARE = 0.02
HALF = 0.5
"""Two prompts on one passage often get one answer, and a near tie that falls the other way can make two equal that the
control gives apart. One that also comes in less than half of the time of the fastest new answer was not computed."""

SEEN_NS = 10_000_000
"""Of shorter times, half is the client's own inaccuracy."""

MIN_COMMON = 0.10
"""Of the text, before the first difference: less is another model, not another rounding."""

MAX_TEXT_PER_TOKEN = 2.5
MAX_MISCOUNTED = 0.02
"""An answer with two and a half times more or less text for each token than the control's, to the same prompt."""

MAX_RECOUNT = 0.03

GREEDY = {"temperature": 0, "top_k": 1, "repeat_penalty": 1}


def same_weights(run: Run, system: str) -> Verdict:
    """W1."""
    expected = run.environment["model"]["sha256"]
    found = described(run, system).get("model_sha256", "")
    if not expected and not found:
        return Verdict(None, "no model file in this run")
    return Verdict(found == expected, f"sha256 {found[:12] or 'unknown'}")


def same_settings(run: Run, system: str) -> Verdict:
    """W2: what the command lines, the children's included, say of context, parallelism, threads, batches and cache."""
    found = settings(described(run, system))
    said = ", ".join(f"{name} {value}" for name, value in found.items()) or "not said"
    if described(run, system).get("lane") != "matched":
        return Verdict(None, f"as shipped: {said}")
    unlike = differences(found, settings(described(run, run.plan["control"])))
    if not found:
        return Verdict(None, "its command lines say nothing of it")
    return Verdict(not unlike, f"{said}{'; the control has ' + ', '.join(unlike) if unlike else ''}")


def prompt_tokens(run: Run, system: str) -> Verdict:
    """W3: counts the prompts whose length differs from the control's."""
    control = {s.prompt_sha: s.n_prompt for _, s in answered(run, run.plan["control"]) if s.n_prompt >= 0}
    mine = [
        (s.n_prompt, control[s.prompt_sha])
        for _, s in answered(run, system)
        if s.prompt_sha in control and s.n_prompt >= 0
    ]
    return count(sum(a != b for a, b in mine), len(mine), "prompts as long as the control's")


def no_prefix_hits(run: Run, system: str) -> Verdict:
    """C1: where a scenario shares a prefix on purpose it says so and is left out; chats share their template's head."""
    said = [
        sample.n_cached
        for slot, sample in answered(run, system)
        if sample.n_cached >= 0 and not sample.reuses and slot.kind not in ("constrained", "conversation")
    ]
    if not said:
        return Verdict(None, "the API does not say; the nonce stands first in every prompt")
    bad = sum(cached > MAX_CACHED_TOKENS for cached in said)
    return Verdict(bad == 0, f"at most {max(said)} cached prompt tokens in {len(said)} requests")


def fresh_prompts(run: Run, system: str) -> Verdict:
    """C1b: no server is asked the same thing twice."""
    seen = [s.prompt_sha for _, s in requests_of(run, system) if not s.reuses and not s.loads]
    return count(len(seen) - len(set(seen)), len(seen), "prompts asked for the first time")


def no_cached_answers(run: Run, system: str) -> Verdict:
    """C1c: no answer that was given before comes faster than answers can be computed, and few come again at all
    that the control tells apart.

    What computing takes at least is said by the answers that were new, cell by cell. The middle of them would not do:
    a server with one place answers the first of eight in an eighth of the time of the last.
    """
    control = {s.prompt_sha: s.text for _, s in answered(run, run.plan["control"])}
    given: dict[str, str] = {}
    new: dict[str, list[Sample]] = {}
    again: list[tuple[str, Sample]] = []
    total = unlike = 0
    for slot, sample in answered(run, system):
        if sample.prompt_sha not in control or slot.kind == "constrained" or sample.reuses:
            continue
        total += 1
        other = given.setdefault(sample.text, sample.prompt_sha)
        if other == sample.prompt_sha:
            new.setdefault(slot.cell, []).append(sample)
        else:
            again.append((slot.cell, sample))
            unlike += control[other] != control[sample.prompt_sha]
    if not total:
        return NOTHING
    instant = sum(_faster_than_any(sample, new.get(cell, [])) for cell, sample in again)
    return Verdict(
        unlike / total <= MAX_REPEATED_SHARE and instant / total <= MAX_INSTANT_SHARE,
        f"{len(again)} of {total} answers were given before to another question, {unlike} of them not so by the "
        f"control; {instant} came faster than any new answer was computed",
    )


def _faster_than_any(sample: Sample, computed: Sequence[Sample]) -> bool:
    """Whether the whole, or its text from the first to the last piece, took less than half of the fastest one's: an
    answer that is kept may still wait for its turn, but then it comes in one go."""
    takes: tuple[Callable[[Sample], int], ...] = (lambda s: s.t_end - s.t_sent, lambda s: s.texts[-1] - s.texts[0])
    for took in takes:
        fastest = min(map(took, computed), default=0)
        if fastest > SEEN_NS and took(sample) < HALF * fastest:
            return True
    return False


def prefill_seen(run: Run, system: str) -> Verdict:
    """C2: a server's own prefill time is never used for a speed; it must still fit into what the client saw."""
    both = [
        (s.native["prompt_eval_duration"], s.texts[0] - s.t_sent)
        for s in lone_streams(run, system)
        if "prompt_eval_duration" in s.native
    ]
    if not both or is_ceiling(run, system):
        return Verdict(None, "the API does not say; speeds come from the client's clock")
    bad = sum(said > seen for said, seen in both)
    return Verdict(bad == 0, f"{len(both) - bad} of {len(both)} prefill times fit into the time to first text")


def output_length(run: Run, system: str) -> Verdict:
    """L1: slots with an answer of another length are left out of the statistics; more than a few forbid a headline."""
    asked = [(slot.asked(s), s) for slot, s in answered(run, system) if slot.asked(s) > 0]
    if not asked:
        return NOTHING
    bad = sum(s.n_out != n or s.finish != "length" for n, s in asked)
    return Verdict(
        bad / len(asked) <= MAX_LENGTH_RATE, f"{len(asked) - bad} of {len(asked)} answers exactly as long as asked for"
    )


def counts_fit_text(run: Run, system: str) -> Verdict:
    """T1b: whoever counted, the text must be there: a stream that breaks off may still claim all its tokens."""
    control = {
        s.prompt_sha: len(s.text) / s.n_out for _, s in answered(run, run.plan["control"]) if s.n_out > 0 and s.text
    }
    ratios = [
        len(s.text) / s.n_out / control[s.prompt_sha]
        for _, s in answered(run, system)
        if s.n_out > 0 and s.prompt_sha in control
    ]
    if not ratios:
        return NOTHING
    bad = sum(not 1 / MAX_TEXT_PER_TOKEN <= ratio <= MAX_TEXT_PER_TOKEN for ratio in ratios)
    return Verdict(
        bad / len(ratios) <= MAX_MISCOUNTED,
        f"{len(ratios) - bad} of {len(ratios)} answers with about as much text for each token as the control's",
    )


def counted_again(run: Run, system: str) -> Verdict:
    """T1c: the counts of a sample of the answers, against the model's own tokenizer.

    Text need not split again into the very tokens that were sampled, and half a character at the end is lost, but
    that is the same for all: what differs by more than a few per cent in sum was counted otherwise.
    """
    said = {(s.slot, s.index): s.n_out for _, s in answered(run, system) if s.n_out > 0}
    both = [
        (said[score.slot, score.index], score.tokens)
        for score in run.scores
        if score.tokens > 0 and (score.slot, score.index) in said
    ]
    if not both:
        return Verdict(None, "no answers counted again")
    claimed, counted = (sum(numbers) for numbers in zip(*both, strict=True))
    return Verdict(
        abs(claimed / counted - 1) <= MAX_RECOUNT,
        f"{claimed} tokens said for {len(both)} answers, {counted} by the model's own tokenizer",
    )


def greedy(run: Run, system: str) -> Verdict:
    """L2: every request of the harness says temperature 0, top_k 1, no penalties; nothing may overrule that."""
    flags = itertools.chain(described(run, system).get("argv", []), *described(run, system).get("children", []))
    overruled = [flag for flag in flags if flag in ("--temp", "--top-k", "--top-p", "--repeat-penalty", "--seed")]
    options = described(run, system).get("options", {})
    overruled += [f"{key} {options[key]}" for key, value in GREEDY.items() if key in options and options[key] != value]
    return Verdict(not overruled, f"overruled by {', '.join(overruled)}" if overruled else "greedy in every request")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two systems' answers to the same prompts compare. `common` is the median share of the text before the
    first difference, `first` the median place (in characters) of the first difference where there is one, else -1."""

    n: int
    equal: int
    common: float
    first: int


def agreement(run: Run, left: str, right: str) -> Agreement:
    """Of the answers at temperature 0 with one request at a time."""
    by_prompt = {s.prompt_sha: s.text for slot, s in answered(run, right) if slot.concurrency == 1}
    both = [
        (s.text, by_prompt[s.prompt_sha])
        for slot, s in answered(run, left)
        if slot.concurrency == 1 and s.prompt_sha in by_prompt and not s.reuses
    ]
    return compare(both)


def compare(both: Sequence[tuple[str, str]]) -> Agreement:
    """The agreement of pairs of texts."""
    firsts, shares = [], []
    for a, b in both:
        place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        shares.append(1.0 if a == b else place / max(1, len(a), len(b)))
        if a != b:
            firsts.append(place)
    return Agreement(
        len(both), len(both) - len(firsts), median(shares) if shares else 0.0, int(median(firsts)) if firsts else -1
    )


def agreement_matrix(run: Run) -> dict[tuple[str, str], Agreement]:
    """Every pair of systems, in the plan's order, each once."""
    return {pair: agreement(run, *pair) for pair in itertools.combinations(run.systems, 2)}


def same_text(run: Run, system: str) -> Verdict:
    """L3: every token is the raw engine's own choice, or nearly tied with it.

    Equal text would ask too much: a cache with holes or a bigger batch changes the order of sums, and a near tie then
    falls the other way, after which a greedy answer goes elsewhere. The share of equal texts is printed all the same.
    Where the raw engine did not judge, equal texts pass, and texts that part at once fail.
    """
    found = agreement(run, system, run.plan["control"])
    said = f"{found.equal} of {found.n} texts at c = 1 equal the control's"
    if found.first >= 0:
        said += f", the others part after {found.first} characters"
    slots = {slot.index for slot in slots_of(run, system)}
    gaps = [gap for score in run.scores if score.slot in slots for gap in score.gaps]
    if not gaps:
        ok = None if not found.n else True if found.equal == found.n else False if found.common < MIN_COMMON else None
        return Verdict(ok, f"{said}; no judgement by the raw engine")
    far = sum(gap > MAX_LOGIT_GAP for gap in gaps)
    return Verdict(
        far / len(gaps) <= MAX_FAR_SHARE,
        f"{len(gaps) - far} of {len(gaps)} tokens are the raw engine's choice or within {MAX_LOGIT_GAP} logits of it; "
        f"{said}",
    )
