"""What is counted for each model since the server started, whether it is loaded or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from vllama.engines.base import Finished

Outcome = Literal["stop", "length", "cancelled", "error", "rejected"]


@dataclass(slots=True)
class Counters:
    """`requests` by how they ended; tokens; nanoseconds of finished requests; `loads` and `crashes` of the engine."""

    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    prompt_ns: int = 0
    output_ns: int = 0
    loads: int = 0
    crashes: int = 0

    def add(self, outcome: Outcome, finished: Finished | None) -> None:
        """A request ended."""
        self.requests[outcome] += 1
        if finished is not None:
            self.prompt_tokens += finished.prompt_tokens
            self.cached_tokens += finished.cached_tokens
            self.output_tokens += finished.output_tokens
            self.prompt_ns += finished.prompt_ns
            self.output_ns += finished.decode_ns
