"""What residency decides for several models at once: threads, memory, counters. With scripted doubles."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vllama.api.ops.metrics import render
from vllama.core.residency import Lease, Residency
from vllama.engines.base import Engine, EngineStats, Finished, LoadOptions, ModelSource
from vllama.engines.registry import EngineKind
from vllama.engines.scripted import Script, ScriptedEngine, available
from vllama.errors import BusyError, ModelLoadError
from vllama.hardware import Hardware
from vllama.models.model import Model
from vllama.models.names import Name

OPTIONS = LoadOptions(num_ctx=2048)
MINUTE = 60 * 10**9
GIB = 1 << 30
MACHINE = Hardware("linux", "x86_64", 4, 4, 16 * GIB, 8 * GIB)


class Computing(ScriptedEngine):
    """Pretends to compute with so many threads; remembers what it was told."""

    alone = 4

    def __init__(self, source: ModelSource, options: LoadOptions) -> None:
        super().__init__(source, options, Script())
        self.told: list[int] = []

    @property
    def threads(self) -> int:
        return self.alone

    def set_threads(self, count: int) -> None:
        self.told.append(count)

    @property
    def now(self) -> int:
        return self.told[-1] if self.told else self.alone


def create(source: ModelSource, options: LoadOptions) -> Engine:
    return Computing(source, options)


KIND = EngineKind("scripted", "scripted", ("gguf", "scripted"), available, create)


def model(name: str, gguf: Path | None = None) -> Model:
    made = Model(Name.parse(name), digest=name.ljust(64, "0"), size=1, modified_at=datetime.now(UTC))
    return replace(made, gguf=gguf) if gguf is not None else made


def engine(lease: Lease) -> Computing:
    assert isinstance(lease.engine, Computing)
    return lease.engine


async def test_alone_it_has_all_and_two_have_half_each() -> None:
    rooms = Residency(lambda _: KIND, keep_alive=MINUTE)
    first = await rooms.acquire(model("a"), OPTIONS, None)
    assert engine(first).told == []
    second = await rooms.acquire(model("b"), OPTIONS, None)
    assert (engine(first).now, engine(second).now) == (2, 2)
    again = await rooms.acquire(model("a"), OPTIONS, None)
    third = await rooms.acquire(model("c"), OPTIONS, None)
    assert sorted(engine(lease).now for lease in (first, second, third)) == [1, 1, 2]
    third.release()
    assert (engine(first).now, engine(second).now) == (2, 2)
    again.release()
    assert engine(second).now == 2
    first.release()
    assert engine(second).now == 4
    # An idle model keeps what it had; it gets its share back before its next request is sent.
    first = await rooms.acquire(model("a"), OPTIONS, None)
    assert (engine(first).now, engine(second).now) == (2, 2)
    second.release()
    assert engine(first).now == 4
    for lease in (first, second, third, again):
        lease.release()
    await rooms.stop()


async def test_nobody_is_told_what_he_knows() -> None:
    rooms = Residency(lambda _: KIND, keep_alive=MINUTE)
    for _ in range(5):
        lease = await rooms.acquire(model("a"), OPTIONS, None)
        lease.release()
    assert engine(lease).told == []
    await rooms.stop()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A GGUF file whose header promises a large context, and nothing else."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    numbers = {"block_count": 32, "embedding_length": 4096, "attention.head_count": 32, "context_length": 131072}
    kv = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    for name, value in numbers.items():
        kv += text(f"llama.{name}") + struct.pack("<II", 4, value)
    path = tmp_path / "large.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1 + len(numbers)) + kv + bytes(64))
    return path


# 32 layers of 32 heads of 128: half a MiB for each token.
FOUR_GIB = LoadOptions(num_ctx=8192)
TWENTY_GIB = LoadOptions(num_ctx=40960)


async def test_what_never_fits_is_refused_before_loading(large: Path) -> None:
    rooms = Residency(lambda _: KIND, keep_alive=MINUTE, hardware=lambda: MACHINE)
    with pytest.raises(ModelLoadError, match=r"a:latest does not fit .* 20\.\d GiB .*16\.0 GiB.*num_ctx"):
        await rooms.acquire(model("a", large), TWENTY_GIB, None)
    lease = await rooms.acquire(model("a", large), FOUR_GIB, None)
    lease.release()
    await rooms.stop()


async def test_without_facts_nothing_is_refused(large: Path) -> None:
    for hardware in (None, lambda: replace(MACHINE, memory_total=0, memory_available=0)):
        rooms = Residency(lambda _: KIND, keep_alive=MINUTE, hardware=hardware)
        (await rooms.acquire(model("a", large), TWENTY_GIB, None)).release()
        await rooms.stop()
    rooms = Residency(lambda _: replace(KIND, takes_memory=False), keep_alive=MINUTE, hardware=lambda: MACHINE)
    (await rooms.acquire(model("a", large), TWENTY_GIB, None)).release()
    await rooms.stop()


async def test_others_go_when_memory_is_short(large: Path) -> None:
    made: list[Computing] = []

    def create(source: ModelSource, options: LoadOptions) -> Engine:
        made.append(Computing(source, options))
        return made[-1]

    def machine() -> Hardware:
        return replace(MACHINE, memory_available=(6 - 4 * sum(one.alive for one in made)) * GIB)

    rooms = Residency(lambda _: replace(KIND, create=create), keep_alive=MINUTE, hardware=machine)
    first = await rooms.acquire(model("a", large), FOUR_GIB, None)
    second = asyncio.create_task(rooms.acquire(model("b", large), FOUR_GIB, None))
    await asyncio.sleep(0.05)
    # It waits for the first one's request to end, then takes its place.
    assert not second.done()
    first.release()
    (await second).release()
    assert [one.alive for one in made] == [False, True]
    await rooms.stop()


async def test_short_memory_with_nobody_to_go_is_an_error(large: Path) -> None:
    rooms = Residency(lambda _: KIND, keep_alive=MINUTE, hardware=lambda: replace(MACHINE, memory_available=3 * GIB))
    with pytest.raises(ModelLoadError, match=r"3\.0 GiB of memory are free"):
        await rooms.acquire(model("a", large), FOUR_GIB, None)
    await rooms.stop()


async def test_requests_are_counted_once_and_by_how_they_ended() -> None:
    rooms = Residency(lambda _: KIND, keep_alive=MINUTE, max_queue=2)
    lease = await rooms.acquire(model("a"), OPTIONS, None)
    other = await rooms.acquire(model("a"), OPTIONS, None)
    with pytest.raises(BusyError):
        await rooms.acquire(model("a"), OPTIONS, None)
    lease.account("stop", Finished("stop", 100, 90, 7, 2_000_000_000, 500_000_000))
    lease.account("cancelled")
    other.account("cancelled")
    counted = rooms.counters["a:latest"]
    assert counted.requests == {"stop": 1, "cancelled": 1, "rejected": 1}
    assert (counted.prompt_tokens, counted.cached_tokens, counted.output_tokens) == (100, 90, 7)
    stats = EngineStats(active=2, waiting=1, kv_cells=8192, kv_used=300, rss=5)
    stats.extra.update(threads=2, faults=0, step_tokens=([1, 2], [3, 4, 5], 60.0))
    text = render(rooms.counters, [(rooms.loaded()[0], stats)])
    for line in (
        'vllama_requests_total{model="a:latest",outcome="stop"} 1',
        'vllama_prompt_tokens_cached_total{model="a:latest"} 90',
        'vllama_prompt_seconds_total{model="a:latest"} 2',
        'vllama_model_loads_total{model="a:latest"} 1',
        'vllama_num_requests_running{model="a:latest",engine="scripted"} 2',
        'vllama_kv_cells_used{model="a:latest",engine="scripted"} 300',
        'vllama_step_tokens_bucket{model="a:latest",engine="scripted",le="1"} 3',
        'vllama_step_tokens_bucket{model="a:latest",engine="scripted",le="+Inf"} 12',
        'vllama_step_tokens_sum{model="a:latest",engine="scripted"} 60',
        'vllama_step_tokens_count{model="a:latest",engine="scripted"} 12',
    ):
        assert line in text.splitlines(), text
    assert text.count("# TYPE vllama_step_tokens histogram") == 1
    await rooms.stop()


def test_labels_are_escaped() -> None:
    from vllama.core.counters import Counters

    assert r'model="a\"b\\c\nd"' in render({'a"b\\c\nd': Counters()}, [])
