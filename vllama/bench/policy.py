"""What a gate demands, from scenarios/gate.toml: written down before a run, unknown keys refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.bench.measure import METRICS
from vllama.bench.tables import keyed, read_toml
from vllama.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rule:
    """One gated metric in one cell. `delta` is the slow-down (0.05 = 5 %) that must be ruled out.

    `noise` is the expected standard deviation of a pair's log-ratio without any change (0 = unknown): the standard
    error of n pairs is about noise / sqrt(n). It serves the statement made before a run, never a verdict.
    """

    cell: str
    metric: str
    delta: float
    noise: float = 0.0
    why: str = ""

    @property
    def id(self) -> str:
        """For instance "streaming/c1 decode"."""
        return f"{self.cell} {self.metric}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole gate. `split` is the one-sided alpha of the first look and of the second, over all pairs.

    `pairs` is the size of the first look in a gate run, `extend` that of the one extension. `system` is judged against
    `against`; `twin` against `control` is the same program twice and gives the floor, whose two-sided interval has
    `floor_confidence`; `confidence` is that of printed intervals.
    """

    pairs: int
    extend: int
    split: tuple[float, float]
    rules: tuple[Rule, ...]
    power: float = 0.9
    min_pairs: int = 8
    floor_confidence: float = 0.95
    confidence: float = 0.99
    system: str = "vllama"
    against: str = "vllama@base"
    control: str = "llama-server"
    twin: str = "llama-server-twin"

    @property
    def alpha(self) -> float:
        """Both looks together."""
        return sum(self.split)

    @property
    def id(self) -> str:
        """First 10 hex digits of the SHA-256 of everything above."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]


def read_policy(path: Path, overrides: Mapping[str, Any] | None = None) -> Policy:
    """A policy file; `overrides` replaces keys, None values are ignored. Raises `ConfigError` naming file and key."""
    raw = read_toml(path)
    raw |= {key: value for key, value in (overrides or {}).items() if value is not None}
    tables = raw.pop("gate", [])
    rules = tuple(
        Rule(**keyed(Rule, table, f"{path.name} gate {number}")) for number, table in enumerate(tables, start=1)
    )
    if isinstance(raw.get("split"), list):
        raw["split"] = tuple(raw["split"])
    policy = Policy(**keyed(Policy, {**raw, "rules": rules}, path.name))
    _check(policy, path.name)
    return policy


def _check(policy: Policy, where: str) -> None:
    if not policy.rules:
        raise ConfigError(f"{where}: no [[gate]]: a gate without rules could not fail")
    if len({rule.id for rule in policy.rules}) != len(policy.rules):
        raise ConfigError(f"{where}: two gates for the same cell and metric")
    for rule in policy.rules:
        if rule.metric not in METRICS:
            raise ConfigError(f"{where}: unknown metric {rule.metric!r}; known: {', '.join(METRICS)}")
        if not 0 < rule.delta < 1:
            raise ConfigError(f"{where}: delta of {rule.id} must lie between 0 and 1")
    split: tuple[Any, ...] = policy.split
    if len(split) != 2 or not all(isinstance(a, float) and 0 < a < 0.5 for a in split):
        raise ConfigError(f"{where}: split must be the alpha of the first look and of the second")
    if policy.min_pairs < 8 or policy.pairs < policy.min_pairs or policy.extend < 1:
        raise ConfigError(f"{where}: min_pairs must be at least 8, pairs at least min_pairs, extend at least 1")
