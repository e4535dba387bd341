"""Which models are loaded: loading, sharing, keep_alive, eviction, restart after a crash.

One event loop owns all of this; no locks against threads. A model is loaded once for any number of requests;
its weights are not loaded again because a request asks for another context length.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vllama.core.counters import Counters, Outcome
from vllama.core.layers import layers
from vllama.core.memory import lacks, need, never_fits
from vllama.core.threads import shares
from vllama.engines.base import Engine, Finished, LoadOptions, ModelSource, Remote
from vllama.engines.registry import EngineKind
from vllama.errors import BusyError, EngineCrashed, ModelLoadError, VllamaError
from vllama.goduration import FOREVER_NS
from vllama.hardware import Hardware
from vllama.models.model import Model
from vllama.models.names import Name

log = logging.getLogger("vllama.residency")

FOREVER = timedelta(microseconds=(2**63 - 1) // 1000)
"""What Ollama adds to now for a model that never expires (292 years)."""

CRASH_WINDOW_S = 60.0
CRASH_BUDGET = 5
MAX_TIMER_S = 24 * 3600.0
GOING_DOWN = "the server is shutting down"


@dataclass(frozen=True, slots=True)
class Loaded:
    """One row of `ps`. Sizes in bytes, `num_ctx` in tokens; `expires_at` has the local time zone.

    `handle` is the running engine, for its counters.
    """

    model: Model
    engine: str
    size: int
    size_vram: int
    num_ctx: int
    expires_at: datetime
    busy: int
    handle: Engine | None = None


class Resident:
    """One model that is loaded or about to be. `users` counts requests that run or wait for it.

    `leaving`: somebody waits for its end to load it with other options, so it takes no new requests.
    """

    __slots__ = (
        "engine",
        "keep_alive",
        "kind",
        "leaving",
        "load",
        "model",
        "num_ctx",
        "options",
        "released",
        "starting",
        "threads",
        "timer",
        "users",
    )

    def __init__(self, model: Model, kind: EngineKind, options: LoadOptions, keep_alive: int) -> None:
        self.model = model
        self.kind = kind
        self.options = options
        self.keep_alive = keep_alive
        self.num_ctx = options.num_ctx
        self.users = 0
        self.threads = 0
        self.leaving = False
        self.engine: Engine | None = None
        self.load: asyncio.Task[Engine] | None = None
        self.starting: Engine | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.released = time.monotonic()

    def deadline(self) -> float | None:
        """Monotonic seconds at which an idle model goes; None = never."""
        return None if self.keep_alive < 0 else self.released + self.keep_alive / 1e9


class Lease:
    """The right to use a loaded engine. `release` once; twice is fine."""

    __slots__ = ("_counters", "_owner", "_resident", "engine")

    def __init__(self, owner: Residency, resident: Resident, engine: Engine) -> None:
        self._owner = owner
        self._counters: Counters | None = owner.counted(resident.model)
        self._resident: Resident | None = resident
        self.engine = engine

    def account(self, outcome: Outcome, finished: Finished | None = None) -> None:
        """Count how the request ended. Only the first word counts."""
        counters, self._counters = self._counters, None
        if counters is not None:
            counters.add(outcome, finished)

    def release(self) -> None:
        """Give the engine back; the keep_alive clock starts with the last one."""
        resident, self._resident = self._resident, None
        if resident is not None:
            self._owner._release(resident)


class Residency:
    """The set of loaded models.

    `choose(model)` picks the engine. `max_loaded` 0 means 3. `max_queue` (at least 1) bounds how many requests
    may hold or wait for one model, and how many wait for loads in all. `load_timeout` is how long a load may go without
    progress. Durations in ns. `hardware` tells how much memory there is; without it no model is refused.
    """

    def __init__(
        self,
        choose: Callable[[Model], EngineKind],
        *,
        keep_alive: int,
        max_loaded: int = 0,
        max_queue: int = 512,
        load_timeout: int = 0,
        hardware: Callable[[], Hardware] | None = None,
    ) -> None:
        self._choose = choose
        self._hardware = hardware
        self._keep_alive = keep_alive
        self._max_loaded = max_loaded or 3
        self._max_queue = max(1, max_queue)
        self._load_timeout = load_timeout
        self._residents: dict[str, Resident] = {}
        self._load_lock = asyncio.Lock()
        self._freed = asyncio.Event()
        self._crashes: dict[str, deque[float]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._stopped = False
        self.counters: dict[str, Counters] = {}

    def counted(self, model: Model) -> Counters:
        """The model's counters, for as long as this server runs."""
        name = model.name.shortest
        return self.counters.get(name) or self.counters.setdefault(name, Counters())

    async def acquire(self, model: Model, options: LoadOptions, keep_alive: int | None) -> Lease:
        """A lease on the loaded model, loading it if need be.

        `keep_alive` (ns, negative forever, None unchanged) becomes the model's. Raises `BusyError`,
        `ModelLoadError`, `ConfigError`.
        """
        if self._stopped:
            raise BusyError(GOING_DOWN)
        key = _key(model)
        resident = self._residents.get(key)
        if resident is not None and resident.engine is not None:
            if resident.engine.alive and _serves(resident, options):
                if resident.users >= self._max_queue:
                    self.counted(model).add("rejected", None)
                    raise BusyError()
                return self._lease(resident, resident.engine, options, keep_alive)
            if not resident.engine.alive:
                self._forget(key, resident, crashed=True)
                resident = None
        return await self._load_and_lease(key, resident, model, options, keep_alive)

    def _lease(self, resident: Resident, engine: Engine, options: LoadOptions, keep_alive: int | None) -> Lease:
        resident.users += 1
        self._share_threads()
        resident.num_ctx = options.num_ctx
        if keep_alive is not None:
            resident.keep_alive = keep_alive
        return Lease(self, resident, engine)

    async def _load_and_lease(
        self, key: str, resident: Resident | None, model: Model, options: LoadOptions, keep_alive: int | None
    ) -> Lease:
        if self._waiting >= self._max_queue:
            self.counted(model).add("rejected", None)
            raise BusyError()
        self._waiting += 1
        try:
            while True:
                if self._stopped:
                    raise BusyError(GOING_DOWN)
                resident = self._residents.get(key)
                if resident is None or (resident.load is None and not _serves(resident, options)):
                    if resident is not None:
                        await self._drain(key, resident)
                        continue
                    await self._back_off(key)
                    if key in self._residents:
                        continue
                    resident = self._begin(key, model, options)
                resident.users += 1
                try:
                    engine = resident.engine
                    if engine is None:
                        engine = await self._loaded(resident)
                    if self._residents.get(key) is not resident or not engine.alive:
                        continue
                    return self._lease(resident, engine, options, keep_alive)
                finally:
                    self._release(resident)
        finally:
            self._waiting -= 1

    def _begin(self, key: str, model: Model, options: LoadOptions) -> Resident:
        kind = self._choose(model)
        for old in list(self._residents.values()):
            # the name means other weights now: nobody can ask for these again
            if old.model.name.key == model.name.key and "file" not in (old.model.origin, model.origin):
                self._retire(old)
        resident = Resident(model, kind, options, self._keep_alive)
        self._residents[key] = resident
        resident.load = asyncio.create_task(self._load(key, resident))
        # Every waiter may have gone before the load fails; somebody must look at the error all the same.
        resident.load.add_done_callback(lambda task: task.cancelled() or task.exception())
        return resident

    async def _loaded(self, resident: Resident) -> Engine:
        """Wait for the load, which goes on for the others when this waiter is cancelled."""
        load = resident.load
        assert load is not None
        try:
            return await asyncio.shield(load)
        except asyncio.CancelledError:
            if load.cancelled() and self._stopped:
                raise BusyError(GOING_DOWN) from None
            raise

    async def _load(self, key: str, resident: Resident) -> Engine:
        remote = resident.kind.remote
        try:
            # What loads nothing here waits for no load and takes nobody's place.
            async with contextlib.nullcontext() if remote else self._load_lock:
                if not remote:
                    await self._make_room(resident)
                    await self._find_memory(resident)
                engine = resident.kind.create(_source(resident), resident.options)
                resident.starting = engine
                try:
                    await self._load_in_time(engine, resident.model)
                except BaseException:
                    await engine.close()
                    raise
                finally:
                    resident.starting = None
        except BaseException:
            if self._residents.get(key) is resident:
                del self._residents[key]
            raise
        if self._stopped:
            await engine.close()
            raise BusyError(GOING_DOWN)
        self.counted(resident.model).loads += 1
        resident.engine = engine
        resident.threads = engine.threads
        resident.load = None
        if resident.users == 0:
            self._arm(resident)
        return engine

    async def _load_in_time(self, engine: Engine, model: Model) -> None:
        if not 0 < self._load_timeout < FOREVER_NS:
            await engine.load()
            return
        loop = asyncio.get_running_loop()
        seconds = self._load_timeout / 1e9

        def progress(_: float) -> None:
            if not stall.expired():
                stall.reschedule(loop.time() + seconds)

        try:
            async with asyncio.timeout(seconds) as stall:
                await engine.load(progress)
        except TimeoutError:
            raise ModelLoadError(
                f"loading {model.name.shortest} made no progress for {seconds:g} s (OLLAMA_LOAD_TIMEOUT)"
            ) from None

    async def _make_room(self, newcomer: Resident) -> None:
        """Evict idle models until the newcomer is within the limit; wait for one to finish if all are busy."""
        while True:
            others = self._others(newcomer)
            if len(others) < self._max_loaded:
                return
            await self._evict_one(others)

    def _others(self, newcomer: Resident) -> list[tuple[str, Resident]]:
        """What is loaded on this machine besides the newcomer."""
        rows = self._residents.items()
        return [(k, r) for k, r in rows if r is not newcomer and r.engine is not None and not r.kind.remote]

    async def _evict_one(self, others: list[tuple[str, Resident]]) -> None:
        """Unload the idle model that would go first; without an idle one, wait until something changes."""
        idle = [(key, r) for key, r in others if r.users == 0]
        if idle:
            key, victim = min(idle, key=lambda item: item[1].deadline() or float("inf"))
            log.info("unloading %s to make room", victim.model.name.shortest)
            await self._unload(key, victim)
            return
        self._freed.clear()
        await self._freed.wait()

    async def _find_memory(self, newcomer: Resident) -> None:
        """Evict models until the newcomer fits into memory. Raises `ModelLoadError` when it cannot."""
        model, options = newcomer.model, newcomer.options
        if self._hardware is None or not newcomer.kind.takes_memory or model.gguf is None:
            return
        try:
            metadata = model.metadata
            wanted = need(metadata, model.weights_size, options)
        except (OSError, VllamaError):
            return  # the engine will say what is wrong with the file
        while True:
            machine = await asyncio.to_thread(self._hardware)
            never = never_fits(wanted, options, machine)
            reason = never or lacks(wanted, options, machine)
            if not reason:
                return
            others = self._others(newcomer)
            if never or not others:
                raise ModelLoadError(
                    f"{model.name.shortest} does not fit into memory: {reason}; use a smaller model, a smaller "
                    "quantisation or a smaller num_ctx"
                )
            log.info("%s does not fit beside what is loaded: %s", model.name.shortest, reason)
            await self._evict_one(others)

    def _share_threads(self) -> None:
        """Tell the engines that work how many threads each may use from its next step on."""
        # Plain loops: this runs twice for every request, and nearly always for one engine or none.
        active: list[tuple[Resident, Engine]] = []
        alone: list[int] = []
        for resident in self._residents.values():
            engine = resident.engine
            if resident.users and engine is not None and engine.alive and engine.threads:
                active.append((resident, engine))
                alone.append(engine.threads)
        for (resident, engine), share in zip(active, shares(alone) if len(alone) > 1 else alone, strict=True):
            if resident.threads != share:
                resident.threads = share
                engine.set_threads(share)

    async def _drain(self, key: str, resident: Resident) -> None:
        """Wait until nobody uses a model that must be loaded anew with other options, then unload it.

        Those that would still fit it queue up behind, or a busy model would never change.
        """
        resident.leaving = True
        while resident.users > 0 and self._residents.get(key) is resident:
            self._freed.clear()
            await self._freed.wait()
        if self._residents.get(key) is resident:
            await self._unload(key, resident)

    async def _back_off(self, key: str) -> None:
        crashes = self._crashes.get(key)
        if not crashes:
            return
        now = time.monotonic()
        while crashes and now - crashes[0] > CRASH_WINDOW_S:
            crashes.popleft()
        if len(crashes) > CRASH_BUDGET:
            raise EngineCrashed(
                f"the model's worker died {len(crashes)} times within a minute and is not started again yet; "
                "see the server's log for its last words"
            )
        if len(crashes) > 1:
            await asyncio.sleep(min(0.1 * 2 ** (len(crashes) - 1), 5.0))

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        if resident.users > 0:
            return
        self._share_threads()
        resident.released = time.monotonic()
        self._freed.set()
        key = _key(resident.model)
        if self._residents.get(key) is not resident or resident.engine is None:
            return
        if not resident.engine.alive:
            self._forget(key, resident, crashed=True)
        elif resident.keep_alive == 0:
            self._later(self._unload(key, resident))
        else:
            self._arm(resident)

    def _arm(self, resident: Resident) -> None:
        """See that something looks at the deadline. A timer that is early stays: it will arm itself anew."""
        deadline = resident.deadline()
        if deadline is None:
            return
        delay = min(max(0.0, deadline - time.monotonic()), MAX_TIMER_S)
        loop = asyncio.get_running_loop()
        if resident.timer is not None:
            if resident.timer.when() <= loop.time() + delay:
                return
            resident.timer.cancel()
        resident.timer = loop.call_later(delay, self._expire, resident)

    def _expire(self, resident: Resident) -> None:
        resident.timer = None
        if resident.users > 0 or self._residents.get(_key(resident.model)) is not resident:
            return
        deadline = resident.deadline()
        if deadline is not None and deadline <= time.monotonic() + 0.001:
            self._later(self._unload(_key(resident.model), resident))
        else:
            self._arm(resident)

    def _later(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _unload(self, key: str, resident: Resident) -> None:
        if self._residents.get(key) is resident:
            del self._residents[key]
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        if resident.engine is not None:
            log.info("unloading %s", resident.model.name.shortest)
            await resident.engine.close()
        self._freed.set()

    def _forget(self, key: str, resident: Resident, *, crashed: bool) -> None:
        if self._residents.get(key) is resident:
            del self._residents[key]
            if crashed:
                self.counted(resident.model).crashes += 1
                self._crashes.setdefault(key, deque(maxlen=CRASH_BUDGET + 2)).append(time.monotonic())
                log.error("the %s worker of %s died", resident.kind.name, resident.model.name.shortest)
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        if resident.engine is not None:
            self._later(resident.engine.close())

    async def unload(self, model: Model) -> None:
        """Unload the model: at once when idle, otherwise when its last request ends."""
        key = _key(model)
        resident = self._residents.get(key)
        if resident is None:
            return
        resident.keep_alive = 0
        if resident.users == 0 and resident.engine is not None:
            await self._unload(key, resident)

    def retire(self, name: Name) -> None:
        """Unload whatever is loaded under a name that does not mean it any more, when its last request ends."""
        for resident in list(self._residents.values()):
            if resident.model.name.key == name.key and resident.model.origin != "file":
                self._retire(resident)

    def _retire(self, resident: Resident) -> None:
        resident.keep_alive = 0
        if resident.users == 0 and resident.engine is not None:
            self._later(self._unload(_key(resident.model), resident))

    def loading(self) -> list[tuple[Model, int, str]]:
        """Models whose engine says how far it is with its start: the model, its num_ctx and the phase in words."""
        rows = [(r, getattr(r.starting, "phase", "")) for r in self._residents.values() if r.starting is not None]
        return [(resident.model, resident.num_ctx, phase) for resident, phase in rows if phase]

    def loaded(self) -> list[Loaded]:
        """What is loaded now, longest life first."""
        rows = []
        now = time.monotonic()
        today = datetime.now(UTC).astimezone()
        for resident in self._residents.values():
            engine = resident.engine
            if engine is None or not engine.alive:
                continue
            if resident.keep_alive < 0:
                expires = today + FOREVER
            elif resident.users:
                expires = today + timedelta(seconds=min(resident.keep_alive / 1e9, FOREVER.total_seconds()))
            else:
                left = min((resident.deadline() or now) - now, FOREVER.total_seconds())
                expires = today + timedelta(seconds=left)
            facts = engine.facts
            rows.append(
                Loaded(
                    model=resident.model,
                    engine=engine.name,
                    size=facts.size,
                    size_vram=facts.size_vram,
                    num_ctx=min(resident.num_ctx, facts.train_ctx or resident.num_ctx),
                    expires_at=expires,
                    busy=resident.users,
                    handle=engine,
                )
            )
        rows.sort(key=lambda row: row.expires_at, reverse=True)
        return rows

    def engines(self) -> list[tuple[Model, Engine]]:
        """The running engines, for metrics and tests."""
        return [(r.model, r.engine) for r in self._residents.values() if r.engine is not None]

    @property
    def busy(self) -> int:
        """How many requests hold or wait for a model."""
        return sum(r.users for r in self._residents.values())

    async def idle(self) -> None:
        """Returns once nobody uses any model."""
        while self.busy:
            self._freed.clear()
            await self._freed.wait()

    async def stop(self) -> None:
        """Close every engine; new requests are refused from now on."""
        self._stopped = True
        loads = [r.load for r in self._residents.values() if r.load is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        residents = list(self._residents.items())
        await asyncio.gather(*(self._unload(key, r) for key, r in residents), return_exceptions=True)
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)


def _key(model: Model) -> str:
    return f"{model.name.key}@{model.digest}"


def _serves(resident: Resident, wanted: LoadOptions) -> bool:
    """Whether the loaded model can serve these options. num_ctx never reloads: the engine grows its cells."""
    if resident.load is not None:
        return True
    if resident.leaving:
        return False
    have = resident.options
    return have == wanted or replace(have, num_ctx=0) == replace(wanted, num_ctx=0)


def _source(resident: Resident) -> ModelSource:
    model, kind = resident.model, resident.kind
    place = model.remote
    if place is not None:
        remote = Remote(place.url, place.model, place.key, place.vllm, place.context, place.timeout_s)
        return ModelSource(Path(), "remote", remote=remote)
    if model.gguf is None:
        if model.directory is not None and "safetensors" in kind.reads:
            return ModelSource(model.directory, "safetensors")
        if "scripted" in kind.reads:
            return ModelSource(Path("scripted"), "scripted")
        raise VllamaError(f"{model.name.shortest} has no GGUF file, and the {kind.title} engine reads nothing else")
    try:
        known = layers(model.metadata, resident.options)
    except (OSError, VllamaError):
        known = None  # the engine will say what is wrong with the file
    return ModelSource(model.gguf, "gguf", tuple(model.adapters), model.projector, layers=known)
