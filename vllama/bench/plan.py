"""Plans: scenario files and profiles, read strictly, and the hash that names them.

    scenarios/profiles.toml     what to run: scenarios, systems, number of pairs, seed
    scenarios/<id>.toml         one scenario: load, lengths
    scenarios/prompts/*.txt     passages, separated by blank lines

Unknown keys are refused: a misspelt setting would silently measure something else. The plan's id is a hash of
everything that decides what is sent, so two results with the same id asked the same questions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vllama.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. Lengths in tokens.

    A closed loop: `concurrency` streams, each sending its next request when the last one ended, until
    `requests` (one entry per entry of `concurrency`) are done. That is one slot, the unit of pairing.
    `ceiling` are the concurrencies at which the in-process ceiling runs too.
    """

    id: str
    title: str
    stream: bool
    concurrency: tuple[int, ...]
    requests: tuple[int, ...]
    n_out: int
    prompts: str
    why: str = ""
    ceiling: tuple[int, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """One cell per concurrency."""
        return [
            Cell(self.id, concurrency, requests, self.n_out, self.stream)
            for concurrency, requests in zip(self.concurrency, self.requests, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Cell:
    """One scenario at one concurrency: what a slot of each system measures."""

    scenario: str
    concurrency: int
    requests: int
    n_out: int
    stream: bool

    @property
    def id(self) -> str:
        """For instance "concurrent/c8"."""
        return f"{self.scenario}/c{self.concurrency}"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The GGUF that every system serves: a path, or a file inside an installed Python package."""

    path: str = ""
    package: str = ""
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what is sent to whom, and in which order.

    `ctx` is tokens per request, `timeout` seconds per request. `parallel` is how many requests a server may
    run at once in the matched lane. `threads` 0 means the machine's physical cores.
    """

    profile: str
    title: str
    scenarios: tuple[Scenario, ...]
    systems: tuple[str, ...]
    control: str
    pairs: int
    seed: int
    ctx: int
    parallel: int
    threads: int
    timeout: float
    warmup_tokens: int
    model: ModelFile
    corpus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    confidence: float = 0.99

    @property
    def cells(self) -> list[Cell]:
        """All cells in the order in which a block runs them."""
        return [cell for scenario in self.scenarios for cell in scenario.cells]

    def scenario(self, scenario_id: str) -> Scenario:
        """The scenario of that id."""
        return next(scenario for scenario in self.scenarios if scenario.id == scenario_id)

    @property
    def id(self) -> str:
        """First 10 hex digits of the SHA-256 of the plan as JSON, prompts included."""
        raw = json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(raw.encode()).hexdigest()[:10]

    @property
    def questions_id(self) -> str:
        """Like `id`, of what decides the prompts alone: screening is kept under this name."""
        scenarios = [dataclasses.asdict(scenario) for scenario in self.scenarios]
        raw = json.dumps([self.seed, scenarios, self.corpus], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(raw.encode()).hexdigest()[:10]

    def prompts(self, cell: Cell, block: int, attempt: Sequence[int] = ()) -> list[str]:
        """The prompts of one slot: a fresh nonce before a passage, the same for every system in the block.

        The nonce stands first, so that no server finds a prefix that it has seen. `attempt` (one number per
        prompt, default all 0) gives another nonce where screening refused an earlier one.
        """
        rng = random.Random(f"{self.seed}/{cell.id}/{block}")
        passages = list(self.corpus[self.scenario(cell.scenario).prompts])
        rng.shuffle(passages)
        prompts = []
        for index in range(cell.requests):
            tried = attempt[index] if attempt else 0
            nonce = hashlib.sha256(f"{self.seed}/{cell.id}/{block}/{index}/{tried}".encode()).hexdigest()[:8]
            prompts.append(f"{nonce}. {passages[index % len(passages)]}")
        return prompts

    def warmup_prompts(self, count: int, salt: str) -> list[str]:
        """Prompts for warming up: other passages and other nonces than any measured one."""
        passages = self.corpus["warmup"]
        nonces = (hashlib.sha256(f"warm/{self.seed}/{salt}/{i}".encode()).hexdigest()[:8] for i in range(count))
        return [f"{nonce}. {passages[i % len(passages)]}" for i, nonce in enumerate(nonces)]


def read_corpus(folder: Path) -> dict[str, tuple[str, ...]]:
    """File name without .txt -> its passages (blank lines separate them; line breaks inside become spaces)."""
    corpus = {}
    for path in sorted(folder.glob("*.txt")):
        passages = (" ".join(block.split()) for block in path.read_text(encoding="utf-8").split("\n\n"))
        corpus[path.stem] = tuple(passage for passage in passages if passage)
    return corpus


def read_scenario(path: Path) -> Scenario:
    """One scenario file. Raises `ConfigError` naming the file and the key."""
    scenario = _build(Scenario, {"id": path.stem, **_toml(path)}, str(path.name))
    if scenario.id != path.stem:
        raise ConfigError(f"{path.name}: id {scenario.id!r} differs from the file's name")
    if len(scenario.concurrency) != len(scenario.requests):
        raise ConfigError(f"{path.name}: concurrency and requests have different lengths")
    if any(c < 1 or r < c for c, r in zip(scenario.concurrency, scenario.requests, strict=True)):
        raise ConfigError(f"{path.name}: each entry of requests must be at least its concurrency, and that at least 1")
    if not set(scenario.ceiling) <= set(scenario.concurrency):
        raise ConfigError(f"{path.name}: ceiling names a concurrency that is not there")
    return scenario


def read_plan(folder: Path, profile: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a profile. `overrides` replaces keys of the profile; None values are ignored."""
    profiles = _toml(folder / "profiles.toml")
    if profile not in profiles:
        raise ConfigError(f"profiles.toml has no profile {profile!r}; there are {', '.join(sorted(profiles))}")
    table = {key: value for key, value in (overrides or {}).items() if value is not None}
    raw = {"profile": profile, **profiles[profile], **table}
    corpus = read_corpus(folder / "prompts")
    names = raw.pop("scenarios", ())
    scenarios = tuple(read_scenario(folder / f"{name}.toml") for name in names)
    where = f"profiles.toml [{profile}]"
    raw["model"] = _build(ModelFile, raw.get("model", {}), f"{where} model")
    plan = _build(Plan, {**raw, "scenarios": scenarios, "corpus": {}}, where)
    used = {"warmup", *(scenario.prompts for scenario in scenarios)}
    if missing := used - set(corpus):
        raise ConfigError(f"scenarios/prompts has no {', '.join(sorted(missing))}.txt")
    if plan.control not in plan.systems:
        raise ConfigError(f"{where}: the control {plan.control!r} is not among the systems")
    if not scenarios or plan.pairs < 1:
        raise ConfigError(f"{where}: needs at least one scenario and one pair")
    return dataclasses.replace(plan, corpus={name: corpus[name] for name in sorted(used)})


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: {error}") from error


def _build(kind: type[T], raw: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table; unknown and missing keys and wrong types are errors."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(raw) - set(fields)):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    values: dict[str, Any] = {}
    for name, known in fields.items():
        if name not in raw:
            if known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{where}: {name} is missing")
            continue
        value = tuple(raw[name]) if isinstance(raw[name], list) else raw[name]
        if not _fits(value, str(known.type)):
            raise ConfigError(f"{where}: {name} must be {known.type}, not {raw[name]!r}")
        values[name] = value
    return kind(**values)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a TOML value fits a field's annotation; tables and tuples of dataclasses are built by the caller."""
    if annotation == "bool":
        return isinstance(value, bool)
    if annotation in ("int", "float"):
        return isinstance(value, int if annotation == "int" else (int, float)) and not isinstance(value, bool)
    if annotation == "str":
        return isinstance(value, str)
    if annotation == "tuple[int, ...]":
        return isinstance(value, tuple) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    if annotation == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(x, str) for x in value)
    return True
