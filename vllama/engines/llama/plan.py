"""What one step decodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllama.engines.llama.sequence import Sequence


@dataclass(slots=True)
class Plan:
    """Rows of one llama.cpp batch, as parallel lists, and what they mean.

    `rows` are (sequence, number of tokens) in batch order; `outputs` are (batch index, sequence) of the rows whose
    logits are wanted: one per sequence that has nothing left to decode after this step.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    rows: list[tuple[Sequence, int]] = field(default_factory=list)
    outputs: list[tuple[int, Sequence]] = field(default_factory=list)
