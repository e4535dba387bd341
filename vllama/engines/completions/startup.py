"""How far a server is with its start, read from the lines of its log."""

from __future__ import annotations

import re
from collections.abc import Sequence

Phase = tuple[re.Pattern[str], float, str]
"""A line that begins a phase, the share of the start that is over by then, the phase in words."""

_SHARDS = re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%")
_FAILURES = re.compile(r"\b(\w*(?:Error|Exception)): (.+)")
_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore failed", "cancelled")


class Startup:
    """Takes lines; `done` is 0.0 to 1.0 and never falls, `phase` says it in words, `failure` is why it died."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._phases = phases
        self.done = 0.0
        self.phase = "starting"
        self.failure = ""

    def read(self, line: str) -> bool:
        """Whether this line is news."""
        if shards := _SHARDS.search(line):
            return self._reach(0.25 + 0.35 * int(shards[1]) / 100, f"loading weights {shards[1]}%")
        # Warnings quote errors that did not happen.
        if "WARNING" not in line and (failure := _FAILURES.search(line)):
            # The last error that says something: wrappers around it say only that something failed.
            if not any(word in failure[2] for word in _GENERIC):
                self.failure = f"{failure[1]}: {failure[2]}"[:500]
            return False
        return any(self._reach(done, phase) for pattern, done, phase in self._phases if pattern.search(line))

    def _reach(self, done: float, phase: str) -> bool:
        if done <= self.done:
            return False
        self.done, self.phase = done, phase
        return True
