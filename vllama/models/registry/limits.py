"""How much a registry may send, how long it may be silent and how often a step is tried again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Parts and retries are Ollama's by default."""

    part_min: int = 100_000_000
    part_max: int = 1_000_000_000
    streams: int = 16
    retries: int = 6
    backoff_s: float = 1.0
    stall_s: float = 30.0
    connect_s: float = 30.0
    small_s: float = 120.0
    """For a whole manifest or token, however slowly it drips."""
    tick_s: float = 0.06
    save_every: int = 8 << 20
    """Bytes of a part after which its progress is written down; less for small parts."""
    piece: int = 1 << 20
    """Bytes that are gathered for one write."""
    upload_part: int = 100_000_000
    redirects: int = 10
    layers: int = 1024
    layer_size: int = 1 << 42
    error_body: int = 8 << 10
    token_body: int = 64 << 10

    def save_step(self, size: int) -> int:
        """Bytes between two notes of a part's progress: a crash costs at most a 64th of it, or `save_every`."""
        return min(self.save_every, max(64 << 10, size // 64))
