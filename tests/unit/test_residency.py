"""Loading, sharing, keep_alive, eviction and restart, with the scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vllama.core.residency import Residency
from vllama.engines.base import Engine, Generation, LoadOptions, ModelSource
from vllama.engines.registry import EngineKind
from vllama.engines.scripted import Script, ScriptedEngine, available
from vllama.errors import BusyError, EngineCrashed, ModelLoadError
from vllama.models.model import Model
from vllama.models.names import Name

OPTIONS = LoadOptions(num_ctx=2048)
MINUTE = 60 * 10**9


def model(name: str) -> Model:
    return Model(Name.parse(name), digest=name.ljust(64, "0"), size=1, modified_at=datetime.now(UTC))


class Factory:
    """Makes scripted engines and remembers them; may be told to fail or to load slowly."""

    def __init__(self, load_us: int = 0) -> None:
        self.made: list[ScriptedEngine] = []
        self.load_us = load_us
        self.fail = ""

    def create(self, source: ModelSource, options: LoadOptions) -> Engine:
        factory = self

        class Watched(ScriptedEngine):
            async def load(self, progress: object = None) -> None:
                await super().load()
                if factory.fail:
                    raise ModelLoadError(factory.fail)

        engine = Watched(source, options, Script(load_us=self.load_us))
        self.made.append(engine)
        return engine

    def kind(self, _: Model) -> EngineKind:
        return EngineKind("scripted", "scripted", ("gguf", "scripted"), available, self.create)


def residency(factory: Factory, **settings: int) -> Residency:
    return Residency(factory.kind, **({"keep_alive": MINUTE} | settings))


async def test_many_requests_share_one_load() -> None:
    factory = Factory(load_us=20_000)
    rooms = residency(factory)
    leases = await asyncio.gather(*(rooms.acquire(model("a"), OPTIONS, None) for _ in range(20)))
    assert len(factory.made) == 1
    assert {id(lease.engine) for lease in leases} == {id(factory.made[0])}
    assert rooms.busy == 20
    for lease in leases:
        lease.release()
        lease.release()
    assert rooms.busy == 0
    await rooms.stop()
    assert not factory.made[0].alive


async def test_another_num_ctx_does_not_load_again() -> None:
    factory = Factory()
    rooms = residency(factory)
    (await rooms.acquire(model("a"), OPTIONS, None)).release()
    (await rooms.acquire(model("a"), LoadOptions(num_ctx=8192), None)).release()
    assert len(factory.made) == 1
    assert rooms.loaded()[0].num_ctx == 8192
    await rooms.stop()


async def test_another_runner_option_waits_for_running_requests_and_loads_again() -> None:
    factory = Factory()
    rooms = residency(factory)
    first = await rooms.acquire(model("a"), OPTIONS, None)
    waiting = asyncio.create_task(rooms.acquire(model("a"), LoadOptions(num_ctx=2048, num_thread=3), None))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert factory.made[0].alive
    first.release()
    second = await waiting
    assert len(factory.made) == 2
    assert not factory.made[0].alive
    second.release()
    await rooms.stop()


async def test_keep_alive_zero_unloads_after_the_last_request() -> None:
    factory = Factory()
    rooms = residency(factory)
    one = await rooms.acquire(model("a"), OPTIONS, 0)
    two = await rooms.acquire(model("a"), OPTIONS, None)
    one.release()
    await asyncio.sleep(0)
    assert factory.made[0].alive
    two.release()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not factory.made[0].alive
    assert rooms.loaded() == []


async def test_keep_alive_expires() -> None:
    factory = Factory()
    rooms = residency(factory)
    (await rooms.acquire(model("a"), OPTIONS, 5_000_000)).release()
    for _ in range(2000):
        if not rooms.loaded():
            break
        await asyncio.sleep(0.005)
    assert rooms.loaded() == []
    assert not factory.made[0].alive


async def test_forever_is_far_away() -> None:
    factory = Factory()
    rooms = residency(factory)
    (await rooms.acquire(model("a"), OPTIONS, -1)).release()
    assert rooms.loaded()[0].expires_at.year > 2200
    await rooms.stop()


async def test_the_idle_model_that_would_expire_first_makes_room() -> None:
    factory = Factory()
    rooms = residency(factory, max_loaded=2)
    (await rooms.acquire(model("a"), OPTIONS, 9 * MINUTE)).release()
    (await rooms.acquire(model("b"), OPTIONS, MINUTE)).release()
    (await rooms.acquire(model("c"), OPTIONS, None)).release()
    assert {row.model.name.model for row in rooms.loaded()} == {"a", "c"}
    await rooms.stop()


async def test_a_load_waits_while_all_models_are_busy() -> None:
    factory = Factory()
    rooms = residency(factory, max_loaded=1)
    first = await rooms.acquire(model("a"), OPTIONS, None)
    waiting = asyncio.create_task(rooms.acquire(model("b"), OPTIONS, None))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    (await waiting).release()
    assert [row.model.name.model for row in rooms.loaded()] == ["b"]
    await rooms.stop()


async def test_queue_is_bounded() -> None:
    factory = Factory()
    rooms = residency(factory, max_queue=2)
    leases = [await rooms.acquire(model("a"), OPTIONS, None) for _ in range(2)]
    with pytest.raises(BusyError, match="maximum pending requests exceeded"):
        await rooms.acquire(model("a"), OPTIONS, None)
    leases[0].release()
    (await rooms.acquire(model("a"), OPTIONS, None)).release()
    await rooms.stop()


async def test_a_failed_load_fails_its_waiters_and_is_tried_again() -> None:
    factory = Factory()
    rooms = residency(factory)
    factory.fail = "damaged"
    outcomes = await asyncio.gather(
        *(rooms.acquire(model("a"), OPTIONS, None) for _ in range(3)), return_exceptions=True
    )
    assert all(isinstance(outcome, ModelLoadError) for outcome in outcomes)
    assert len(factory.made) == 1
    factory.fail = ""
    (await rooms.acquire(model("a"), OPTIONS, None)).release()
    assert rooms.busy == 0
    await rooms.stop()


async def test_cancelling_a_waiter_does_not_cancel_the_load_of_others() -> None:
    factory = Factory(load_us=20_000)
    rooms = residency(factory)
    leaving = asyncio.create_task(rooms.acquire(model("a"), OPTIONS, None))
    staying = asyncio.create_task(rooms.acquire(model("a"), OPTIONS, None))
    await asyncio.sleep(0.005)
    leaving.cancel()
    lease = await staying
    assert len(factory.made) == 1
    assert rooms.busy == 1
    lease.release()
    await rooms.stop()


async def test_a_dead_engine_is_replaced_and_crashes_are_budgeted() -> None:
    factory = Factory()
    rooms = residency(factory)
    refused = None
    while refused is None and len(factory.made) < 10:
        try:
            lease = await rooms.acquire(model("a"), OPTIONS, None)
        except EngineCrashed as error:
            refused = error
        else:
            await lease.engine.close()
            lease.release()
    assert "within a minute" in str(refused)
    assert 2 < len(factory.made) <= 7
    await rooms.stop()


async def test_stop_refuses_and_running_answers_break_off() -> None:
    factory = Factory()
    rooms = residency(factory)
    lease = await rooms.acquire(model("a"), OPTIONS, None)
    events = lease.engine.generate(Generation(prompt="x"))
    await anext(events)
    await anext(events)
    await rooms.stop()
    with pytest.raises(EngineCrashed):
        await anext(events)
    with pytest.raises(BusyError):
        await rooms.acquire(model("a"), OPTIONS, None)


async def test_a_queue_of_one_lets_one_request_load_and_run() -> None:
    rooms = residency(Factory(load_us=1000), max_queue=1)
    lease = await rooms.acquire(model("a"), OPTIONS, None)
    with pytest.raises(BusyError):
        await rooms.acquire(model("a"), OPTIONS, None)
    lease.release()
    assert rooms.busy == 0
    await rooms.stop()


async def test_a_full_queue_of_waiters_for_one_load_is_served() -> None:
    rooms = residency(Factory(load_us=10_000), max_queue=4)
    leases = await asyncio.gather(*(rooms.acquire(model("a"), OPTIONS, None) for _ in range(4)))
    for lease in leases:
        lease.release()
    assert rooms.busy == 0
    await rooms.stop()


async def test_a_busy_model_cannot_keep_off_a_request_with_other_options() -> None:
    factory = Factory()
    rooms = residency(factory)
    first = await rooms.acquire(model("a"), OPTIONS, None)
    other = asyncio.create_task(rooms.acquire(model("a"), LoadOptions(num_ctx=2048, num_thread=3), None))
    await asyncio.sleep(0)
    # Fits what is loaded, but came later: it must not go before the one that waits.
    late = asyncio.create_task(rooms.acquire(model("a"), OPTIONS, None))
    await asyncio.sleep(0)
    assert not late.done()
    first.release()
    done, _ = await asyncio.wait({other, late}, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result().release()
    for task in {other, late} - done:
        (await task).release()
    assert rooms.busy == 0
    await rooms.stop()


async def test_stop_during_a_load_tells_its_waiters() -> None:
    rooms = residency(Factory(load_us=60_000_000))
    waiting = [asyncio.create_task(rooms.acquire(model("a"), OPTIONS, None)) for _ in range(3)]
    blocked = asyncio.create_task(rooms.acquire(model("b"), OPTIONS, None))
    for _ in range(5):
        await asyncio.sleep(0)
    await rooms.stop()
    outcomes = await asyncio.gather(*waiting, blocked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BusyError] * 4
    assert rooms.busy == 0


async def test_load_timeout_counts_from_the_last_progress() -> None:
    class Slow(ScriptedEngine):
        steps = 6

        async def load(self, progress: Callable[[float], None] | None = None) -> None:
            for _ in range(self.steps):
                await asyncio.sleep(0.05)
                if progress is not None:
                    progress(0.5)
            if self.steps == 0:
                await asyncio.Event().wait()
            await super().load(progress)

    kind = EngineKind("scripted", "scripted", ("gguf", "scripted"), available, lambda s, o: Slow(s, o, Script()))
    rooms = Residency(lambda _: kind, keep_alive=MINUTE, load_timeout=200_000_000)
    (await rooms.acquire(model("a"), OPTIONS, None)).release()
    Slow.steps = 0
    with pytest.raises(ModelLoadError, match=r"no progress for 0.2 s \(OLLAMA_LOAD_TIMEOUT\)"):
        await rooms.acquire(model("b"), OPTIONS, None)
    await rooms.stop()


async def test_weights_that_a_name_no_longer_means_are_unloaded_even_if_kept_for_ever() -> None:
    factory = Factory()
    rooms = residency(factory)
    old = await rooms.acquire(model("a"), OPTIONS, -1)
    new = replace(model("a"), digest="f" * 64)
    (await rooms.acquire(new, OPTIONS, -1)).release()
    assert factory.made[0].alive
    old.release()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not factory.made[0].alive
    assert [row.model.digest for row in rooms.loaded()] == ["f" * 64]
    rooms.retire(new.name)
    for _ in range(5):
        await asyncio.sleep(0)
    assert rooms.loaded() == []
    await rooms.stop()
