"""The runner: start the systems, warm them, measure slot after slot in a balanced order, keep everything.

All systems stay resident, or sleep as the plan says (`plan.ASLEEP`); only one is spoken to at a time, and the
others' CPU time is recorded for every slot, so that "idle" is a measurement and not a hope.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vllama.bench import estimate, probe
from vllama.bench.loads import LOADS, NotApplicable, lacks
from vllama.bench.measure import METRICS
from vllama.bench.observer import Observer, Outline, Ratio
from vllama.bench.plan import Cell, Plan
from vllama.bench.results import CannotWrite, Run, Sample, Slot, Writer, read_run
from vllama.bench.screening import Screening, score
from vllama.bench.selfcheck import read_bound
from vllama.bench.stats import paired_ratio, williams_order
from vllama.bench.systems import Setup, System, SystemFailed
from vllama.bench.taking import Taking, in_turns
from vllama.errors import ConfigError

Say = Callable[[str], None]

HUNGRY = frozenset({"vllm", "max", "vllama-vllm", "vllama-max"})
"""Systems that keep threads or polls going and gigabytes warm: paused with SIGSTOP while others are measured."""

NOT_APPLICABLE, BY_DESIGN = "not applicable", "fails by design"

LIVE_METRICS = ("ttft", "decode", "aggregate", "e2e", "cold", "load")


class Runner:
    """One run. `systems` shrinks when a system dies and does not come back; `problems` says what went wrong."""

    def __init__(
        self,
        plan: Plan,
        setup: Setup,
        systems: dict[str, System],
        missing: dict[str, str],
        writer: Writer,
        say: Say,
        observer: Observer,
        earlier: Run | None,
        budget: float,
    ) -> None:
        self.plan = plan
        self.setup = setup
        self.systems = systems
        self.known = dict(systems)
        self.missing = missing
        self.writer = writer
        self.observer = observer
        self.problems: list[str] = []
        self.screening = Screening(plan, setup, self.say)
        self.warmups: set[str] = set()
        self.cells: dict[str, dict[str, dict[str, str]]] = {}
        self.order: dict[str, list[list[str]]] = {}
        self._say = say
        self._deadline = time.monotonic() + budget if budget else float("inf")
        self._done: set[tuple[int, str, str]] = set()
        self._slots = 0
        self._client_error = read_bound(setup.root / "results" / "selfcheck.json") or {}
        self._resumed: list[dict[str, Any]] = []
        self._restarted: set[str] = set()
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        if earlier is not None:
            self._take_up(earlier)

    def say(self, text: str) -> None:
        """A line of progress, to both."""
        self._say(text)
        self.observer.said(text)

    def _take_up(self, earlier: Run) -> None:
        """Go on where an interrupted run ended: a slot that was recorded is not measured again, whatever it gave."""
        self._done = {(slot.block, slot.cell, slot.system) for slot in earlier.slots}
        self._slots = max([*earlier.samples, *(slot.index for slot in earlier.slots)], default=-1) + 1
        self.warmups |= set(earlier.environment["warmup_prompts"])
        self.order = earlier.environment.get("order", {})
        self.cells = earlier.not_measured
        self._resumed = [*earlier.environment.get("resumed", []), {"slots": len(earlier.slots)}]
        for slot in earlier.slots:
            self._remember(slot, earlier.samples.get(slot.index, []))

    async def run(self) -> Path:
        """Everything, from the first start to the last record. Raises `CannotWrite` where the records cannot be."""
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):
            # A killed harness must still stop the servers that it started.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        state = "failed"
        try:
            await self.screening.run()
            await self._start_all()
            self._write_environment("measuring")
            await self._warm_all()
            self._plan_order()
            self._write_environment("measuring")
            self._outline()
            state = await self._measure_all()
            await self._score_all()
            self._write_environment(state)
        except BaseException as error:
            state = "interrupted" if isinstance(error, asyncio.CancelledError) else "failed"
            # A full disk is why we are here, or the interruption is: either way it must not hide the reason.
            with contextlib.suppress(CannotWrite):
                self._write_environment(state)
            raise
        finally:
            self.observer.finished(state)
            for key, system in self.known.items():
                self._wake(key)
                with contextlib.suppress(SystemFailed):
                    await system.stop()
        return self.writer.folder

    async def _start_all(self) -> None:
        for key in list(self.systems):
            self.say(f"starting {self.systems[key].title}")
            await self._start(key, "did not start")

    async def _start(self, key: str, what: str) -> bool:
        """Start a system and let it try its limits; give it up if it fails."""
        system = self.systems[key]
        try:
            await system.start()
            await system.probe_limits()
        except (SystemFailed, TimeoutError, OSError) as error:
            await self._give_up(key, f"{what}: {error}")
            return False
        return True

    async def _give_up(self, key: str, reason: str) -> None:
        self.say(f"{key}: {reason}")
        self.missing[key] = probe.scrub(reason, self.setup.root)
        self.problems.append(f"{key}: {self.missing[key].splitlines()[0]}")
        self._wake(key)
        with contextlib.suppress(SystemFailed):
            await self.systems.pop(key).stop()
        if key == self.plan.control:
            raise ConfigError(f"the control {key} {reason}")
        self._write_environment("measuring")

    def _write_environment(self, state: str) -> None:
        def clean(value: Any) -> Any:
            if isinstance(value, str):
                return probe.scrub(value, self.setup.root)
            if isinstance(value, list):
                return [clean(item) for item in value]
            return {k: clean(v) for k, v in value.items()} if isinstance(value, dict) else value

        self.writer.write(
            "environment.json",
            {
                "state": state,
                "machine": probe.facts(),
                "threads": self.setup.threads,
                "model": {"file": self.setup.gguf.name if self.setup.sha256 else "", "sha256": self.setup.sha256},
                "screened": self.screening.complete,
                "client_error_ms": self._client_error,
                "warmup_prompts": sorted(self.warmups),
                "systems": {
                    key: {
                        **clean(dataclasses.asdict(system.described)),
                        "ceiling": system.ceiling,
                        "capabilities": sorted(system.capabilities),
                        "asleep": self._sleeps(key),
                        "boot_ms": _boot_ms(system),
                    }
                    for key, system in self.known.items()
                },
                "missing": clean(self.missing),
                "problems": clean(self.problems),
                "cells": clean(self.cells),
                "order": self.order,
                "resumed": self._resumed,
            },
        )

    async def _warm(self, system: System, salt: str, count: int, concurrency: int, *, stream: bool) -> None:
        prompts = self.plan.warmup_prompts(count, salt)
        self.warmups |= {hashlib.sha256(prompt.encode()).hexdigest()[:16] for prompt in prompts}
        await system.drive(prompts, self.plan.warmup_tokens, concurrency, stream=stream)

    async def _warm_all(self) -> None:
        """Every shape that will be measured, once per system, with other prompts; what a system cannot do comes to
        light here."""
        self.say("warming up")
        for key in list(self.systems):
            system = self.systems[key]
            for cell in self.plan.cells:
                if not self._applies(system, cell):
                    continue
                at_once = min(cell.concurrency, self.plan.parallel)
                try:
                    if (try_it := LOADS[cell.kind].try_it) is not None:
                        await try_it(system)
                    await self._warm(system, f"{key}/{cell.id}", at_once, at_once, stream=cell.stream)
                except NotApplicable as reason:
                    self._note(cell, key, NOT_APPLICABLE, str(reason))
                except (SystemFailed, TimeoutError, OSError) as error:
                    await self._give_up(key, f"failed while it was warmed up: {error}")
                    break
            if key in self.systems:
                await self._sleep(key)

    def _applies(self, system: System, cell: Cell) -> bool:
        """Whether the cell can be measured; if not, the reason is noted once."""
        if system.key in self.cells.get(cell.id, {}):
            return False
        if reason := lacks(system, self.plan.scenario(cell.scenario), cell):
            self._note(cell, system.key, NOT_APPLICABLE, reason)
            return False
        if reason := system.impossible(cell) or "":
            self._note(cell, system.key, BY_DESIGN, reason)
            return False
        return True

    def _note(self, cell: Cell, key: str, verdict: str, reason: str) -> None:
        if verdict == BY_DESIGN:
            self.say(f"{cell.id}: {key} {verdict}: {reason}")
        clean = probe.scrub(reason, self.setup.root)
        self.cells.setdefault(cell.id, {})[key] = {
            "verdict": verdict,
            "reason": "" if verdict == BY_DESIGN else clean,
            # A system says that it fails by design only when it was seen to fail; its text is what was seen.
            "evidence": clean if verdict == BY_DESIGN else "",
        }

    def _plan_order(self) -> None:
        """Fixed before the first slot, and kept for those who resume."""
        for number, cell in enumerate(self.plan.cells):
            if cell.id not in self.order:
                keys = [key for key, system in self.systems.items() if self._applies(system, cell)]
                rows = williams_order(keys, self.plan.pairs, self.plan.seed + number)
                self.order[cell.id] = [list(row) for row in rows]

    def _left(self) -> int:
        """Slots that are still to be measured."""
        return sum(
            not self._is_settled(block, cell, key)
            for cell, rows in self.order.items()
            for block, row in enumerate(rows)
            for key in row
        )

    def _is_settled(self, block: int, cell: str, key: str) -> bool:
        """Recorded already, or never to be: the system is gone, or turned out to be unable."""
        return key not in self.systems or (block, cell, key) in self._done or key in self.cells.get(cell, {})

    def _outline(self) -> None:
        measured = {cell: rows[0] for cell, rows in self.order.items()}
        folders = list(self.writer.folder.parent.glob("*"))
        slots = self._left()
        per_block = sum(len(row) for row in measured.values())
        long = estimate.duration(self.plan, measured, folders)
        self.observer.outlined(
            Outline(
                plan_id=self.plan.id,
                profile=self.plan.profile,
                control=self.plan.control,
                pairs=self.plan.pairs,
                cells=[cell.id for cell in self.plan.cells],
                systems={key: system.title for key, system in self.systems.items()},
                order=self.order,
                slots=slots,
                seconds=long.per_pair * slots / per_block if per_block else 0.0,
                folder=str(self.writer.folder),
                not_measured={
                    cell: {
                        key: f"{found['verdict']}: {found['reason'] or found['evidence']}"
                        for key, found in by_system.items()
                    }
                    for cell, by_system in self.cells.items()
                },
            )
        )

    async def _measure_all(self) -> str:
        """Block after block; the state in which it ended."""
        longest = 0.0
        for block in range(self.plan.pairs):
            began = time.monotonic()
            if began + longest > self._deadline:
                self.say(f"out of time after {block} of {self.plan.pairs} pairs; --resume goes on")
                return "out of time"
            for cell in self.plan.cells:
                measured = await self._measure(cell, block)
                if measured:
                    line = [f"{s.system} {s.wall_ns / 1e9:.2f} s{' FAILED' if s.error else ''}" for s in measured]
                    self._say(f"pair {block + 1}/{self.plan.pairs}  {cell.id:<14} {'  '.join(line)}")
                self._tell_ratios(cell)
            longest = max(longest, time.monotonic() - began)
        return "complete"

    async def _measure(self, cell: Cell, block: int) -> list[Slot]:
        """The slots of one block in one cell: one after the other, or in turns where the scenario says so."""
        order = self.order[cell.id][block]
        keys = [(place, key) for place, key in enumerate(order) if not self._is_settled(block, cell.id, key)]
        found = []
        # What is stopped between its slots cannot take turns.
        if self.plan.scenario(cell.scenario).rounds and self.plan.asleep != "stopped":
            takings = []
            for place, key in keys:
                if taking := await self._begin(cell, block, place, key):
                    takings.append(taking)
                    self._pause(key)  # warmed and left awake, it would spin through its neighbour's first part
            await in_turns(takings, self._wake, self._pause)
            found = [slot for taking in takings if (slot := await self._conclude(taking))]
        else:
            for place, key in keys:
                if key in self.systems and (taking := await self._begin(cell, block, place, key)):
                    await in_turns([taking], self._wake, _nothing)
                    if slot := await self._conclude(taking):
                        found.append(slot)
        return found

    async def _begin(self, cell: Cell, block: int, place: int, key: str) -> Taking | None:
        """The system warmed by one small request. None if it could not be roused."""
        if key not in self.systems or not await self._rouse(key):
            return None
        system, load = self.systems[key], LOADS[cell.kind]
        index, self._slots = self._slots, self._slots + 1
        taking = Taking(self.plan, cell, (index, block, place), key, self.systems, self.screening.prompts(cell, block))
        with contextlib.suppress(SystemFailed, TimeoutError, OSError):  # if it is dead, the slot says so
            await self._warm(system, f"slot {index}", 1, 1, stream=cell.stream)
        if load.prepare is not None:
            await load.prepare(system)
        self.observer.slot_started(cell.id, block, key)
        return taking

    async def _conclude(self, taking: Taking) -> Slot | None:
        """Write the slot down; None if the system turned out to be unable to do it."""
        key, system = taking.key, self.systems[taking.key]
        if taking.cannot:
            self._note(taking.cell, key, NOT_APPLICABLE, taking.cannot)
            await self._sleep(key)
            return None
        self._wake(key)
        slot, samples = taking.record(lambda text: probe.scrub(text, self.setup.root))
        self.writer.add(slot, samples)
        self._remember(slot, samples)
        self.observer.slot_finished(slot, samples)
        if slot.error and system.died:
            await self._restart(key)
        if key in self.systems:
            await self._sleep(key)
        return slot

    def _remember(self, slot: Slot, samples: list[Sample]) -> None:
        if not slot.counts(samples):
            return
        for name in LIVE_METRICS:
            value = METRICS[name].of(slot, samples)
            if value is not None and value > 0:
                self._values.setdefault((slot.cell, slot.system, name), {})[slot.block] = value

    def _tell_ratios(self, cell: Cell) -> None:
        for key in self.systems:
            if key == self.plan.control:
                continue
            found = []
            for name in LIVE_METRICS:
                ours = self._values.get((cell.id, key, name), {})
                theirs = self._values.get((cell.id, self.plan.control, name), {})
                blocks = sorted(set(ours) & set(theirs))
                if blocks:
                    pair = [ours[b] for b in blocks], [theirs[b] for b in blocks]
                    estimated = paired_ratio(*pair, self.plan.confidence)
                    found.append(Ratio(name, estimated.value, estimated.low, estimated.high, estimated.n))
            if found:
                self.observer.ratios(cell.id, key, found)

    def _sleeps(self, key: str) -> str:
        if self.plan.asleep == "resident" and key in HUNGRY:
            return "paused"
        return self.plan.asleep

    async def _sleep(self, key: str) -> None:
        """The system's turn is over."""
        system = self.systems[key]
        if self._sleeps(key) == "paused":
            _signal(system, signal.SIGSTOP)
        elif self._sleeps(key) == "stopped":
            await system.stop()

    def _pause(self, key: str) -> None:
        """Its part is over, and the next one comes soon."""
        if self._sleeps(key) == "paused":
            _signal(self.systems[key], signal.SIGSTOP)

    def _wake(self, key: str) -> None:
        """A paused process does not even end when it is asked to."""
        if self._sleeps(key) == "paused":
            _signal(self.known[key], signal.SIGCONT)

    async def _rouse(self, key: str) -> bool:
        """The system's turn begins; False if it did not get up."""
        self._wake(key)
        if self._sleeps(key) == "stopped" and not self.systems[key].pids():
            return await self._start(key, "did not start again")
        if self.systems[key].died:  # between its slots: nobody saw it, and no slot is lost by it
            await self._restart(key)
        return key in self.systems

    async def _score_all(self) -> None:
        """Needs the records of the whole run, those of its earlier parts included."""
        for key in list(self.systems):
            self._wake(key)
        scores = await score(read_run(self.writer.folder), self.plan, self.screening, self.setup, self.say)
        if scores:
            self.writer.add_scores(scores)

    async def _restart(self, key: str) -> None:
        """A system that died gets one second chance; its dead slot stays in the record."""
        system = self.systems[key]
        if key in self._restarted:
            await self._give_up(key, "died twice")
            return
        self._restarted.add(key)
        self.problems.append(f"{key} died and was started once more")
        self.say(f"{key} died; starting it once more")
        with contextlib.suppress(SystemFailed):
            await system.stop()
        await self._start(key, "died and did not start again")


def _nothing(key: str) -> None:
    """For a slot that is measured in one piece: it goes on until its end."""


def _signal(system: System, number: signal.Signals) -> None:
    for pid in system.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _boot_ms(system: System) -> Mapping[str, float]:
    """Milliseconds from the start of the program to each stage that it reached."""
    boot = dataclasses.asdict(system.boot)
    spawned = boot.pop("spawned")
    return {name: round((time_ns - spawned) / 1e6, 1) for name, time_ns in boot.items() if time_ns and spawned}
