"""Metrics and checks on hand-made records, where the right answer can be worked out on paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vllama.bench import checks, report
from vllama.bench.measure import METRICS, steady_tps
from vllama.bench.results import Run, Sample, Score, Slot

MS = 1_000_000


def sample(
    index: int = 0, *, slot: int = 0, sent: int = 0, texts: tuple[int, ...] = (100, 110, 120, 130, 140)
) -> Sample:
    """A request whose texts arrive at these milliseconds, one token each."""
    return Sample(
        slot=slot,
        index=index,
        prompt_sha=f"{slot}-{index}",
        t_sent=sent * MS,
        t_headers=0,
        t_first_event=0,
        t_end=(texts[-1] + 5) * MS,
        status=200,
        reused=True,
        n_prompt=20,
        n_cached=0,
        n_out=len(texts),
        finish="length",
        received=1,
        text="x" * len(texts),
        texts=[t * MS for t in texts],
        lengths=[1] * len(texts),
    )


def slot(**changes: Any) -> Slot:
    """A slot of one stream with five tokens."""
    base = Slot(
        index=0,
        block=0,
        place=0,
        system="vllama",
        scenario="streaming",
        concurrency=1,
        requests=1,
        n_out=5,
        stream=True,
        t_start=0,
        wall_ns=150 * MS,
        cpu_s=0.25,
        others_cpu_s=0.0,
        client_cpu_s=0.0,
        pss=3 * 2**20,
        lag_ns=[1000, 2000, 3000],
        control_work_ns=100,
        steal=0.0,
        foreign=0.0,
        load1=0.0,
        no_delay=True,
    )
    return replace(base, **changes)


def values(samples: list[Sample], **changes: Any) -> dict[str, float | None]:
    return {key: metric.of(slot(**changes), samples) for key, metric in METRICS.items()}


def test_one_stream_by_hand() -> None:
    found = values([sample(sent=10)])
    assert found["ttft"] == 90.0
    assert found["decode"] == pytest.approx(100.0)
    assert found["e2e"] == 135.0
    assert found["aggregate"] == pytest.approx(5 / 0.135)
    assert found["steady"] == pytest.approx(125.0)
    assert found["gap50"] == 10.0
    assert found["gap95"] is None
    assert found["cpu"] == pytest.approx(50.0)
    assert found["pss"] == 3.0


def test_without_streaming_there_is_no_first_text() -> None:
    found = values([sample(texts=(140,))], stream=False)
    assert [found[key] for key in ("ttft", "decode", "steady", "gap50")] == [None] * 4
    assert found["e2e"] == 145.0


def test_failed_requests_have_no_times() -> None:
    broken = replace(sample(), error="closed", texts=[])
    assert values([broken])["e2e"] is None
    assert values([broken, sample(1)])["e2e"] == 145.0


def test_steady_rate_counts_only_while_all_streams_run() -> None:
    # One stream from 0 to 100 ms, one from 50 to 150: both run from 50 to 100, and each gives half of its 10 tokens.
    first = replace(sample(0, texts=tuple(range(0, 101, 10))), n_out=10)
    second = replace(sample(1, texts=tuple(range(50, 151, 10))), n_out=10)
    assert steady_tps(slot(concurrency=2), [first, second]) == pytest.approx(10 / 0.05)
    apart = replace(sample(1, texts=tuple(range(200, 301, 10))), n_out=10)
    assert steady_tps(slot(concurrency=2), [first, apart]) is None


def test_gaps_stalls_and_jitter_by_hand() -> None:
    found = values([sample(texts=(100, 110, 120, 131, 141, 301))])
    assert found["gap_max"] == 160.0
    assert found["stalls"] == pytest.approx(200.0)
    assert found["jitter"] == 0.0
    assert found["tpot"] == pytest.approx(201 / 5)
    assert found["gap99"] is None
    assert values([sample(texts=(100, 108, 120, 130))])["jitter"] == pytest.approx(0.2)


def test_fairness_by_hand() -> None:
    fast, slow = sample(0, texts=tuple(range(100, 141, 10))), sample(1, texts=tuple(range(100, 181, 20)))
    found = values([fast, slow], concurrency=2)
    assert found["jain"] == pytest.approx(150**2 / (2 * (100**2 + 50**2)))
    assert found["slowest"] == pytest.approx(0.5)
    assert found["together"] == 2
    assert values([fast])["jain"] is None


def test_goodput_counts_errors_late_and_missing_requests_as_bad() -> None:
    slo = {"ttft_ms": 60.0, "gap_p99_ms": 15.0, "e2e_ms": 100.0}
    good = sample(0, sent=50)
    late = replace(good, t_sched=20 * MS)
    stalled = sample(2, sent=50, texts=(100, 110, 120, 130, 146))
    broken = replace(good, error="reset", texts=[])
    found = values([good, late, stalled, broken], slo=slo, requests=5)
    assert found["goodput"] == pytest.approx(20.0)
    assert found["errors"] == pytest.approx(40.0)
    assert values([good])["goodput"] is None


def test_prefill_is_a_difference_of_long_and_short() -> None:
    long = replace(sample(0, texts=(1100, 1110)), role="long", n_prompt=1020, n_cached=0)
    short = replace(sample(1, texts=(100, 110)), role="short", n_prompt=20, n_cached=0)
    assert values([long, short], kind="prefill")["prefill"] == pytest.approx(1000.0)
    cached = replace(long, n_cached=500)
    assert values([cached, short], kind="prefill")["prefill"] == pytest.approx(500.0)
    assert values([short, replace(long, role="short")], kind="prefill")["prefill"] is None


def test_victims_gaps_count_from_the_joiner_on() -> None:
    victim = replace(sample(0, texts=(100, 190, 200, 270, 280)), role="victim")
    joiner = replace(sample(1, sent=195, texts=(400, 410)), role="joiner", n_asked=2)
    found = values([victim, joiner], kind="mixed")
    assert found["victim_gap"] == 70.0
    assert found["joiner"] == 205.0
    assert found["ttft"] is None


def test_meant_ends_are_no_failures_and_short_answers_leave_the_statistics() -> None:
    cut = replace(sample(), outcome="cancelled", n_out=-1)
    assert (cut.ok, cut.failed) == (False, False)
    assert slot().counts([cut])
    assert not slot().counts([replace(sample(), n_out=4)])
    assert slot().counts([replace(sample(), n_out=4, n_asked=-1)])
    assert slot().counts([replace(sample(), n_out=4, n_asked=4)])
    assert not slot(error="x").counts([])
    assert replace(sample(), texts=[]).failed


def make_run(pairs: int = 8, ours: float = 1.0, **changes: Any) -> Run:
    """A run in which each of vLLama's texts takes `ours` times as long as the control's."""
    slots, samples = [], {}
    for block in range(pairs):
        for place, system in enumerate(("vllama", "llama-server") if block % 2 else ("llama-server", "vllama")):
            index = len(slots)
            factor = (1 + block / 10) * (ours if system == "vllama" else 1.0)
            slots.append(slot(index=index, block=block, place=place, system=system))
            times = tuple(round(factor * t) for t in (1000, 1100, 1200, 1300, 1400))
            samples[index] = [replace(sample(slot=index, texts=times), prompt_sha=f"p{block}")]
    plan = {
        "id": "0" * 10,
        "title": "made by hand",
        "systems": ["vllama", "llama-server"],
        "control": "llama-server",
        "pairs": pairs,
        "confidence": 0.99,
        "ctx": 256,
        "parallel": 1,
        "profile": "quick",
        "seed": 1,
        "scenarios": [],
    }
    system = {
        "title": "T",
        "lane": "matched",
        "version": "1",
        "model_sha256": "aa",
        "ceiling": False,
        "argv": [],
        "env": {},
        "options": {},
        "children": [],
        "notes": [],
    }
    environment = {
        "state": "complete",
        "machine": {"cpu": "c", "usable_cores": 2, "os": "o", "kernel": "k", "python": "3", "packages": {}},
        "threads": 1,
        "model": {"file": "m", "sha256": "aa"},
        "warmup_prompts": ["w"],
        "systems": {"vllama": {**system, "title": "vLLama"}, "llama-server": {**system, "title": "llama-server"}},
        "missing": {},
    }
    scores = [Score(index, 0, (0.0, 0.1)) for index in range(len(slots))]
    run = Run("2026-01-01-0000-x", plan, environment, slots, samples, scores)
    return replace(run, **changes)


def test_ratio_and_interval_reach_the_report() -> None:
    run = make_run(ours=1.25)
    found = report.ratio(run, "streaming/c1", "vllama", METRICS["ttft"])
    assert found is not None
    assert found.value == pytest.approx(1.25, abs=0.002)
    assert found.excludes_one
    page = report.render(run)
    assert "vLLama's first text = **1.250x** llama-server" in page
    assert "No headline" not in page
    assert "| streaming/c1 | first text | llama-server | 1.250" in page


def test_a_faster_server_has_no_loss_in_what_it_is_faster_at() -> None:
    page = report.render(make_run(ours=0.8))
    losses = page.split("## Where vLLama is behind")[1].split("\n## ")[0]
    assert losses.strip() == "Nowhere in this run."


def test_few_pairs_show_a_range_and_no_interval() -> None:
    page = report.render(make_run(pairs=3))
    assert "too few pairs for an interval" in page


def test_a_sound_run_fails_no_check() -> None:
    assert checks.failures(checks.judge_all(make_run())) == []


def damaged(**fields: Any) -> Run:
    """A sound run in which one thing is wrong in all of vLLama's slots or samples."""
    run = make_run()
    mine = {s.index for s in run.slots if s.system == "vllama"}
    slot_fields = {k: v for k, v in fields.items() if k in Slot.__slots__ and k not in ("n_out", "error")}
    sample_fields = {k: v for k, v in fields.items() if k not in slot_fields}
    slots = [replace(s, **slot_fields) if s.index in mine else s for s in run.slots]
    samples = {i: [replace(x, **sample_fields) if i in mine else x for x in found] for i, found in run.samples.items()}
    return replace(run, slots=slots, samples=samples)


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"n_prompt": 19}, "W3 (vllama)"),
        ({"n_cached": 20}, "C1 (vllama)"),
        ({"prompt_sha": "same"}, "C1b (vllama)"),
        ({"n_out": 4}, "L1 (vllama)"),
        ({"finish": "stop"}, "L1 (vllama)"),
        ({"native": {"load_duration": 10**9}}, "M1 (vllama)"),
        ({"source": "chunks"}, "T1 (vllama)"),
        ({"texts": [1399 * MS] * 4 + [1400 * MS], "t_end": 1401 * MS}, "T2 (vllama)"),
        ({"no_delay": False}, "N1 (vllama)"),
        ({"lag_ns": [1, 10**9, 10**9]}, "K1 (vllama)"),
        ({"steal": 0.5}, "E1"),
        ({"foreign": 0.5}, "E1"),
        ({"others_cpu_s": 0.1}, "E2 (vllama)"),
        ({"error": "closed"}, "A2 (vllama)"),
        ({"requests": 2}, "A1 (vllama)"),
        ({"place": 3}, "E1b"),
    ],
)
def test_each_fault_turns_its_check_red_and_withdraws_the_headline(fields: dict[str, Any], check: str) -> None:
    run = damaged(**fields)
    assert check in checks.failures(checks.judge_all(run))
    assert f"No headline: {', '.join(checks.failures(checks.judge_all(run)))} failed" in report.render(run)


def test_answers_that_the_raw_engine_would_not_give_are_found() -> None:
    run = make_run()
    wrong = [replace(score, gaps=(3.0, 0.0)) if score.slot % 2 else score for score in run.scores]
    found = checks.judge_all(replace(run, scores=wrong))
    assert any(bad.startswith("L3") for bad in checks.failures(found))


def test_other_weights_and_shared_warm_up_are_found() -> None:
    run = make_run()
    run.environment["systems"]["vllama"]["model_sha256"] = "bb"
    run.environment["warmup_prompts"] = ["p0"]
    assert checks.failures(checks.judge_all(run)) == ["W1 (vllama)", "M3"]


def test_an_interrupted_run_says_so() -> None:
    run = make_run()
    run.environment["state"] = "interrupted"
    assert "A1 (vllama)" in checks.failures(checks.judge_all(run))
    assert "This run is interrupted" in report.render(run)


def test_slots_with_a_short_answer_leave_the_statistics() -> None:
    run = make_run(pairs=4)
    run.samples[0][0].n_out = 3
    left = report.values(run, "streaming/c1", run.slots[0].system, METRICS["ttft"])
    assert sorted(left) == [1, 2, 3]
