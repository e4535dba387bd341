"""The raw record of a run: one line per request and one per slot, written as they happen, never edited.

    results/<time>-<plan id>/
        plan.json           the whole plan, prompts included, written before the first request
        environment.json    machine, versions, exact command lines, model digest
        slots.jsonl         one line per slot: order, times, memory, CPU, machine probes
        requests.jsonl      one line per request, failures included
        scores.jsonl        what the raw engine says of a sample of the answers, token by token
        server/*.log        what the servers printed (not committed)

Times are ns on one monotonic clock; `t_*` of a request are relative to its slot's start. Files carry the schema's
version; readers refuse others.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vllama.errors import ConfigError

SCHEMA = 1


@dataclass(slots=True)
class Sample:
    """One request. Times in ns since the slot's start, -1 = did not happen; counts in tokens, -1 = not said.

    `texts` are the arrival times of the events with text, `lengths` their lengths in characters. `valid` is false
    for a request that failed; `error` says why. `source` is who counted the tokens.
    """

    slot: int
    index: int
    prompt_sha: str
    t_sent: int
    t_headers: int
    t_first_event: int
    t_end: int
    status: int
    reused: bool
    n_prompt: int
    n_cached: int
    n_out: int
    finish: str
    received: int
    text: str
    error: str = ""
    reconnected: bool = False
    source: str = "server"
    native: dict[str, int] = field(default_factory=dict)
    texts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Ended as it should, with text."""
        return not self.error and bool(self.texts)


@dataclass(slots=True)
class Slot:
    """One slot: a cell measured once on one system. Durations in ns, memory in bytes, CPU in seconds.

    `t_start` is on the machine's monotonic clock. `cpu_s` is the CPU time of the system's process tree in the
    slot, `others_cpu_s` that of all the other systems, which must stay idle. `lag_ns` is [median, p99, max] of the
    client loop's own delay; `client_cpu_s` its CPU time. `control_work_ns` is a fixed piece of work done before
    the slot that no system can influence. `steal` is the share of the machine's CPU time that the hypervisor took,
    `foreign` the share that programs outside the benchmark took (-1 = unknown).
    """

    index: int
    block: int
    place: int
    system: str
    scenario: str
    concurrency: int
    requests: int
    n_out: int
    stream: bool
    t_start: int
    wall_ns: int
    cpu_s: float
    others_cpu_s: float
    client_cpu_s: float
    pss: int
    lag_ns: list[int]
    control_work_ns: int
    steal: float
    foreign: float
    load1: float
    no_delay: bool
    error: str = ""

    @property
    def cell(self) -> str:
        """The id of the cell, as in `plan.Cell.id`."""
        return f"{self.scenario}/c{self.concurrency}"


@dataclass(frozen=True, slots=True)
class Score:
    """One answer, judged by the raw engine, which was given the prompt and the answer and asked for its own choices.

    `gaps` has, for each of the answer's tokens, how far its logit lies below the engine's best (0 = it is the best).
    """

    slot: int
    index: int
    gaps: tuple[float, ...]


class Writer:
    """Appends to a run's folder; each slot is on the disk before the next one starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "server").mkdir()
        self._slots: IO[str] = (folder / "slots.jsonl").open("a", encoding="utf-8")
        self._requests: IO[str] = (folder / "requests.jsonl").open("a", encoding="utf-8")

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A JSON document beside the lines."""
        text = json.dumps({"schema": SCHEMA, **content}, indent=1, ensure_ascii=False)
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def add(self, slot: Slot, samples: list[Sample]) -> None:
        """One slot with its requests."""
        for sample in samples:
            self._requests.write(_line(dataclasses.asdict(sample)))
        self._requests.flush()
        self._slots.write(_line(dataclasses.asdict(slot)))
        self._slots.flush()

    def add_scores(self, scores: list[Score]) -> None:
        """All scores of the run."""
        text = "".join(_line(dataclasses.asdict(score)) for score in scores)
        (self.folder / "scores.jsonl").write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Close the files; everything added is kept."""
        self._slots.close()
        self._requests.close()


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back."""

    name: str
    plan: dict[str, Any]
    environment: dict[str, Any]
    slots: list[Slot]
    samples: dict[int, list[Sample]]
    scores: list[Score] = field(default_factory=list)

    @property
    def systems(self) -> list[str]:
        """The systems with at least one slot, in the plan's order."""
        measured = {slot.system for slot in self.slots}
        return [name for name in self.plan["systems"] if name in measured]

    @property
    def cells(self) -> list[str]:
        """The cells with at least one slot, in the order of the first block."""
        return list(dict.fromkeys(slot.cell for slot in self.slots))

    def of(self, cell: str, system: str) -> dict[int, Slot]:
        """Block -> slot."""
        return {slot.block: slot for slot in self.slots if slot.cell == cell and slot.system == system}


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises `ConfigError` for another schema or a broken file."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        slots = [Slot(**json.loads(line)) for line in _lines(folder / "slots.jsonl")]
        samples: dict[int, list[Sample]] = {slot.index: [] for slot in slots}
        for line in _lines(folder / "requests.jsonl"):
            sample = Sample(**json.loads(line))
            # A run that was interrupted may have requests of a slot that was never finished.
            samples.setdefault(sample.slot, []).append(sample)
        scores = [Score(**json.loads(line)) for line in _lines(folder / "scores.jsonl")]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read the results in {folder}: {error}") from error
    for name, document in (("plan.json", plan), ("environment.json", environment)):
        if document.get("schema") != SCHEMA:
            raise ConfigError(f"{folder / name}: schema {document.get('schema')}, this reader knows {SCHEMA}")
    return Run(folder.name, plan, environment, slots, samples, scores)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def _lines(path: Path) -> list[str]:
    """The lines of a file, none if it was never written. Split at LF alone: texts may hold other line separators."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
