"""Reads damaged GGUF files with everything that vLLama reads of one; counts what became of them."""

from __future__ import annotations

import random
import signal
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tests.fuzz.headers import Seed, damaged
from vllama.core.memory import need
from vllama.engines.base import LoadOptions
from vllama.errors import ModelLoadError
from vllama.models import gguf
from vllama.models.gguf import GGUFError, read_metadata
from vllama.models.gotext import encode_json
from vllama.models.model import Model, ModelConfig
from vllama.models.names import Name
from vllama.models.show import describe, tags_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 64 << 20
"""Memory that reading one file may take at its highest."""
MAX_CPU_S = 10.0
"""Processor time after which a file counts as one that hangs the reader; the slowest takes a twentieth of it."""


@dataclass
class Report:
    """What happened: files by outcome, the highest memory in bytes, and files that broke a promise."""

    outcomes: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    broken: list[str] = field(default_factory=list)


class HungError(BaseException):
    """Not an Exception: no handler of the reader may take it."""


@contextmanager
def watched() -> Iterator[None]:
    """Breaks off what takes too much processor time, however long the machine is busy with something else."""

    def end(number: int, frame: FrameType | None) -> None:
        raise HungError

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fuzz(folder: Path, seeds: Sequence[Seed], files: int, number: int) -> Report:
    """`files` files from the random numbers that `number` begins. What breaks a promise stays in `folder`."""
    report = Report()
    tracemalloc.start()
    try:
        for index in range(files):
            rng = random.Random(f"{number}/{index}")
            seed = rng.choice(seeds)
            head, size = damaged(rng, seed)
            path = folder / f"fuzz-{number}-{index}.gguf"
            seed.write(path, head, size)
            if fault := judge(path, report):
                report.broken.append(f"{path.name}: {fault}")
            else:
                path.unlink()
    finally:
        tracemalloc.stop()
    return report


def judge(path: Path, report: Report) -> str:
    """Reads one file and notes what came of it; what it did wrong, "" if nothing. tracemalloc must run."""
    gguf._read_cached.cache_clear()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    fault = ""
    try:
        with watched():
            use(path)
        report.outcomes["read"] += 1
    except GGUFError as error:
        report.outcomes["truncated" if error.truncated else "refused" if error.magic else "no GGUF"] += 1
        if not error.text or len(error.text) > 500:
            fault = f"an error text of {len(error.text)} characters"
    except ModelLoadError as error:
        fault = f"not a GGUFError: {error.text}"
    except HungError:
        fault = f"more than {MAX_CPU_S} s of processor time"
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    taken = tracemalloc.get_traced_memory()[1] - before
    report.peak = max(report.peak, taken)
    if taken > MAX_BYTES:
        fault = fault or f"{taken >> 20} MiB of memory"
    return fault


def use(path: Path) -> None:
    """All that the server asks of a header: for lists, for /api/show with everything, for loading."""
    metadata = read_metadata(path)
    config = ModelConfig.from_metadata(metadata)
    model = Model(Name.parse("fuzz"), "0" * 64, 1, datetime.now(UTC), config, gguf=path)
    encode_json(config.to_json())
    dumps(tags_entry(model, model.capabilities))
    dumps(describe(model, verbose=True))
    need(metadata, path.stat().st_size, LoadOptions())


def dumps(value: object) -> bytes:
    """As the API does."""
    from vllama.api.http import dumps as encoded

    return encoded(value)
