"""Taking one slot: driving a system in one part or several, with the probes around each part, and the record of it.

A slot in several parts (`rounds` of its scenario) is taken in turns with the other systems' slots of the same block:
each asks a part of its requests, then the next system a part of its own. What the machine does for some seconds then
meets all of them alike. CPU times and the wall time of such a slot are the sums over its parts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllama.bench import probe
from vllama.bench.load import LagMeter
from vllama.bench.loads import LOADS, Job, NotApplicable, Outcome
from vllama.bench.plan import Cell, Plan
from vllama.bench.results import Sample, Slot
from vllama.bench.systems import System, SystemFailed


@dataclass(slots=True)
class _Sums:
    """What adds up over the parts."""

    wall_ns: int = 0
    cpu_s: float = 0.0
    others_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    major_faults: int = 0


class Taking:
    """One slot while it is measured. `cannot` is why the system turned out to be unable to do it, `error` what broke;
    after either, no further part is asked for."""

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        place: tuple[int, int, int],
        key: str,
        systems: dict[str, System],
        prompts: Sequence[str],
    ) -> None:
        self.cell = cell
        self.key = key
        self.cannot = ""
        self.error = ""
        self._plan = plan
        self._index, self._block, self._place = place
        self._system = systems[key]
        self._others = [other for name, other in systems.items() if name != key]
        self._prompts = prompts
        self._sums = _Sums()
        self._work = 0
        self._lag = LagMeter()
        self._ticks: list[tuple[probe.Ticks | None, probe.Ticks | None]] = []
        self._began = 0
        self._outcomes: list[Outcome] = []

    @property
    def parts(self) -> int:
        """How many times `part` is to be called."""
        return self._plan.scenario(self.cell.scenario).rounds or 1

    async def part(self, number: int) -> None:
        """Drive the part of that number, counted from 0; never raises what the system did wrong."""
        if self.cannot or self.error:
            return
        size = len(self._prompts) // self.parts
        scenario = self._plan.scenario(self.cell.scenario)
        seed = f"{self._plan.seed}/{self.cell.id}/{self._block}"
        job = Job(self._plan, scenario, self.cell, self._prompts[number * size : (number + 1) * size], seed)
        work = probe.control_work()
        self._work = self._work or work
        gc.collect()
        gc.disable()
        ticks = probe.Ticks.now()
        faults = self._system.major_faults()
        cpu, others = self._system.cpu_seconds(), self._cpu_of_others()
        own = time.process_time()
        async with self._lag:
            began = time.monotonic_ns()
            self._began = self._began or began
            try:
                self._outcomes.append(await LOADS[self.cell.kind].drive(self._system, job))
            except NotApplicable as reason:
                self.cannot = str(reason)
            except (SystemFailed, TimeoutError, OSError) as failure:
                self.error = f"{type(failure).__name__}: {failure}"
            self._sums.wall_ns += time.monotonic_ns() - began
        self._sums.client_cpu_s += time.process_time() - own
        self._sums.cpu_s += self._system.cpu_seconds() - cpu
        self._sums.others_cpu_s += self._cpu_of_others() - others
        self._sums.major_faults += self._system.major_faults() - faults
        self._ticks.append((ticks, probe.Ticks.now()))
        gc.enable()

    def _cpu_of_others(self) -> float:
        return sum(other.cpu_seconds() for other in self._others)

    def record(self, clean: Callable[[str], str]) -> tuple[Slot, list[Sample]]:
        """The slot and its requests; parses the answers. `clean` takes places of the machine out of error texts."""
        samples: list[Sample] = []
        extra: dict[str, float] = {"rounds": self.parts} if self.parts > 1 else {}
        for outcome in self._outcomes:
            found = outcome.later(self._index, self._began)
            for sample in found:
                sample.index += len(samples)
            samples += found
            extra |= outcome.extra
        if sys.platform == "linux" and self._system.pids():
            extra["major_faults"] = self._sums.major_faults + extra.get("major_faults", 0)
        for sample in samples:
            sample.error = clean(sample.error)
        failed = [sample.error or "no text" for sample in samples if sample.failed]
        error = clean(self.error or (failed[0] if failed else ""))
        sums, cell, ticks = self._sums, self.cell, probe.Ticks.spent(self._ticks)
        slot = Slot(
            index=self._index,
            block=self._block,
            place=self._place,
            system=self.key,
            scenario=cell.scenario,
            concurrency=cell.concurrency,
            requests=cell.requests,
            n_out=cell.n_out,
            stream=cell.stream,
            t_start=self._began,
            wall_ns=sums.wall_ns,
            cpu_s=round(sums.cpu_s, 6),
            others_cpu_s=round(sums.others_cpu_s, 6),
            client_cpu_s=round(sums.client_cpu_s, 6),
            pss=self._system.pss(),
            lag_ns=self._lag.summary,
            control_work_ns=self._work,
            steal=round(probe.steal_share(*ticks), 5),
            foreign=round(probe.foreign_share(*ticks, sums.cpu_s + sums.others_cpu_s + sums.client_cpu_s), 5),
            load1=round(os.getloadavg()[0], 2),
            no_delay=all(outcome.no_delay for outcome in self._outcomes) if self._outcomes else self._system.no_delay,
            error=error,
            kind=cell.kind,
            lane=self._system.lane,
            slo=self._plan.scenario(cell.scenario).slo.limits,
            extra=extra,
        )
        return slot, samples


async def in_turns(takings: Sequence[Taking], wake: Callable[[str], None], sleep: Callable[[str], None]) -> None:
    """All parts of all of them, round by round; every other round in the opposite order, so that nobody always comes
    behind the same neighbour."""
    rounds = max((taking.parts for taking in takings), default=0)
    for number in range(rounds):
        for taking in takings if number % 2 == 0 else takings[::-1]:
            wake(taking.key)
            await taking.part(number)
            sleep(taking.key)
            await asyncio.sleep(0)


__all__ = ["Taking", "in_turns"]
