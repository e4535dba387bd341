"""What a system under test is, whatever it speaks."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama.bench.results import Sample

if TYPE_CHECKING:
    from vllama.bench.plan import Cell
    from vllama.bench.systems.kept import Kept

Later = Callable[[int, int], list[Sample]]
"""(slot index, slot start in ns) -> the samples; called after the slot, because parsing costs time."""

CAPABILITIES = frozenset(
    {"stream", "chat", "embed", "cancel", "num_ctx", "unload", "constrained", "keep_alive", "restart"}
)
"""What a scenario may need: streamed answers, chat, embeddings, an answer that ends when its reader leaves, another
context length per request, unloading on request, answers that follow a JSON schema, a keep-alive time, and that we may
stop and start the system."""


class Unavailable(Exception):
    """The system cannot be measured here; the text says why, and what would help."""


class SystemFailed(Exception):
    """The system was started but died or never answered; the text ends with its last words."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all systems share. `ctx` tokens per request, `parallel` requests at once, `timeout` seconds.

    `scratch` is a private folder that lives as long as the run; logs go to `logs`. `root` is the clone.
    """

    root: Path
    scratch: Path
    logs: Path
    gguf: Path
    sha256: str
    ctx: int
    parallel: int
    threads: int
    timeout: float


@dataclass(slots=True)
class Described:
    """What was really started, for the record. `env` holds only what differs from the parent's environment.

    `children` are the command lines of all processes that the system itself started so far, ended ones included.
    """

    title: str
    lane: str
    version: str = ""
    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    model_sha256: str = ""
    children: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Boot:
    """When the last start came how far, in ns on the monotonic clock: program run, port open, model made known, first
    right answer. Zero: not yet, or not a thing of this system."""

    spawned: int = 0
    accepts: int = 0
    prepared: int = 0
    answered: int = 0


class System(ABC):
    """One system in one lane. `ceiling` systems have no server and never appear in a ratio of first-token times."""

    key: str
    title: str
    lane: str = "matched"
    ceiling: bool = False
    capabilities: frozenset[str] = frozenset()

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.described = Described(self.title, self.lane)
        self.boot = Boot()
        self._kept: Kept | None = None

    @abstractmethod
    def find(self) -> None:
        """Raise `Unavailable` if the system is not there. Starts nothing that stays."""

    @abstractmethod
    async def start(self) -> None:
        """Start, and return when a golden request was answered right. Raises `SystemFailed`."""

    @abstractmethod
    async def drive(self, prompts: Sequence[str], n_out: int, concurrency: int, *, stream: bool) -> Later:
        """Send all prompts, at most `concurrency` at once, and return when the last one ended."""

    @abstractmethod
    async def stop(self) -> None:
        """End every process of the system. Twice is fine. Raises `SystemFailed` if one is left."""

    async def probe_limits(self) -> None:  # noqa: B027
        """After a start, try what this system is suspected to be unable to do: `impossible` then has its evidence."""

    def impossible(self, cell: Cell) -> str | None:
        """Why the cell fails by design on this system, with the evidence; None if it can be measured."""
        return None

    @property
    def pid(self) -> int:
        """The root of the system's process tree; 0 when it does not run or is not ours."""
        return self._kept.pid if self._kept is not None else 0

    @property
    def no_delay(self) -> bool:
        """Whether the client's sockets to this system have TCP_NODELAY (true where there is no socket)."""
        return True

    def pids(self) -> list[int]:
        """The living processes of the system, the root first."""
        return self._kept.pids() if self._kept is not None else []

    @property
    def died(self) -> bool:
        """Whether it was started here, not stopped, and all of its processes are gone."""
        return self._kept is not None and not self._kept.pids()

    def cpu_seconds(self) -> float:
        """CPU-seconds of the whole process tree since the start, processes that ended included."""
        if self._kept is None:
            return 0.0
        used = self._kept.meter.cpu_seconds()
        self.described.children = self._kept.meter.children(self._kept.pid)
        return used

    def major_faults(self) -> int:
        """How often the process tree has waited for the disk since the start (see `probe.major_faults`)."""
        return self._kept.meter.major_faults() if self._kept is not None else 0

    def pss(self) -> int:
        """Memory of the living process tree in bytes (proportional set size)."""
        return self._kept.meter.pss() if self._kept is not None else 0

    @property
    def peak_pss(self) -> int:
        """The highest `pss` that was read since the start."""
        return self._kept.meter.peak_pss if self._kept is not None else 0


STEERING = ("OLLAMA_", "VLLAMA_", "LLAMA_", "GGML_", "VLLM_", "MODULAR_", "MAX_SERVE_")


def clean_environ() -> dict[str, str]:
    """The parent's environment without anything that steers one of the systems."""
    return {key: value for key, value in os.environ.items() if not key.startswith(STEERING)}


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
