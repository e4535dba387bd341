"""Which tokens of which sequence go into the next step.

Pure: it knows nothing of ctypes, asyncio, text or time; the KV memory is behind the `Memory` protocol. One round is
`plan()`, the caller's decode, `commit(plan)`, then for each output `extend(sequence, token)` or `finish(sequence)`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from vllama.engines.llama.kv import Cells, Memory, Streams
from vllama.engines.llama.parking import COPY_PER_COMPUTE, Parked, Parking
from vllama.engines.llama.plan import Plan
from vllama.engines.llama.prefix import Match, matches
from vllama.engines.llama.sequence import Sequence, Slot, State

HEADROOM = 64
"""Cells set aside for the output of a sequence when it is admitted; what it needs beyond is found when needed."""

FOLLOW = 64
"""A prompt waits for a running one to decode their common part if that saves at least so many tokens."""

IDLE = 512
"""Cells of prefix cache that stay in the KV memory: attention looks at every cell in every step. The rest is parked in
host memory. See docs/decisions/0003 for what idle cells cost."""

GAP = 8
"""A sequence that has fewer tokens to go is not moved to close a gap."""

GAP_LONGEST = 2048
"""Nor is one that holds more tokens: copying it would take as long as the gap costs in many steps."""

PATIENCE = 4
"""In one of so many steps the oldest prompt goes first, however short the others are."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`cells` of KV memory, of each sequence's own when `split`, else of one that all share; `slots` = sequence ids,
    `live` sequences at once, `batch` tokens in a step, `chunk` prompt tokens in a step that others wait for, `idle`
    cells of prefix cache in a shared memory that no running sequence shares (attention walks over them in every
    step), `parked` tokens of prefix cache in host memory. The flags say what the model's memory can do: drop the
    tail of a sequence (`trim`), share a beginning (`copy`), move positions (`shift`)."""

    cells: int
    slots: int = 64
    live: int = 32
    batch: int = 512
    chunk: int = 128
    idle: int = IDLE
    parked: int = 0
    split: bool = False
    trim: bool = True
    copy: bool = True
    shift: bool = True


class Scheduler:
    """See the module. `failed` collects sequences that cannot go on for lack of memory; the caller empties it.

    `untidy`: `tidy()` may have something to do.
    """

    def __init__(self, limits: Limits, memory: Memory) -> None:
        self.limits = self._wanted = limits
        self.memory = memory
        self.cells = Streams(limits.cells) if limits.split else Cells(limits.cells)
        self.parking = Parking(limits.parked, memory.discard)
        self.slots = [Slot(i) for i in range(limits.slots)]
        self.waiting: deque[Sequence] = deque()
        self.following: list[Sequence] = []
        self.live: list[Sequence] = []
        self.failed: list[Sequence] = []
        self.untidy = False
        self._order = 0
        self._tick = 0
        self._tight = False
        self._passed = 0

    def submit(self, sequence: Sequence) -> None:
        """Queue it. Its tokens number at least one and less than its `num_ctx`."""
        self._order += 1
        sequence.order = self._order
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Take it out, whatever it is doing; what it has decoded stays as prefix cache."""
        if sequence.state is State.WAITING:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            elif sequence in self.following:
                self.following.remove(sequence)
            sequence.state = State.DONE
        elif sequence.state is not State.DONE:
            self.finish(sequence)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not (self.live or self.waiting or self.following)

    def plan(self) -> Plan | None:
        """The next step, or None when no sequence can make progress (idle, or all are paused)."""
        self._queue()
        while True:
            decoding: list[Sequence] = []
            filling: list[Sequence] = []
            for sequence in self.live:
                if sequence.state is State.PREFILL:
                    filling.append(sequence)
                elif not sequence.paused:
                    # After a shift that had to recompute, a decoding sequence has a whole tail to fill again.
                    (decoding if sequence.pending == 1 else filling).append(sequence)
            if not decoding and not filling:
                return None
            if self.limits.split:
                if self._lengthen(decoding):
                    self._close_gap()
                    return self._rows(decoding, filling)
            else:
                need = len(decoding) or 1
                if self.cells.free >= need or self._make_room(need):
                    return self._rows(decoding, filling)
                self._preempt()
            if not self.live:
                self._queue()

    def tidy(self) -> bool:
        """Move one idle sequence out of the way of the steps to come, if that is due; True if it did.

        To be called between two steps: copying takes as long as a few tokens. Who waits for a first token is not
        kept waiting for it, unless there is much to move.
        """
        if not self.untidy:
            return False
        if self.limits.split:
            # What is idle is in nobody's way.
            self.untidy = False
            return False
        idle = self._idle_slots()
        # Every running sequence looks at them.
        allowed = self.limits.idle // max(1, len(self.live))
        excess = self.cells.used - self.cells.held_by(self._busy()) - allowed
        if not idle or excess <= 0:
            self.untidy = False
            return False
        hurried = self.waiting or self.following or any(s.state is State.PREFILL for s in self.live)
        if hurried and excess <= 2 * self.limits.idle:
            return False
        self._park(idle[0])
        return True

    @property
    def stretched(self) -> bool:
        """Nothing runs, and the memory is not of the shape that it began with."""
        return self.idle and (self.cells.total > self._wanted.cells or self.limits != self._wanted)

    def shrink(self) -> bool:
        """Give back what the memory grew by; to be called when `stretched` and nothing came for a while."""
        for slot in self._idle_slots():
            self._park(slot)
        return self._reshape(self._wanted.slots, self._wanted.cells)

    def cached(self) -> list[tuple[list[int], Slot | Parked]]:
        """The sequences that are prefix cache and whole: their tokens, and where they are."""
        resident = [(slot.tokens, slot) for slot in self._idle_slots() if slot.exact < 0 or slot.filled <= slot.exact]
        return [*resident, *((entry.tokens, entry) for entry in self.parking.entries)]

    def commit(self, plan: Plan) -> None:
        """The plan was decoded."""
        self._tight = False
        append = self.cells.append
        for sequence, count in plan.rows:
            slot = sequence.slot
            assert slot is not None
            slot.filled += count
            append(slot.id, count)

    def extend(self, sequence: Sequence, token: int) -> bool:
        """The sequence sampled a token and wants to go on. False: its context is full, and it cannot be shifted."""
        sequence.state = State.DECODE
        sequence.remaining -= 1
        tokens = sequence.tokens
        tokens.append(token)
        if len(tokens) < sequence.num_ctx:
            return True
        return sequence.shift and self.limits.shift and self._shift(sequence)

    def finish(self, sequence: Sequence) -> None:
        """The sequence is done; its KV stays as prefix cache for later prompts."""
        sequence.state = State.DONE
        slot = sequence.slot
        if slot is None:
            return
        self.live.remove(sequence)
        sequence.slot = None
        slot.owner = None
        del slot.tokens[slot.filled :]
        self._tick += 1
        slot.used = self._tick
        self.untidy = True

    def no_room(self, plan: Plan) -> None:
        """The library found no cells for a plan although there should be some: make do with less."""
        del plan
        idle = self._idle_slots()
        if idle:
            for slot in idle:
                self._park(slot)
        elif self._tight or not self._grow(self.cells.total + 1):
            self._preempt()
        # Until a step succeeds nobody is admitted and memory is not doubled again, or it would go on for ever.
        self._tight = not idle

    def rewind(self, plan: Plan) -> list[Sequence]:
        """The library failed on this plan: its memory is cut back to what was committed. Gives the sequences for
        which that is impossible; they are lost."""
        lost = []
        for sequence, _ in plan.rows:
            slot = sequence.slot
            if slot is not None and not self.memory.remove(slot.id, slot.filled, -1):
                self.finish(sequence)
                self._forget(slot)
                lost.append(sequence)
        return lost

    def fault(self, plan: Plan) -> list[Sequence]:
        """The library failed on this plan: its sequences are lost, everybody else goes on."""
        lost = [sequence for sequence, _ in plan.rows]
        for sequence in lost:
            slot = sequence.slot
            self.finish(sequence)
            if slot is not None:
                self._forget(slot)
        return lost

    # Admission

    def _queue(self) -> None:
        if self.waiting and not (self._tight and self.live):
            self._admit()
        if self.following:
            self._release_followers()

    def _admit(self) -> None:
        while self.waiting and len(self.live) + len(self.following) < self.limits.live:
            sequence = self.waiting[0]
            found = matches(sequence.tokens, self.slots)
            if not self._fits(sequence, found):
                if self.live or self.following:
                    return
                if self._narrow(sequence):
                    continue
                if len(sequence.tokens) >= self.cells.total:
                    self.waiting.popleft()
                    sequence.state = State.DONE
                    self.failed.append(sequence)
                    continue
                # Alone it may have all there is, without the headroom and without what it could reuse.
            self.waiting.popleft()
            found = self._fetch(sequence, found)
            if not self._follow(sequence, found):
                self._attach(sequence, found)

    def _fits(self, sequence: Sequence, found: list[Match]) -> bool:
        """Whether the prompt and a little output fit beside what is running, evicting and growing as needed."""
        if self.limits.split:
            want = len(sequence.tokens) + min(sequence.remaining, HEADROOM)
            return want <= self.cells.total or self._grow(want)
        best = max(found, key=lambda match: match.ready, default=None)
        keep = self._busy()
        if best is not None:
            keep.add(best.slot.id)
        reuse = best.ready if best is not None else 0
        demand = self.cells.held_by(keep) + len(sequence.tokens) - reuse + min(sequence.remaining, HEADROOM)
        demand += sum(s.pending + min(s.remaining, HEADROOM) for s in self.live)
        demand += sum(len(s.tokens) - s.need + min(s.remaining, HEADROOM) for s in self.following)
        return demand <= self.cells.total or self._grow(demand)

    def _follow(self, sequence: Sequence, found: list[Match]) -> bool:
        """Let it wait for a running sequence that is about to decode a long part of the same prompt."""
        if not self.limits.copy:
            return False
        ready = max((match.ready for match in found), default=0)
        best = max(found, key=lambda match: match.later, default=None)
        if best is None or best.later - ready < FOLLOW:
            return False
        sequence.leader = best.slot.owner
        sequence.need = best.later
        self.following.append(sequence)
        return True

    def _release_followers(self) -> None:
        for sequence in list(self.following):
            leader = sequence.leader
            assert leader is not None
            if leader.slot is not None and leader.slot.filled < sequence.need and leader.state is State.PREFILL:
                continue
            self.following.remove(sequence)
            sequence.leader = None
            found = matches(sequence.tokens, self.slots)
            if not self._follow(sequence, found):
                self._attach(sequence, found)

    def _attach(self, sequence: Sequence, found: list[Match]) -> None:
        """Give it a slot with as much of its prompt as is there already."""
        slot = self._claim(found) or self._share(found) or self._empty_slot()
        slot.owner = sequence
        slot.tokens = sequence.tokens
        sequence.slot = slot
        sequence.leader = None
        sequence.cached = slot.filled
        sequence.state = State.PREFILL
        self.live.append(sequence)
        self.untidy = True

    def _claim(self, found: list[Match]) -> Slot | None:
        """The idle slot with the longest match, when most of what it holds is of use and nobody offers more."""
        best = max((match.ready for match in found), default=0)
        for match in found:
            slot = match.slot
            if slot.owner is not None or match.ready < best:
                continue
            if match.ready == slot.filled:
                slot.exact = -1
                return slot
            if not self.limits.trim or (match.ready * 2 < slot.filled and self.limits.copy):
                continue
            if not self.memory.remove(slot.id, match.ready, -1):
                self._forget(slot)
                return slot
            self.cells.trim(slot.id, match.ready)
            slot.filled = match.ready
            slot.exact = -1
            return slot
        return None

    def _share(self, found: list[Match]) -> Slot | None:
        """An empty slot that shares the cells of the longest match."""
        best = max(found, key=lambda match: match.ready, default=None)
        if best is None or not best.ready or not self.limits.copy:
            return None
        if self.limits.split and best.ready * COPY_PER_COMPUTE < best.slot.filled:
            return None
        slot = self._empty_slot(keep=best.slot)
        if slot is best.slot or not self.memory.copy(best.slot.id, slot.id, best.ready):
            return slot
        self.cells.copy(best.slot.id, slot.id, best.ready)
        slot.filled = best.ready
        return slot

    def _empty_slot(self, keep: Slot | None = None) -> Slot:
        """The lowest slot that holds nothing, else the one that was idle longest; `keep` only if there is no other.

        With memories of their own, first of all a neighbour of those that run: the library decodes only
        sequences with consecutive ids together.
        """
        if self.limits.split and self.live:
            busy = self._busy()
            slot = min(
                (slot for slot in self.slots if slot.owner is None),
                key=lambda s: (s is keep, -((s.id - 1 in busy) + (s.id + 1 in busy)), bool(s.filled), s.used),
            )
            if slot.filled:
                self._park(slot)
            return slot
        for slot in self.slots:
            if slot.owner is None and not slot.filled:
                return slot
        idle = self._idle_slots()
        slot = next((slot for slot in idle if slot is not keep), idle[0])
        self._park(slot)
        return slot

    # Rows

    def _rows(self, decoding: list[Sequence], filling: list[Sequence]) -> Plan:
        chosen = [(sequence, 1) for sequence in decoding]
        if filling:
            budget = most = self.limits.batch - len(decoding)
            if decoding or len(filling) > 1:
                budget = min(budget, self.limits.chunk)
            if not self.limits.split:
                wanted = min(budget, sum(s.pending for s in filling))
                if self.cells.free < len(decoding) + wanted:
                    self._make_room(len(decoding) + wanted)
                most = min(most, self.cells.free - len(decoding))
            chosen += _share_out(self._in_turn(filling), min(budget, most), most)
        if self.limits.split:
            chosen.sort(key=_place)
        plan = Plan()
        tokens, positions, slots = plan.tokens, plan.positions, plan.slots
        outputs = plan.outputs
        plan.rows = chosen
        for sequence, count in chosen:
            slot = sequence.slot
            assert slot is not None
            start = slot.filled
            if count == 1:
                tokens.append(sequence.tokens[start])
                positions.append(start)
                slots.append(slot.id)
            else:
                tokens += sequence.tokens[start : start + count]
                positions += range(start, start + count)
                slots += [slot.id] * count
            if start + count == len(sequence.tokens):
                outputs.append((len(tokens) - 1, sequence))
        return plan

    def _in_turn(self, filling: list[Sequence]) -> list[Sequence]:
        """Who needs least comes first, so that many prompts do not all wait for all of them; among equals the oldest.

        The oldest of all is passed over a few times at most, so a long prompt never starves.
        """
        order = sorted(filling, key=lambda s: (s.pending, s.order))
        oldest = min(filling, key=lambda s: s.order)
        if oldest is order[0]:
            self._passed = 0
        else:
            self._passed += 1
            if self._passed >= PATIENCE:
                self._passed = 0
                order.remove(oldest)
                order.insert(0, oldest)
        return order

    # Memory

    def _busy(self) -> set[int]:
        """Ids of the slots that sequences run in."""
        return {slot.id for slot in self.slots if slot.owner is not None}

    def _idle_slots(self) -> list[Slot]:
        """Slots that hold prefix cache only, the least recently used first."""
        return sorted((slot for slot in self.slots if slot.owner is None and slot.filled), key=lambda slot: slot.used)

    def _fetch(self, sequence: Sequence, found: list[Match]) -> list[Match]:
        """Bring a parked sequence back into an idle slot if it offers more of the prompt than `found`."""
        resident = max((match.later for match in found), default=0)
        entry = self.parking.best(sequence.tokens, resident, whole=not self.limits.trim)
        if entry is None:
            return found
        size = len(entry.tokens)
        if size + (0 if self.limits.split else self.cells.held_by(self._busy())) > self.cells.total:
            return found
        self.parking.touch(entry)
        slot = self._empty_slot()
        # Making room parks others, in whose favour this entry may have gone.
        if (self.limits.split or self._make_room(size)) and entry in self.parking.entries:
            if self.memory.restore(slot.id, entry.state):
                self.cells.append(slot.id, size)
                slot.tokens = list(entry.tokens)
                slot.filled = size
                self._tick += 1
                slot.used = self._tick
            else:
                self.parking.drop(entry)
        return matches(sequence.tokens, self.slots)

    def _park(self, slot: Slot) -> None:
        """Empty a slot that nothing runs in; what it holds is kept in host memory if that is worth it."""
        if slot.exact >= 0 and slot.filled > slot.exact and self.memory.remove(slot.id, slot.exact, -1):
            self.cells.trim(slot.id, slot.exact)
            slot.filled = slot.exact
            del slot.tokens[slot.filled :]
        whole = slot.exact < 0 or slot.filled <= slot.exact
        if whole and self.parking.wants(slot.tokens) and not self.parking.holds(slot.tokens):
            state = self.memory.save(slot.id)
            if state is not None:
                self.parking.put(list(slot.tokens), state)
        self._forget(slot)

    def _make_room(self, need: int) -> bool:
        """Free cells by evicting prefix cache, then by growing. True when `need` cells are free."""
        for slot in self._idle_slots():
            if self.cells.free >= need:
                return True
            self._park(slot)
        return self.cells.free >= need or self._grow(self.cells.used + need)

    def _grow(self, cells: int) -> bool:
        """Double the cells until there are so many. True when there are now."""
        total = self._doubled(cells)
        if total > self.cells.total:
            self.cells.total = self.memory.grow(total)
        return self.cells.total >= cells

    def _doubled(self, cells: int) -> int:
        """The size of the memory, doubled until it has so many cells."""
        total = self.cells.total
        while total < cells:
            total *= 2
        return total

    def _lengthen(self, decoding: list[Sequence]) -> bool:
        """Room for one more token of each, in memories of their own. False: they had to begin anew, look again."""
        longest = max((s for s in decoding if s.slot is not None), key=lambda s: len(s.tokens), default=None)
        if longest is None or len(longest.tokens) <= self.cells.total or self._grow(len(longest.tokens)):
            return True
        for sequence in sorted(self.live, key=lambda s: -s.order):
            self._requeue(sequence)
        if not self._narrow(longest):
            self.waiting.remove(longest)
            longest.state = State.DONE
            self.failed.append(longest)
        self._queue()
        return False

    def _requeue(self, sequence: Sequence) -> None:
        """Back to the head of the queue; what it has decoded is kept if it can be."""
        slot = sequence.slot
        assert slot is not None
        self.live.remove(sequence)
        sequence.slot = None
        slot.owner = None
        # Its list of tokens goes on with it.
        slot.tokens = sequence.tokens[: slot.filled]
        self._park(slot)
        sequence.state = State.WAITING
        self.waiting.appendleft(sequence)

    def _close_gap(self) -> None:
        """Move a running sequence into a hole between the others, one a step: a gap costs each step a pass."""
        busy = sorted(self._busy())
        if len(busy) < 2 or busy[-1] - busy[0] + 1 == len(busy):
            return
        # The end of the row that costs least to move in.
        ends = sorted((self.slots[busy[0]], self.slots[busy[-1]]), key=lambda slot: slot.filled)
        hole = next(i for i in range(busy[0] + 1, busy[-1]) if self.slots[i].owner is None)
        for source in ends:
            sequence = source.owner
            assert sequence is not None
            if not source.filled or sequence.remaining < GAP or source.filled > GAP_LONGEST:
                continue
            target = self.slots[hole]
            if target.filled:
                self._park(target)
            if not self.memory.copy(source.id, target.id, source.filled):
                continue
            self.cells.copy(source.id, target.id, source.filled)
            target.owner, target.tokens, target.filled, target.exact = (
                sequence,
                source.tokens,
                source.filled,
                source.exact,
            )
            sequence.slot = target
            source.owner = None
            self._forget(source)
            return

    def _narrow(self, sequence: Sequence) -> bool:
        """Nothing runs, and this one does not fit: trade the number of memories for their length."""
        want = len(sequence.tokens) + min(sequence.remaining, HEADROOM)
        cells = self._doubled(want)
        slots = len(self.slots)
        while self.limits.split and slots > 1:
            slots //= 2
            if self._reshape(slots, cells):
                return True
        return False

    def _reshape(self, slots: int, cells: int) -> bool:
        if not self.memory.reshape(slots, cells):
            return False
        if slots != len(self.slots):
            # Copies fit a memory of the same number of streams only.
            for entry in list(self.parking.entries):
                self.parking.drop(entry)
        wanted = self._wanted
        self.limits = wanted if slots == wanted.slots else replace(wanted, slots=slots, live=min(slots, wanted.live))
        self.cells = Streams(cells) if wanted.split else Cells(cells)
        self.slots = [Slot(i) for i in range(slots)]
        return True

    def _forget(self, slot: Slot) -> None:
        self.memory.remove(slot.id, 0, -1)
        self.cells.trim(slot.id, 0)
        slot.tokens = []
        slot.filled = 0
        slot.exact = -1

    def _preempt(self) -> None:
        """Put the newest sequence back into the queue; it is computed again later. The last one fails instead."""
        sequence = max(self.live, key=lambda s: s.order)
        alone = len(self.live) == 1
        self._requeue(sequence)
        if alone:
            self.waiting.popleft()
            sequence.state = State.DONE
            self.failed.append(sequence)

    def _shift(self, sequence: Sequence) -> bool:
        """Drop the older half after `num_keep`. False when there is nothing to drop."""
        slot = sequence.slot
        assert slot is not None
        keep = min(max(sequence.num_keep, 0), slot.filled)
        drop = (slot.filled - keep) // 2
        if drop < 1:
            return False
        end = keep + drop
        for other in self.cells.sharers(slot.id, end):
            # Moving a cell moves it for everybody who holds it: idle holders can go.
            if self.slots[other].owner is None:
                self._park(self.slots[other])
        if self.cells.sharers(slot.id, end):
            self.memory.remove(slot.id, keep, -1)
            self.cells.trim(slot.id, keep)
            del sequence.tokens[keep:end]
            slot.filled = keep
            return True
        self.memory.remove(slot.id, keep, end)
        self.memory.shift(slot.id, end, slot.filled, -drop)
        self.cells.cut(slot.id, keep, end)
        del sequence.tokens[keep:end]
        slot.filled -= drop
        slot.exact = keep if slot.exact < 0 else min(slot.exact, keep)
        return True

    def check_integrity(self) -> None:
        """Raises AssertionError when the state contradicts itself."""
        self.cells.check()
        self.parking.check()
        owners = [slot.owner for slot in self.slots if slot.owner is not None]
        assert len(owners) == len(self.live) == len({id(s) for s in self.live}), "slots and live sequences differ"
        for sequence in self.live:
            slot = sequence.slot
            assert slot is not None, f"sequence {sequence.id} runs without a slot"
            assert slot.owner is sequence, f"sequence {sequence.id} runs in another's slot"
            assert slot.tokens is sequence.tokens, f"sequence {sequence.id} and its slot disagree about the tokens"
            assert sequence.pending >= 1, f"sequence {sequence.id} has nothing to decode"
            assert sequence.state in (State.PREFILL, State.DECODE), (
                f"sequence {sequence.id} runs while {sequence.state}"
            )
            assert len(sequence.tokens) <= sequence.num_ctx, f"sequence {sequence.id} is longer than its context"
        for slot in self.slots:
            assert slot.filled == self.cells.held(slot.id), f"slot {slot.id}: {slot.filled} tokens, other cells"
            if slot.owner is None:
                assert slot.filled == len(slot.tokens), f"idle slot {slot.id} has tokens that were never decoded"
        for sequence in (*self.waiting, *self.following):
            assert sequence.slot is None, f"sequence {sequence.id} waits in a slot"
            assert sequence.state is State.WAITING, f"sequence {sequence.id} waits while {sequence.state}"
        assert len(self.live) + len(self.following) <= self.limits.live, "too many sequences run"


def _place(row: tuple[Sequence, int]) -> int:
    slot = row[0].slot
    assert slot is not None
    return slot.id


def _share_out(order: list[Sequence], budget: int, most: int) -> list[tuple[Sequence, int]]:
    """Split the budget among prompts in this order; `most` is what it may be exceeded to.

    The library computes rows of several sequences in as many parts as their numbers of rows differ, and small parts are
    slow. So a prompt comes whole where it can, with up to a quarter of the budget more, and behind another one
    it begins only when half of the budget is left.
    """
    chosen: list[tuple[Sequence, int]] = []
    left = budget
    for sequence in order:
        pending = sequence.pending
        if pending <= min(left + budget // 4, most):
            count = pending
        elif not chosen or left >= budget // 2:
            count = min(left, most)
        else:
            continue
        chosen.append((sequence, count))
        left -= count
        most -= count
        if left <= 0 or most <= 0:
            break
    return chosen
