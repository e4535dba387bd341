"""What a check is, and the few ways of looking at a run that many checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from vllama.bench.results import Run, Sample, Slot


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` None means that the check does not apply, or that the system does not say what it needs."""

    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """One way to be wrong. `scope` "run" has one verdict, under the key ""."""

    id: str
    title: str
    scope: Literal["system", "run"]
    judge: Callable[[Run, str], Verdict]


NOTHING = Verdict(None, "nothing to judge")


def slots_of(run: Run, system: str) -> list[Slot]:
    """All slots of a system."""
    return [slot for slot in run.slots if slot.system == system]


def requests_of(run: Run, system: str) -> Iterator[tuple[Slot, Sample]]:
    """All requests of a system, failures included."""
    for slot in slots_of(run, system):
        for sample in run.samples.get(slot.index, []):
            yield slot, sample


def answered(run: Run, system: str) -> list[tuple[Slot, Sample]]:
    """The requests that were answered in full."""
    return [(slot, sample) for slot, sample in requests_of(run, system) if sample.ok]


def lone_streams(run: Run, system: str) -> list[Sample]:
    """Streams that ran alone on the system: nothing but the server explains when their text came."""
    return [s for slot, s in answered(run, system) if slot.stream and slot.concurrency == 1 and slot.kind == "closed"]


def described(run: Run, system: str) -> dict[str, Any]:
    """What environment.json says of a system."""
    found: dict[str, Any] = run.environment.get("systems", {}).get(system, {})
    return found


def is_ceiling(run: Run, system: str) -> bool:
    """Whether the system has no server and no socket."""
    return bool(described(run, system).get("ceiling"))


def count(bad: int, total: int, what: str) -> Verdict:
    """Passes if none of `total` is bad."""
    if not total:
        return NOTHING
    return Verdict(bad == 0, f"{total - bad} of {total} {what}")
