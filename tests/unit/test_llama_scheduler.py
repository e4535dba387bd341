"""The scheduler against a memory that behaves like llama.cpp's and refuses what llama.cpp would not survive."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.engines.llama.plan import Plan
from vllama.engines.llama.scheduler import FOLLOW, Limits, Scheduler
from vllama.engines.llama.sequence import Sequence, State


class Cell:
    """One token in the memory; `holders` maps a sequence id to nothing but its presence."""

    def __init__(self, token: int, position: int, holders: set[int]) -> None:
        self.token = token
        self.position = position
        self.holders = holders


@dataclass
class FakeMemory:
    """A unified cache of cells that belong to several sequences."""

    total: int
    maximum: int
    partial: bool = True
    cells: list[Cell] = field(default_factory=list)
    grown: int = 0
    saved: int = 0
    restored: int = 0
    fails_to_save: int = -1
    refuses: bool = False
    split: bool = False
    reshapes: bool = True

    def contents(self) -> dict[int, list[int]]:
        """The tokens of all sequences; fails unless their positions are 0, 1, 2 ..."""
        held: dict[int, dict[int, int]] = {}
        for cell in self.cells:
            for holder in cell.holders:
                row = held.setdefault(holder, {})
                assert cell.position not in row, f"sequence {holder} has a position twice"
                row[cell.position] = cell.token
        for slot, row in held.items():
            assert max(row) == len(row) - 1, f"sequence {slot} has holes"
        return {slot: [row[i] for i in range(len(row))] for slot, row in held.items()}

    def remove(self, slot: int, start: int, end: int) -> bool:
        if not self.partial and start > 0:
            return False
        for cell in self.cells:
            if slot in cell.holders and cell.position >= start and (end < 0 or cell.position < end):
                cell.holders.discard(slot)
        self.cells = [c for c in self.cells if c.holders]
        return True

    def copy(self, source: int, target: int, end: int) -> bool:
        assert target not in self.contents(), "the target of a copy holds something"
        if self.split:
            held = self.contents()[source][:end]
            assert len(held) == end, "copies cells that were never decoded"
            self.cells += [Cell(token, position, {target}) for position, token in enumerate(held)]
            return True
        shared = [c for c in self.cells if source in c.holders and c.position < end]
        assert len(shared) == end, "copies cells that were never decoded"
        for cell in shared:
            cell.holders.add(target)
        return True

    def shift(self, slot: int, start: int, end: int, delta: int) -> None:
        for cell in self.cells:
            if slot in cell.holders and start <= cell.position < end:
                assert cell.holders == {slot}, "moves a cell of somebody else"
                cell.position += delta

    def grow(self, cells: int) -> int:
        if cells <= self.maximum:
            self.total = cells
            self.grown += 1
        return self.total

    def reshape(self, slots: int, cells: int) -> bool:
        if not self.reshapes:
            return False
        self.total, self.cells = cells, []
        return True

    def save(self, slot: int) -> list[int] | None:
        self.saved += 1
        return None if self.saved == self.fails_to_save else list(self.contents()[slot])

    def restore(self, slot: int, state: list[int]) -> bool:
        assert slot not in self.contents(), "restores into a sequence that holds something"
        assert state is not None
        assert self.has_room(slot, len(state)), "no room to restore"
        if self.refuses:
            return False
        self.restored += 1
        self.cells += [Cell(token, position, {slot}) for position, token in enumerate(state)]
        return True

    def discard(self, state: list[int]) -> None:
        state.clear()

    def has_room(self, slot: int, count: int) -> bool:
        used = len(self.contents().get(slot, ())) if self.split else len(self.cells)
        return used + count <= self.total

    def decode(self, plan: Plan) -> None:
        assert len(plan.tokens) == len(plan.positions) == len(plan.slots) == sum(n for _, n in plan.rows)
        lengths = {slot: len(tokens) for slot, tokens in self.contents().items()}
        for token, position, slot in zip(plan.tokens, plan.positions, plan.slots, strict=True):
            assert position == lengths.get(slot, 0), "positions must continue"
            lengths[slot] = position + 1
            self.cells.append(Cell(token, position, {slot}))
        if self.split:
            assert max(lengths.values()) <= self.total, "more tokens than a sequence has cells"
            assert plan.slots == sorted(plan.slots), "the library would decode them one by one"
        else:
            assert len(self.cells) <= self.total, "more tokens than cells"


class Bench:
    """Scheduler, memory and a model that answers with random tokens."""

    def __init__(self, limits: Limits, maximum: int | None = None) -> None:
        self.memory = FakeMemory(limits.cells, maximum or limits.cells, limits.trim, split=limits.split)
        self.scheduler = Scheduler(limits, self.memory)
        self.draw = random.Random(1)
        self.left: dict[int, int] = {}
        self.finished: list[Sequence] = []

    def submit(self, tokens: list[int], output: int = 4, num_ctx: int = 1000, shift: bool = False) -> Sequence:
        sequence = Sequence(len(self.left), list(tokens), num_ctx=num_ctx, num_keep=2, shift=shift, remaining=output)
        self.left[sequence.id] = output
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> Plan | None:
        plan = self.scheduler.plan()
        self.scheduler.failed.clear()
        if plan is not None:
            self.memory.decode(plan)
            self.scheduler.commit(plan)
            for _, sequence in plan.outputs:
                self.left[sequence.id] -= 1
                if self.left[sequence.id] <= 0 or not self.scheduler.extend(sequence, self.draw.randrange(4)):
                    self.scheduler.finish(sequence)
                    self.finished.append(sequence)
        self.check()
        return plan

    def check(self) -> None:
        self.scheduler.check_integrity()
        contents = self.memory.contents()
        for slot in self.scheduler.slots:
            assert contents.get(slot.id, []) == slot.tokens[: slot.filled], "the library's content differs"
        assert len(self.memory.cells) == self.scheduler.cells.used, "cells are miscounted"
        assert self.memory.total == self.scheduler.cells.total, "the size of the memory is not known"
        for entry in self.scheduler.parking.entries:
            assert entry.state == entry.tokens, "a parked copy is not what it says"

    def run(self, steps: int = 500) -> None:
        for _ in range(steps):
            if self.step() is None:
                return
        raise AssertionError("it never ends")


def count(plan: Plan | None) -> dict[int, int]:
    """How many tokens each sequence has in the plan."""
    assert plan is not None
    return {sequence.id: n for sequence, n in plan.rows}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(0, 3),  # which common beginning
            st.integers(0, 90),  # how much of it
            st.lists(st.integers(0, 3), min_size=1, max_size=20),
            st.integers(1, 40),
            st.booleans(),
        ),
        st.tuples(st.sampled_from(["cancel", "pause", "resume", "no_room", "fault", "tidy"]), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(
    actions=ACTIONS,
    cells=st.sampled_from([96, 160, 400]),
    growth=st.sampled_from([1, 2, 4]),
    trim=st.booleans(),
    idle=st.sampled_from([0, 20, 200]),
    parked=st.sampled_from([0, 100, 1000]),
    fault=st.sampled_from(["", "save", "restore"]),
    split=st.booleans(),
    reshapes=st.booleans(),
)
def test_any_order_of_events_keeps_the_books_right(
    actions: list[tuple[object, ...]],
    cells: int,
    growth: int,
    trim: bool,
    idle: int,
    parked: int,
    fault: str,
    split: bool,
    reshapes: bool,
) -> None:
    limits = Limits(
        cells=cells // 4 if split else cells,
        slots=4 if split else 8,
        live=4,
        batch=32,
        chunk=8,
        idle=idle,
        parked=parked,
        split=split,
        trim=trim,
        copy=trim,
        shift=trim,
    )
    bench = Bench(limits, limits.cells * growth)
    bench.memory.reshapes = reshapes
    bench.memory.fails_to_save = 2 if fault == "save" else -1
    bench.memory.refuses = fault == "restore"
    scheduler = bench.scheduler
    known: list[Sequence] = []
    beginnings = [[(i * (k + 3)) % 5 for i in range(90)] for k in range(4)]
    for action in actions:
        match action:
            case ("submit", int(which), int(size), list(tail), int(output), bool(shift)):
                tokens = beginnings[which][:size] + tail
                known.append(bench.submit(tokens, output, num_ctx=len(tokens) + 10, shift=shift))
            case ("step", int(times)):
                for _ in range(times):
                    bench.step()
            case ("no_room" | "fault" as what, int(_)):
                plan = scheduler.plan()
                scheduler.failed.clear()
                if plan is not None and what == "no_room":
                    scheduler.no_room(plan)
                    scheduler.failed.clear()
                elif plan is not None:
                    scheduler.fault(plan)
            case ("tidy", int(times)):
                for _ in range(times):
                    scheduler.tidy()
            case (str(what), int(index)) if known:
                sequence = known[index % len(known)]
                if what == "cancel":
                    scheduler.cancel(sequence)
                else:
                    sequence.paused = what == "pause"
        bench.check()
    for sequence in known:
        sequence.paused = False
    bench.run(4000)
    assert scheduler.idle
    assert all(sequence.state is State.DONE for sequence in known)
    while scheduler.tidy():
        bench.check()
    assert split or scheduler.cells.used <= idle, "idle cells stay in the way"
    if scheduler.stretched and reshapes:
        assert scheduler.shrink()
        bench.check()
        assert not scheduler.stretched


def test_decodes_come_first_then_the_shortest_prompt_and_the_oldest_is_not_forgotten() -> None:
    bench = Bench(Limits(cells=2000, slots=8, live=8, batch=100, chunk=20))
    first = bench.submit([1, 2, 3], output=50)
    assert count(bench.step()) == {first.id: 3}
    second, third = bench.submit([9] * 50), bench.submit([8] * 5)
    plan = bench.step()
    assert plan is not None
    assert plan.rows[0] == (first, 1)
    assert count(plan) == {first.id: 1, second.id: 15, third.id: 5}
    assert [sequence for _, sequence in plan.outputs] == [first, third]
    fourth, fifth = bench.submit([7] * 18), bench.submit([6] * 18)
    # Prompts come whole: a part of a second one would be a small part, and slow.
    assert count(bench.step()) == {first.id: 1, third.id: 1, fourth.id: 18}
    assert count(bench.step()) == {first.id: 1, third.id: 1, fourth.id: 1, fifth.id: 18}
    # Passed over for the fourth time it would be: the oldest goes first, however short a new one is.
    sixth = bench.submit([5] * 12)
    running = {first.id: 1, fourth.id: 1, fifth.id: 1}
    assert count(bench.step()) == running | {second.id: 20, third.id: 1}
    assert count(bench.step()) == running | {sixth.id: 12}


def test_a_prompt_little_longer_than_a_chunk_comes_whole_and_short_ones_come_together() -> None:
    bench = Bench(Limits(cells=2000, slots=8, live=8, batch=100, chunk=40))
    first = bench.submit([1, 2, 3], output=50)
    bench.step()
    second = bench.submit([9] * 50)
    assert count(bench.step()) == {first.id: 1, second.id: 50}
    third = bench.submit([8] * 51)
    assert count(bench.step()) == {first.id: 1, second.id: 1, third.id: 40}
    fourth, fifth, sixth = (bench.submit([token] * 15) for token in (7, 6, 5))
    running = {first.id: 1, second.id: 1}
    assert count(bench.step()) == running | {third.id: 11, fourth.id: 15, fifth.id: 15}
    assert count(bench.step()) == running | {third.id: 1, fourth.id: 1, fifth.id: 1, sixth.id: 15}


def test_a_long_prompt_gets_its_share_of_the_steps_whatever_comes_behind_it() -> None:
    bench = Bench(Limits(cells=4000, slots=8, live=8, batch=100, chunk=20, split=True))
    bench.submit([1, 2, 3], output=500)
    bench.step()
    long = bench.submit([9] * 200)
    steps = given = 0
    while long.state in (State.WAITING, State.PREFILL):
        bench.submit([100 + steps] * 18)
        plan = bench.step()
        assert plan is not None
        given += count(plan).get(long.id, 0)
        steps += 1
        assert steps <= 4 * (200 // 20) + 4
    assert given == 200


def test_several_prompts_finish_one_after_the_other() -> None:
    bench = Bench(Limits(cells=2000, slots=8, live=8, batch=100, chunk=20))
    known = [bench.submit([k] * 20) for k in range(1, 5)]
    bench.step()
    assert [s.state for s in known] == [State.DECODE, *([State.PREFILL] * 3)]


def test_a_whole_batch_goes_to_prompts_when_nothing_decodes() -> None:
    bench = Bench(Limits(cells=2000, slots=8, live=8, batch=100, chunk=20))
    first = bench.submit([9] * 300)
    assert count(bench.step()) == {first.id: 100}
    second = bench.submit([8] * 300)
    assert count(bench.step()) == {first.id: 20}, "somebody waits for this step"
    assert second.state is State.PREFILL


def test_the_next_turn_of_a_chat_claims_the_idle_sequence() -> None:
    bench = Bench(Limits(cells=500, slots=4, live=2))
    first = bench.submit(list(range(100, 140)), output=3)
    bench.run()
    turn = bench.submit([*first.tokens, 1, 2, 3], output=1)
    bench.step()
    assert turn.cached == 42, "the prompt and all output but the last token, which was never decoded"
    assert sum(1 for slot in bench.scheduler.slots if slot.filled) == 1


def test_the_same_prompt_again_decodes_one_token() -> None:
    bench = Bench(Limits(cells=500, slots=4, live=2))
    prompt = list(range(100, 140))
    bench.submit(prompt, output=1)
    bench.run()
    again = bench.submit(prompt, output=1)
    assert count(bench.step()) == {again.id: 1}
    assert again.cached == 39


def test_a_short_common_beginning_is_copied_and_the_long_cache_stays() -> None:
    bench = Bench(Limits(cells=500, slots=4, live=2))
    bench.submit(list(range(200)), output=1)
    bench.run()
    other = bench.submit([*range(20), 999, 998], output=1)
    bench.step()
    assert other.cached == 20
    assert max(slot.filled for slot in bench.scheduler.slots) == 200
    assert bench.scheduler.cells.used == 202


def test_followers_wait_for_the_leader_of_a_long_prefix_and_share_its_cells() -> None:
    bench = Bench(Limits(cells=2000, slots=16, live=8, batch=64, chunk=32))
    shared = list(range(300))
    sequences = [bench.submit([*shared, 1000 + i], output=5) for i in range(8)]
    plan = bench.step()
    assert [sequence for sequence, _ in (plan.rows if plan else [])] == sequences[:1]
    bench.run()
    assert sequences[0].cached == 0
    assert [sequence.cached for sequence in sequences[1:]] == [300] * 7
    assert bench.scheduler.cells.total == 2000, "sharing needs no more cells"
    assert len(bench.finished) == 8


def test_a_short_common_part_is_not_worth_waiting_for() -> None:
    bench = Bench(Limits(cells=2000, slots=16, live=8, batch=512, chunk=512))
    sequences = [bench.submit([*range(FOLLOW - 10), 1000 + i, 1]) for i in range(4)]
    assert set(count(bench.step())) == {sequence.id for sequence in sequences}


@pytest.mark.parametrize("how", ["cancel", "preempt"])
def test_followers_go_on_without_their_leader(how: str) -> None:
    bench = Bench(Limits(cells=2000, slots=16, live=8, batch=64, chunk=32))
    leader = bench.submit(list(range(300)), output=5)
    follower = bench.submit([*range(290), 7], output=5)
    bench.step()
    assert follower.leader is leader
    if how == "cancel":
        bench.scheduler.cancel(leader)
    else:
        bench.scheduler._preempt()
    bench.run()
    assert follower in bench.finished


def test_admission_is_first_come_first_served_and_bounded() -> None:
    bench = Bench(Limits(cells=2000, slots=4, live=2))
    sequences = [bench.submit([i, i, i]) for i in range(4)]
    bench.step()
    assert [s.state for s in sequences] == [State.DECODE, State.DECODE, State.WAITING, State.WAITING]
    bench.run()
    assert [s.id for s in bench.finished] == [0, 1, 2, 3]


def test_the_least_recently_used_cache_goes_first() -> None:
    bench = Bench(Limits(cells=200, slots=4, live=1))
    for start in (100, 200):
        bench.submit(list(range(start, start + 80)), output=1)
        bench.run()
    bench.submit(list(range(300, 380)), output=1)
    bench.run()
    kept = sorted(slot.tokens[0] for slot in bench.scheduler.slots if slot.filled)
    assert kept == [200, 300]


def test_cells_grow_for_what_runs_but_not_for_caches() -> None:
    bench = Bench(Limits(cells=200, slots=8, live=4), maximum=800)
    for start in (100, 300, 500):
        bench.submit(list(range(start, start + 100)), output=1)
        bench.run()
    assert bench.memory.grown == 0
    together = [bench.submit(list(range(1000 * k, 1000 * k + 150)), output=20) for k in range(1, 4)]
    bench.step()
    assert {s.state for s in together} <= {State.PREFILL, State.DECODE}
    assert bench.memory.total == 800


def test_without_room_the_newest_gives_way_and_still_finishes() -> None:
    bench = Bench(Limits(cells=200, slots=8, live=4))
    old = bench.submit([1] * 60, output=90)
    new = bench.submit([2] * 60, output=90)
    states = set()
    for _ in range(400):
        if bench.step() is None:
            break
        states.add((old.state, new.state))
    assert (State.DECODE, State.WAITING) in states
    assert (State.WAITING, State.DECODE) not in states
    assert bench.finished == [old, new]


def test_what_can_never_fit_fails_alone() -> None:
    bench = Bench(Limits(cells=100, slots=8, live=4))
    small = bench.submit([1] * 10)
    large = bench.submit([2] * 150)
    later = bench.submit([3] * 10)
    plan = bench.scheduler.plan()
    for _ in range(50):
        if plan is not None:
            bench.memory.decode(plan)
            bench.scheduler.commit(plan)
            for _, sequence in plan.outputs:
                bench.scheduler.finish(sequence)
        if bench.scheduler.failed:
            break
        plan = bench.scheduler.plan()
    assert bench.scheduler.failed == [large]
    assert small.state is State.DONE
    bench.scheduler.failed.clear()
    bench.run()
    assert later.state is State.DONE


def test_a_full_context_is_shifted() -> None:
    bench = Bench(Limits(cells=200, slots=4, live=1))
    sequence = bench.submit(list(range(10)), output=40, num_ctx=20, shift=True)
    bench.run()
    assert sequence in bench.finished
    assert sequence.tokens[:2] == [0, 1], "num_keep tokens stay"
    slot = next(slot for slot in bench.scheduler.slots if slot.filled)
    assert slot.exact == 2, "what follows was computed from tokens that are gone"


def test_a_full_context_ends_where_it_cannot_be_shifted() -> None:
    bench = Bench(Limits(cells=200, slots=4, live=1, shift=False))
    sequence = bench.submit(list(range(10)), output=40, num_ctx=20, shift=True)
    bench.run()
    assert bench.left[sequence.id] == 30, "ten tokens of output make twenty"


def test_a_shift_does_not_move_cells_of_another_running_sequence() -> None:
    bench = Bench(Limits(cells=1000, slots=8, live=4, batch=512))
    prompt = list(range(100))
    shifting = bench.submit(prompt, output=30, num_ctx=110, shift=True)
    bench.step()
    staying = bench.submit([*prompt, 5], output=60)
    bench.run()
    assert staying.cached == 100
    assert {shifting, staying} == set(bench.finished)


def test_paused_sequences_are_left_out() -> None:
    bench = Bench(Limits(cells=200, slots=4, live=4))
    one, two = bench.submit([1, 2], output=9), bench.submit([3, 4], output=9)
    bench.step()
    one.paused = True
    assert count(bench.step()) == {two.id: 1}
    two.paused = True
    assert bench.step() is None
    one.paused = two.paused = False
    assert count(bench.step()) == {one.id: 1, two.id: 1}


def test_a_model_without_partial_removal_reuses_whole_sequences_only() -> None:
    bench = Bench(Limits(cells=500, slots=4, live=2, trim=False, copy=False, shift=False))
    first = bench.submit([1, 2, 3, 4], output=2)
    bench.run()
    longer = bench.submit([*first.tokens, 9], output=1)
    bench.step()
    other = bench.submit([1, 2, 9, 9, 9], output=1)
    bench.step()
    assert (longer.cached, other.cached) == (5, 0)


def parked(idle: int = 0, cells: int = 500, host: int = 1000) -> Bench:
    return Bench(Limits(cells=cells, slots=8, live=4, batch=64, chunk=16, idle=idle, parked=host))


def test_idle_sequences_are_parked_and_come_back_for_their_next_turn() -> None:
    bench = parked()
    talk = [i % 7 for i in range(60)]
    bench.submit(talk, output=3)
    bench.run()
    assert bench.scheduler.tidy()
    assert bench.scheduler.cells.used == 0
    again = bench.submit([*talk, 9, 9, 9])
    bench.step()
    assert again.cached == 60
    assert bench.memory.restored == 1


def test_a_short_idle_sequence_stays_where_it_is() -> None:
    bench = parked(idle=80)
    bench.submit([1] * 40)
    bench.run()
    assert not bench.scheduler.tidy()
    assert bench.scheduler.cells.used
    assert not bench.scheduler.untidy


def test_nobody_waits_for_a_copy_before_the_first_token() -> None:
    bench = parked(idle=30)
    bench.submit([1] * 50)
    bench.run()
    late = bench.submit([2] * 100)
    bench.step()
    assert late.state is State.PREFILL
    assert not bench.scheduler.tidy(), "copies while a prompt is computed"
    bench.step()
    assert late.state is State.DECODE
    assert bench.scheduler.tidy()


def test_the_oldest_parked_sequence_goes_first_and_a_beginning_of_another_is_not_kept_twice() -> None:
    bench = parked(host=150)
    for tokens in ([1] * 50, [2] * 50):
        bench.submit(tokens, output=1)
        bench.run()
        bench.scheduler.tidy()
    longer = [1] * 50 + [3] * 20
    bench.submit(longer, output=1)
    bench.run()
    bench.scheduler.tidy()
    assert [len(entry.tokens) for entry in bench.scheduler.parking.entries] == [50, 70]
    bench.submit([4] * 60, output=1)
    bench.run()
    bench.scheduler.tidy()
    assert [entry.tokens[0] for entry in bench.scheduler.parking.entries] == [1, 4]


def test_a_little_of_a_long_parked_sequence_is_not_worth_fetching() -> None:
    bench = parked(cells=5000, host=5000)
    bench.submit([1] * 40 + [2] * 3000, num_ctx=4000)
    bench.run()
    bench.scheduler.tidy()
    bench.submit([1] * 40 + [3] * 5)
    bench.step()
    assert bench.memory.restored == 0


def test_what_gives_way_for_lack_of_room_is_not_computed_twice() -> None:
    bench = parked(cells=200)
    first, second = bench.submit([1] * 30, output=100), bench.submit([2] * 30, output=100)
    bench.run()
    assert first.state is second.state is State.DONE
    assert bench.memory.restored >= 1


def streams(cells: int = 100, maximum: int = 0, slots: int = 4) -> Bench:
    return Bench(Limits(cells=cells, slots=slots, live=slots, batch=64, chunk=64, parked=1000, split=True), maximum)


def test_sequences_with_memories_of_their_own_run_side_by_side() -> None:
    bench = streams()
    known = [bench.submit([k] * 10, output=50) for k in range(1, 5)]
    bench.step()
    plan = bench.step()
    assert plan is not None
    assert plan.slots == [0, 1, 2, 3]
    assert {sequence for _, sequence in plan.outputs} == set(known)


def test_a_gap_between_running_sequences_is_closed() -> None:
    bench = streams()
    known = [bench.submit([k] * 10, output=3 if k == 2 else 40) for k in range(1, 5)]
    for _ in range(8):
        bench.step()
    assert known[1].state is State.DONE
    assert sorted(s.slot.id for s in known if s.slot is not None) in ([0, 1, 2], [1, 2, 3])


def test_a_newcomer_is_put_beside_those_that_run() -> None:
    bench = streams()
    bench.submit([1] * 10, output=40)
    bench.step()
    late = bench.submit([2] * 10, output=40)
    plan = bench.step()
    assert plan is not None
    assert late.slot is not None
    assert late.slot.id == 1


def test_memories_of_their_own_grow_for_the_longest_and_shrink_when_nothing_runs() -> None:
    bench = streams(cells=40, maximum=400)
    bench.submit([1] * 20, output=200)
    bench.run()
    assert bench.scheduler.cells.total > 200
    assert bench.scheduler.stretched
    assert bench.scheduler.shrink()
    assert (bench.scheduler.cells.total, bench.memory.total) == (40, 40)
    again = bench.submit([1] * 20 + [5] * 3)
    bench.step()
    assert again.cached == 0, "a sequence that is longer than the memory is not fetched"


def test_a_prompt_that_does_not_fit_gets_fewer_and_longer_memories_once_nothing_runs() -> None:
    bench = streams(cells=40)
    short = bench.submit([1] * 10, output=20)
    bench.step()
    long = bench.submit([2] * 70, output=5)
    bench.step()
    assert long.state is State.WAITING, "it waits for those that run"
    bench.run()
    assert short.state is long.state is State.DONE
    assert len(bench.scheduler.slots) == 2
    assert bench.scheduler.shrink()
    assert len(bench.scheduler.slots) == 4


def test_without_room_for_another_token_only_that_sequence_ends() -> None:
    bench = streams(cells=40)
    bench.memory.reshapes = False
    long, short = bench.submit([1] * 30, output=60), bench.submit([2] * 10, output=20)
    bench.run()
    assert long.state is short.state is State.DONE
    assert short in bench.finished
    assert long not in bench.finished


def test_a_prefix_is_copied_between_memories_of_their_own() -> None:
    bench = streams(cells=200)
    common = [i % 9 for i in range(90)]
    known = [bench.submit([*common, 20 + k], output=30) for k in range(3)]
    for _ in range(6):
        bench.step()
    assert [sequence.cached for sequence in known] == [0, 90, 90]
