"""The golden server as a system: its times are known, so what a run says of it can be checked."""

from __future__ import annotations

import sys

from vllama.bench.systems.http import HttpSystem

TTFT_MS, GAP_MS = 40.0, 8.0


class Golden(HttpSystem):
    """`vllama.bench.golden` in a process of its own: first text after 40 ms, then one token each 8 ms."""

    key = "golden"
    title = f"golden server ({TTFT_MS:g} ms, then {GAP_MS:g} ms)"
    api = "ollama"
    model = "golden"
    capabilities = frozenset({"stream", "chat", "cancel"})
    ends_with_input = True

    def find(self) -> None:
        """It is part of the harness."""
        self.described.notes = ["no model: invented words at known times"]

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Its times are fixed, so a report can be read against them."""
        argv = [sys.executable, "-m", "vllama.bench.golden", "--port", str(self.port)]
        return [*argv, "--ttft-ms", str(TTFT_MS), "--gap-ms", str(GAP_MS)], {}
