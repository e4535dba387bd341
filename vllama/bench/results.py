"""The raw record of a run: one line per request and one per slot, written as they happen, never edited.

    results/<time>-<plan id>/
        plan.json           the whole plan, prompts included, written before the first request
        environment.json    machine, versions, exact command lines, model digest
        slots.jsonl         one line per slot: order, times, memory, CPU, machine probes
        requests.jsonl      one line per request, failures included
        scores.jsonl        what the raw engine says of a sample of the answers, token by token
        server/*.log.gz     what the servers printed (`server_logs`)

Times are ns on one monotonic clock; `t_*` of a request are relative to its slot's start. Files carry the schema's
version; readers refuse others. Fields that came later have defaults and are left out of a line that does not use
them, so that older records stay readable and lines stay short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vllama.errors import ConfigError

SCHEMA = 1


@dataclass(slots=True)
class Sample:
    """One request. Times in ns since the slot's start, -1 = did not happen; counts in tokens, -1 = not said.

    `texts` are the arrival times of the events with text, `lengths` their lengths in characters. `error` says why a
    request failed. `source` is who counted the tokens.

    `t_sched` is when an open loop wanted to send it. `role` tells the requests of a slot apart ("" where they
    are all alike). `n_asked` is the number of tokens asked for: 0 = the slot's `n_out`, -1 = as many as it takes.
    `outcome` is set where the end was not an answer in full with text, and was meant: "refused" (503 under a burst),
    "silent" (there the model ended at once), "cancelled" (the client hung up), "embedded" (vectors instead of text).
    `reuses`: the prompt begins like an earlier one, on purpose. `loads`: the model is loaded in this request, on
    purpose. `stamps` is whose clock stamped the arrivals ("kernel", "loop" or "mixed"), `coalesced` how many reads
    brought several events at once. `extra` are further numbers, named with their unit.
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
    t_sched: int = -1
    role: str = ""
    n_asked: int = 0
    outcome: str = ""
    reuses: bool = False
    loads: bool = False
    stamps: str = ""
    coalesced: int = 0
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Answered in full, with text."""
        return not self.error and not self.outcome and bool(self.texts)

    @property
    def failed(self) -> bool:
        """Did not end as it was meant to."""
        return not self.ok and not self.outcome


@dataclass(slots=True)
class Slot:
    """One slot: a cell measured once on one system. Durations in ns, memory in bytes, CPU in seconds.

    `t_start` is on the machine's monotonic clock. `cpu_s` is the CPU time of the system's process tree in the
    slot, `others_cpu_s` that of all the other systems, which must stay idle. `lag_ns` is [median, p99, max] of the
    client loop's own delay; `client_cpu_s` its CPU time. `control_work_ns` is a fixed piece of work done before
    the slot that no system can influence. `steal` is the share of the machine's CPU time that the hypervisor took,
    `foreign` the share that programs outside the benchmark took (-1 = unknown).

    `kind` is the scenario's; `lane` the system's. `slo` are the limits in ms of a good request (`plan.Slo`), the ones
    that are set. `extra` are numbers that belong to the slot and not to one request, named with their unit.
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
    kind: str = "closed"
    lane: str = ""
    slo: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def cell(self) -> str:
        """The id of the cell, as in `plan.Cell.id`."""
        return f"{self.scenario}/c{self.concurrency}"

    def asked(self, sample: Sample) -> int:
        """Tokens that a request asked for; -1 = as many as it takes."""
        return sample.n_asked or self.n_out

    def counts(self, samples: Sequence[Sample]) -> bool:
        """Whether the slot enters the statistics: no failure, and every answer as long as asked for."""
        return not self.error and all(sample.outcome or self.asked(sample) in (-1, sample.n_out) for sample in samples)


@dataclass(frozen=True, slots=True)
class Score:
    """One answer, judged by the raw engine, which was given the prompt and the answer and asked for its own choices.

    `gaps` has, for each of the answer's tokens, how far its logit lies below the engine's best (0 = it is the best).
    `tokens` is how many tokens the answer's text has for the model's own tokenizer, -1 = not counted.
    """

    slot: int
    index: int
    gaps: tuple[float, ...]
    tokens: int = -1


class CannotWrite(ConfigError):
    """The disk does not take the records. The text says what is kept."""


class Writer:
    """Appends to a run's folder; each slot is on the disk before the next one starts.

    Raises `CannotWrite` where the disk does not take it; what was written before is kept and can be read.
    `again` opens the folder of an interrupted run and goes on at its end.
    """

    def __init__(self, folder: Path, *, again: bool = False) -> None:
        self.folder = folder
        with self._on_disk():
            folder.mkdir(parents=True, exist_ok=again)
            (folder / "server").mkdir(exist_ok=again)
            if again:
                for name in ("slots.jsonl", "requests.jsonl"):
                    _drop_torn_line(folder / name)
            self._slots: IO[str] = (folder / "slots.jsonl").open("a", encoding="utf-8")
            self._requests: IO[str] = (folder / "requests.jsonl").open("a", encoding="utf-8")

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(
                f"cannot write to {self.folder}: {error.strerror or error}; what was written before is kept: "
                f"make room, then go on with `python -m vllama.bench run --resume {self.folder}`"
            ) from error

    def write(self, name: str, content: dict[str, Any]) -> None:
        """A JSON document beside the lines. The old one stays until the new one is whole."""
        text = json.dumps({"schema": SCHEMA, **content}, indent=1, ensure_ascii=False)
        new = self.folder / f"{name}.new"
        with self._on_disk():
            try:
                new.write_text(text + "\n", encoding="utf-8")
            except OSError:
                new.unlink(missing_ok=True)
                raise
            new.replace(self.folder / name)

    def add(self, slot: Slot, samples: list[Sample]) -> None:
        """One slot with its requests."""
        with self._on_disk():
            for sample in samples:
                self._requests.write(_line(sample))
            self._requests.flush()
            self._slots.write(_line(slot))
            self._slots.flush()

    def add_scores(self, scores: list[Score]) -> None:
        """All scores of the run."""
        text = "".join(_line(score) for score in scores)
        with self._on_disk():
            (self.folder / "scores.jsonl").write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Close the files; everything added is kept."""
        # A full disk was reported when the line was added; closing tries the rest again.
        for file in (self._slots, self._requests):
            with contextlib.suppress(OSError):
                file.close()


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

    @property
    def not_measured(self) -> dict[str, dict[str, dict[str, str]]]:
        """Cell -> system -> {"verdict": "not applicable" | "fails by design", "reason", "evidence"}."""
        found: dict[str, dict[str, dict[str, str]]] = self.environment.get("cells", {})
        return found

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


_LATER = {
    Sample: ("t_sched", "role", "n_asked", "outcome", "reuses", "loads", "stamps", "coalesced", "extra"),
    Slot: ("kind", "lane", "slo", "extra"),
}
"""Fields that schema 1 got later."""


def _line(record: Sample | Slot | Score) -> str:
    raw = dataclasses.asdict(record)
    for known in dataclasses.fields(record):
        if known.name in _LATER.get(type(record), ()) and raw[known.name] == _default(known):
            del raw[known.name]
    return json.dumps(raw, ensure_ascii=False, separators=(",", ":")) + "\n"


def _default(known: dataclasses.Field[Any]) -> Any:
    return known.default if known.default is not dataclasses.MISSING else {}


def _lines(path: Path) -> list[str]:
    """The lines of a file, none if it was never written. Split at LF alone: texts may hold other line separators.

    A last line without its LF was torn by a full disk or a kill; it does not count.
    """
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if line]


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)
