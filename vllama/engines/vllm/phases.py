"""How far vLLM's server is with its start, read from its log. The words are those of vLLM 0.2x to 0.32."""

from __future__ import annotations

import re

PHASES = (
    (re.compile(r"non-default args|Resolved architecture"), 0.05, "starting"),
    (re.compile(r"Initializing a V1 LLM engine"), 0.15, "starting the engine"),
    (re.compile(r"Starting to load model"), 0.25, "loading weights"),
    (re.compile(r"Loading weights took|Model loading took"), 0.6, "weights loaded"),
    (re.compile(r"Warming up model|torch\.compile|Start compiling|Dynamo bytecode"), 0.65, "compiling"),
    (re.compile(r"Warming up done|Graph capturing|Capturing CUDA graph"), 0.85, "capturing graphs"),
    (re.compile(r"GPU KV cache size|CPU KV cache size|# GPU blocks|init engine .* took"), 0.9, "reserving the cache"),
    (re.compile(r"Starting vLLM|Application startup complete"), 1.0, "ready"),
)
_SHARDS = re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)%")
_FAILURES = re.compile(r"\b(\w*(?:Error|Exception)): (.+)")
_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed", "EngineCore failed", "cancelled")


class Startup:
    """Takes lines; `done` is 0.0 to 1.0 and never falls, `phase` says it in words, `failure` is why it died."""

    def __init__(self) -> None:
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
        return any(self._reach(done, phase) for pattern, done, phase in PHASES if pattern.search(line))

    def _reach(self, done: float, phase: str) -> bool:
        if done <= self.done:
            return False
        self.done, self.phase = done, phase
        return True
