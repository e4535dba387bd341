"""Each check of the comparison's validity: green on sound records, red when the one thing it watches is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from vllama.bench import checks
from vllama.bench.checks import agreement_matrix, judge_all
from vllama.bench.checks.conclusions import autocorrelation
from vllama.bench.checks.settings import settings
from vllama.bench.checks.work import Agreement, compare
from vllama.bench.mutate import CONTROL, SUBJECT, planted_run
from vllama.bench.results import Run, Sample, Score, Slot

MS = 1_000_000


def sound(pairs: int = 10) -> Run:
    run = planted_run(pairs)
    for slot in run.slots:
        slot.kind = "closed"
    return run


def with_samples(run: Run, change: Callable[[Slot, Sample], dict[str, Any]]) -> Run:
    """The run with the subject's samples changed."""
    mine = {slot.index: slot for slot in run.slots if slot.system == SUBJECT}
    samples = {
        index: [replace(s, **change(mine[index], s)) if index in mine else s for s in found]
        for index, found in run.samples.items()
    }
    return replace(run, samples=samples)


def with_slots(run: Run, **fields: Any) -> Run:
    slots = [replace(slot, **fields) if slot.system == SUBJECT else slot for slot in run.slots]
    return replace(run, slots=slots)


def describe(run: Run, key: str, **fields: Any) -> Run:
    systems = {**run.environment["systems"], key: {**run.environment["systems"][key], **fields}}
    return replace(run, environment={**run.environment, "systems": systems})


def environment(run: Run, **fields: Any) -> Run:
    return replace(run, environment={**run.environment, **fields})


def verdict(run: Run, check: str, key: str = SUBJECT) -> bool | None:
    by_system = judge_all(run)[check]
    return by_system.get(key, by_system.get("", checks.Verdict(None, ""))).ok


def test_sound_records_fail_no_check() -> None:
    assert checks.failures(judge_all(sound())) == []


def at_matched(run: Run, ours: list[str], control: list[str]) -> Run:
    return describe(describe(run, SUBJECT, argv=ours), CONTROL, argv=control)


FAULTS: dict[str, tuple[str, Callable[[Run], Run]]] = {
    "another file": ("W1", lambda run: describe(run, SUBJECT, model_sha256="bb")),
    "other threads": ("W2", lambda run: at_matched(run, ["x", "-t", "4"], ["y", "--threads=2"])),
    "another context": ("W2", lambda run: at_matched(run, ["-c", "4096", "-np", "4"], ["-c", "4096", "-np", "2"])),
    "another cache type": ("W2", lambda run: at_matched(run, ["-ctk", "q8_0"], ["-ctk", "f16"])),
    "prefill longer than first text": (
        "C2",
        lambda run: with_samples(run, lambda _, s: {"native": {"prompt_eval_duration": s.texts[0] - s.t_sent + 1}}),
    ),
    "a temperature": ("L2", lambda run: describe(run, SUBJECT, options={"temperature": 0.8})),
    "a sampler on the command line": ("L2", lambda run: describe(run, SUBJECT, argv=["--top-k", "40"])),
    "other texts": ("L3", lambda run: with_samples(run, lambda _, s: {"text": s.text[::-1]})),
    "cold first block": (
        "M2",
        lambda run: with_samples(run, lambda slot, s: {"t_end": s.t_end + (0 if slot.block else 200 * MS)}),
    ),
    "more tokens for the same text": ("T3", lambda run: with_samples(run, lambda _, s: {"n_out": s.n_out + 1})),
    "tokens without text": ("T1b", lambda run: with_samples(run, lambda _, s: {"text": s.text[:4]})),
    "chunks as tokens": ("T1", lambda run: with_samples(run, lambda _, s: {"source": "chunks"})),
    "a stall of 40 ms now and then": (
        "N1",
        lambda run: with_samples(run, lambda _, s: {"texts": [t + 40 * MS * (i > 7) for i, t in enumerate(s.texts)]}),
    ),
    "one port for two": ("N2", lambda run: describe(run, SUBJECT, argv=["--port", "1"])),
    "a name instead of an address": ("N3", lambda run: describe(run, SUBJECT, argv=["--host", "localhost"])),
    "a late loop": ("K1", lambda run: with_slots(run, lag_ns=[0, 15 * MS, 15 * MS])),
    "a busy client": ("K1", lambda run: with_slots(run, client_cpu_s=1e9)),
    "no stamps of their own": (
        "K1",
        lambda run: with_samples(run, lambda _, s: {"stamps": "kernel", "coalesced": len(s.texts) // 2}),
    ),
    "late sends": (
        "K2",
        lambda run: with_slots(with_samples(run, lambda _, s: {"t_sched": s.t_sent - 50 * MS}), kind="open"),
    ),
    "no schedule": ("K2", lambda run: with_slots(run, kind="open")),
    "two at once": ("K3", lambda run: with_samples(run, lambda _, s: {"t_sent": 0})),
    "weights from the disk": ("E3", lambda run: with_slots(run, extra={"major_faults": 300})),
    "threads": ("E2b", lambda run: environment(run, threads=999)),
    "pairs that drift apart": (
        "A4",
        lambda run: with_samples(run, lambda slot, s: {"t_end": s.t_end + slot.block * slot.block * 3 * MS}),
    ),
    "no CPU on record": ("A5", lambda run: environment(run, machine={"usable_cores": 2})),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_turns_its_check_red(name: str) -> None:
    check, break_it = FAULTS[name]
    run = sound()
    assert verdict(run, check) is not False
    assert verdict(break_it(run), check) is False


def test_a_few_waits_for_the_disk_are_no_fault_and_old_records_have_none() -> None:
    assert verdict(sound(), "E3") is None
    assert verdict(with_slots(sound(), extra={"major_faults": 3}), "E3") is True


def test_on_schedule_is_green_and_kernel_stamps_bear_a_late_loop() -> None:
    run = with_samples(sound(), lambda _, s: {"t_sched": s.t_sent, "stamps": "kernel"})
    assert verdict(with_slots(run, kind="open"), "K2") is True
    assert verdict(with_slots(run, lag_ns=[0, 2 * MS, 2 * MS]), "K1") is True
    assert verdict(with_slots(sound(), lag_ns=[0, 2 * MS, 2 * MS]), "K1") is False


def test_what_a_scenario_does_on_purpose_is_no_fault() -> None:
    run = sound()
    cached = with_samples(run, lambda _, s: {"n_cached": 15})
    assert verdict(cached, "C1") is False
    assert verdict(with_samples(cached, lambda _, s: {"reuses": True}), "C1") is None
    loaded = with_samples(run, lambda _, s: {"native": {"load_duration": 10**9}})
    assert verdict(loaded, "M1") is False
    assert verdict(with_samples(loaded, lambda _, s: {"loads": True}), "M1") is None
    short = with_samples(run, lambda _, s: {"n_out": 3})
    assert verdict(short, "L1") is False
    assert verdict(with_samples(short, lambda _, s: {"n_asked": -1}), "L1") is None
    refused = with_samples(run, lambda _, s: {"texts": []})
    assert verdict(refused, "A2") is False
    assert verdict(with_samples(refused, lambda _, s: {"outcome": "refused"}), "A2") is True


def test_as_shipped_is_no_failure_but_is_said() -> None:
    run = describe(at_matched(sound(), ["-t", "4"], ["-t", "2"]), SUBJECT, lane="defaults")
    found = judge_all(run)["W2"][SUBJECT]
    assert (found.ok, found.detail) == (None, "as shipped: threads 4")


def test_an_answer_that_comes_at_once_and_was_given_before_is_from_a_cache() -> None:
    run = sound()
    kept = dict.fromkeys(range(4), "the kept answer")

    def change(slot: Slot, s: Sample) -> dict[str, Any]:
        # The first time it was computed.
        soon = {"t_end": s.t_sent + MS} if slot.block else {}
        return {"text": kept[slot.block], **soon} if slot.block in kept else {}

    assert verdict(with_samples(run, change), "C1c") is False
    slow = with_samples(run, lambda slot, s: {"text": kept[slot.block]} if slot.block in kept else {})
    assert verdict(slow, "C1c") is True


def test_a_kept_answer_that_waits_for_its_turn_is_found_by_coming_in_one_go() -> None:
    def change(slot: Slot, s: Sample) -> dict[str, Any]:
        in_one_go = {"texts": [s.texts[-1]] * len(s.texts)} if slot.block else {}
        return {"text": "the kept answer", **in_one_go} if slot.block < 4 else {}

    assert verdict(with_samples(sound(), change), "C1c") is False


def test_the_first_in_a_queue_is_not_taken_for_an_answer_from_a_cache() -> None:
    """A server with one place: the earlier of the requests that come together take a fraction of the median time."""

    def change(slot: Slot, s: Sample) -> dict[str, Any]:
        wait = 200 * MS * (slot.block % 4)
        same = {"text": "by chance the same"} if slot.block % 4 == 0 else {}
        return {"texts": [t + wait for t in s.texts], "t_end": s.t_end + wait, **same}

    assert verdict(with_samples(sound(), change), "C1c") is True


def test_settings_of_children_outrank_wishes_and_context_is_per_request() -> None:
    ollama = {
        "argv": ["ollama", "serve"],
        "env": {"OLLAMA_NUM_PARALLEL": "8"},
        "options": {"num_ctx": 2048, "num_thread": 2},
        "children": [["llama-server", "-c", "16384", "-np", "8", "--cache-type-k=q8_0"]],
    }
    assert settings(ollama) == {"context": "2048", "parallel": "8", "threads": "2", "K cache": "q8_0"}
    assert settings({"argv": ["x"]}) == {}


def test_agreement_says_where_texts_part() -> None:
    assert compare([("same", "same"), ("abcd", "abXY")]) == Agreement(2, 1, 0.75, 2)
    assert compare([]) == Agreement(0, 0, 0.0, -1)
    matrix = agreement_matrix(sound())
    assert set(matrix) == {("control", "control-twin"), ("control", "subject"), ("control-twin", "subject")}
    assert all(found.equal == found.n == 20 for found in matrix.values())


def test_autocorrelation() -> None:
    assert autocorrelation([1.0, 1.0, 1.0]) is None
    assert autocorrelation([1.0, -1.0] * 5) == pytest.approx(-0.9)


def test_every_id_of_the_page_exists_and_every_check_is_on_the_page() -> None:
    from pathlib import Path

    page = (Path(__file__).parent.parent.parent / "docs" / "validity.md").read_text(encoding="utf-8")
    for check in checks.CHECKS:
        assert f"| {check.id} |" in page, check.id


def test_counts_are_checked_by_the_models_own_tokenizer() -> None:
    run = sound()
    mine = [s for slot in run.slots if slot.system == SUBJECT for s in run.samples[slot.index] if s.ok]

    def judged(tokens: Callable[[Sample], int]) -> Run:
        return replace(run, scores=[Score(s.slot, s.index, (0.0,), tokens(s)) for s in mine])

    assert verdict(run, "T1c") is None
    assert verdict(judged(lambda s: -1), "T1c") is None, "records from before there was this count"
    assert verdict(judged(lambda s: s.n_out), "T1c") is True
    assert verdict(judged(lambda s: s.n_out - (s.slot % 4 == 0 and s.index == 0)), "T1c") is True
    assert verdict(judged(lambda s: s.n_out * 9 // 10), "T1c") is False


def test_swap_in_use_is_said_and_not_judged() -> None:
    run = sound()
    machine = {**run.environment["machine"], "usable_cores": 2, "swap_used_bytes": 64 << 20}
    found = judge_all(environment(run, machine=machine, threads=2))["E2b"][""]
    assert found.ok is True
    assert "64 MiB of swap" in found.detail


def test_a_chat_shares_the_head_of_its_template() -> None:
    run = with_samples(sound(), lambda slot, sample: {"n_cached": 20})
    assert verdict(run, "C1") is False
    assert verdict(with_slots(run, kind="constrained"), "C1") is None
