"""Plans: scenario files and profiles, read strictly, and the hash that names them.

    scenarios/profiles.toml     what to run: scenarios, systems, number of pairs, seed
    scenarios/<id>.toml         one scenario: kind of load, lengths (docs/scenarios.md)
    scenarios/prompts/*.txt     passages, separated by blank lines

Unknown keys are refused, and so are keys of another kind: a misspelt setting would silently measure something else. The
plan's id is a hash of everything that decides what is sent, so two results with the same id asked the same questions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vllama.bench.tables import read_toml
from vllama.errors import ConfigError

T = TypeVar("T")


CHARS_PER_TOKEN = 4.6
"""Of the passages, with a byte-pair vocabulary of about 50,000. Composed prompts are "about" as long as asked for;
the servers' own counts are what is reported."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the file of a kind of scenario may say besides what all say. `samples` is how many requests a slot records
    for (scenario, concurrency, requests); `screened` whether answers must not end early (`run` screens the prompts).
    """

    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    samples: str = "requests"
    screened: bool = False


KINDS: dict[str, Kind] = {
    "closed": Kind(may=("ceiling", "prompt_tokens", "rounds"), screened=True),
    "fresh-connections": Kind(may=("prompt_tokens",), screened=True),
    "prefill": Kind(needs=("prompt_tokens",)),
    "shared-prefix": Kind(needs=("prompt_tokens",), samples="twice the concurrency"),
    "conversation": Kind(needs=("turns",), samples="concurrency times turns"),
    "mixed": Kind(needs=("prompt_tokens", "join_after_s"), samples="the concurrency plus one", screened=True),
    "open": Kind(needs=("rate",), screened=True),
    "burst": Kind(),
    "cancel": Kind(needs=("cancel_after",), samples="at least three"),
    "cold-start": Kind(),
    "load": Kind(),
    "keep-alive": Kind(needs=("keep_alive_s",), samples="an even number"),
    "num-ctx": Kind(needs=("num_ctx",)),
    "embeddings": Kind(needs=("inputs", "prompt_tokens")),
    "idle": Kind(needs=("idle_s",), samples="none"),
    "constrained": Kind(needs=("json_schema",)),
    "memory": Kind(needs=("prompt_tokens", "fill_tokens"), samples="more than twice the concurrency"),
    "idle-cache": Kind(needs=("prompt_tokens",), samples="the concurrency and an even number"),
    "two-models": Kind(samples="twice the concurrency"),
}

LANES = ("matched", "defaults")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits of a good request in ms; 0 = not limited. `gap_p99_ms` needs a stream with enough gaps."""

    ttft_ms: float = 0.0
    gap_p99_ms: float = 0.0
    e2e_ms: float = 0.0

    @property
    def limits(self) -> dict[str, float]:
        """Those that are set."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. Lengths in tokens.

    A slot, the unit of pairing, sends `requests` requests (one entry per entry of `concurrency`) with at most that many
    at once, in the way of its `kind` (`vllama.bench.loads`). `ceiling` are the concurrencies at which the in-process
    ceiling runs too. `lanes` says which systems belong here: as shipped ("defaults"), with the same settings
    ("matched"), or both.

    The keys below `lanes` belong to some kinds only (`KINDS`): `prompt_tokens` about how long the long prompts are
    (the prefix in "shared-prefix", each input in "embeddings", those that fill the cache in "idle-cache", all but the
    last ones in "memory"), `fill_tokens` how long the last ones in "memory" are, `turns` of a conversation,
    `join_after_s` seconds until the long prompt joins, `rate` requests a second, `cancel_after` events until the
    client hangs up, `keep_alive_s` seconds, `num_ctx` context lengths asked for in turn, `inputs` of one embeddings
    request, `idle_s` seconds, `json_schema` as text, `rounds` the parts of equal size that a slot is cut into, to be
    measured in turns with the slots of the other systems (0 = each slot in one piece).
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
    kind: str = "closed"
    lanes: tuple[str, ...] = LANES
    slo: Slo = field(default_factory=Slo)
    prompt_tokens: int = 0
    fill_tokens: int = 0
    turns: int = 0
    join_after_s: float = 0.0
    rate: float = 0.0
    cancel_after: int = 0
    keep_alive_s: float = 0.0
    num_ctx: tuple[int, ...] = ()
    inputs: int = 0
    idle_s: float = 0.0
    json_schema: str = ""
    rounds: int = 0

    @property
    def cells(self) -> list[Cell]:
        """One cell per concurrency."""
        return [
            Cell(self.id, concurrency, requests, self.n_out, self.stream, self.kind)
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
    kind: str = "closed"

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
    run at once in the matched lane. `threads` 0 means the machine's physical cores. `asleep` is what the
    systems do that are not measured: see `ASLEEP`.
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
    asleep: str = "resident"

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
        return _hash(_asked(self))

    def questions_id(self, scenario: Scenario) -> str:
        """Like `id`, of what decides the prompts of a scenario alone: its screening is kept under this name."""
        return _hash([self.seed, _asked(scenario), self.corpus[scenario.prompts]])

    def prompts(self, cell: Cell, block: int, attempt: Sequence[int] = ()) -> list[str]:
        """The prompts of one slot: a fresh nonce before a passage, the same for every system in the block.

        One for each request, for embeddings one for each input. The nonce stands first, so that no server finds a
        prefix that it has seen. `attempt` (one number per prompt, default all 0) gives another nonce where screening
        refused an earlier one. Long prompts are passages one after the other; only the prompts of "shared-prefix"
        begin alike.
        """
        scenario = self.scenario(cell.scenario)
        rng = random.Random(f"{self.seed}/{cell.id}/{block}")
        passages = list(self.corpus[scenario.prompts])
        rng.shuffle(passages)

        def nonce(index: int, tried: int = 0) -> str:
            return hashlib.sha256(f"{self.seed}/{cell.id}/{block}/{index}/{tried}".encode()).hexdigest()[:8]

        def long(index: int, tokens: int, tried: int = 0) -> str:
            return _compose(nonce(index, tried), passages, index, tokens)

        prefix = long(-1, scenario.prompt_tokens) if scenario.kind == "shared-prefix" else ""
        prompts = []
        for index in range(cell.requests * (scenario.inputs or 1)):
            tried = attempt[index] if attempt else 0
            short = f"{nonce(index, tried)}. {passages[index % len(passages)]}"
            if scenario.kind == "shared-prefix":
                prompts.append(f"{prefix} {short}")
            elif tokens := _tokens(scenario, cell, index):
                prompts.append(long(index, tokens, tried))
            else:
                prompts.append(short)
        return prompts

    def screened(self, cell: Cell) -> list[int]:
        """Which prompts of a slot must have an answer that does not end early."""
        scenario = self.scenario(cell.scenario)
        if not KINDS[cell.kind].screened:
            return []
        free = cell.kind in ("closed", "fresh-connections")
        return [index for index in range(cell.requests) if free or not _tokens(scenario, cell, index)]

    def warmup_prompts(self, count: int, salt: str) -> list[str]:
        """Prompts for warming up: other passages and other nonces than any measured one."""
        passages = self.corpus["warmup"]
        nonces = (hashlib.sha256(f"warm/{self.seed}/{salt}/{i}".encode()).hexdigest()[:8] for i in range(count))
        return [f"{nonce}. {passages[i % len(passages)]}" for i, nonce in enumerate(nonces)]


ASLEEP = ("resident", "paused", "stopped")
"""What a system does while another is measured: it stays up ("resident": its CPU time is recorded, and systems that
ask for it are paused all the same), every one is paused with SIGSTOP, or every one is stopped and started again before
its slot, for machines whose memory does not hold them all."""


def _tokens(scenario: Scenario, cell: Cell, index: int) -> int:
    """About how long a prompt is to be, 0 for a passage as it is. Long are all of a closed loop that gives a length,
    every other of "prefill", the last of "mixed", the middle ones of "idle-cache", and in "memory" all, the last ones
    more than the others."""
    last = cell.requests - cell.concurrency
    short = {
        "prefill": index % 2 == 1,
        "mixed": index < cell.requests - 1,
        "idle-cache": not last // 2 <= index < last // 2 + cell.concurrency,
    }
    if short.get(scenario.kind, False):
        return 0
    return scenario.fill_tokens if scenario.kind == "memory" and index >= last else scenario.prompt_tokens


def _compose(nonce: str, passages: Sequence[str], start: int, tokens: int) -> str:
    """Passages one after the other, as many words as make about that many tokens."""
    left = round(tokens * CHARS_PER_TOKEN)
    text = f"{nonce}."
    number = start
    while len(text) < left:
        text += f" {passages[number % len(passages)]}"
        number += 1
    return text[:left].rpartition(" ")[0] or text


_FIRST_SCHEMA = frozenset(
    "id title stream concurrency requests n_out prompts why ceiling "  # of a scenario
    "profile scenarios systems control pairs seed ctx parallel threads timeout warmup_tokens model corpus confidence "
    "path package file sha256".split()
)
"""Keys that were there when the first results were committed. Later ones count only where they are used, so that a plan
that asks what it always asked keeps its id."""


def _asked(record: Any) -> dict[str, Any]:
    raw = dataclasses.asdict(record)
    for known in dataclasses.fields(record):
        value = getattr(record, known.name)
        if known.name == "scenarios":
            raw["scenarios"] = [_asked(scenario) for scenario in value]
        elif known.name not in _FIRST_SCHEMA and value == _default(known):
            del raw[known.name]
    return raw


def _default(known: dataclasses.Field[Any]) -> Any:
    if known.default_factory is not dataclasses.MISSING:
        return known.default_factory()
    return known.default


def _hash(raw: Any) -> str:
    text = json.dumps(raw, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def read_corpus(folder: Path) -> dict[str, tuple[str, ...]]:
    """File name without .txt -> its passages (blank lines separate them; line breaks inside become spaces)."""
    corpus = {}
    for path in sorted(folder.glob("*.txt")):
        passages = (" ".join(block.split()) for block in path.read_text(encoding="utf-8").split("\n\n"))
        corpus[path.stem] = tuple(passage for passage in passages if passage)
    return corpus


def read_scenario(path: Path) -> Scenario:
    """One scenario file. Raises `ConfigError` naming the file and the key."""
    raw = {"id": path.stem, **read_toml(path)}
    name = path.name
    kind = raw.get("kind", "closed")
    if kind not in KINDS:
        raise ConfigError(f"{name}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
    others = {key for other in KINDS.values() for key in (*other.needs, *other.may)}
    mine = {*KINDS[kind].needs, *KINDS[kind].may}
    if foreign := sorted(set(raw) & (others - mine)):
        raise ConfigError(f"{name}: unknown key {foreign[0]!r} for kind {kind!r}; it knows {', '.join(sorted(mine))}")
    if isinstance(raw.get("slo"), dict):
        raw["slo"] = _build(Slo, raw["slo"], f"{name}: slo")
    scenario = _build(Scenario, raw, name)
    for key in KINDS[kind].needs:
        if not getattr(scenario, key):
            raise ConfigError(f"{name}: {key} is missing; kind {kind!r} needs it")
    if scenario.id != path.stem:
        raise ConfigError(f"{name}: id {scenario.id!r} differs from the file's name")
    if len(scenario.concurrency) != len(scenario.requests):
        raise ConfigError(f"{name}: concurrency and requests have different lengths")
    for concurrency, requests in zip(scenario.concurrency, scenario.requests, strict=True):
        _check_load(name, scenario, concurrency, requests)
    if not set(scenario.ceiling) <= set(scenario.concurrency):
        raise ConfigError(f"{name}: ceiling names a concurrency that is not there")
    if not scenario.lanes or not set(scenario.lanes) <= set(LANES):
        raise ConfigError(f"{name}: lanes must be some of {', '.join(LANES)}")
    if scenario.json_schema:
        try:
            json.loads(scenario.json_schema)
        except ValueError as error:
            raise ConfigError(f"{name}: json_schema is not JSON: {error}") from None
    return scenario


def _check_load(name: str, scenario: Scenario, concurrency: int, requests: int) -> None:
    """Whether the number of requests fits the kind."""
    wanted = KINDS[scenario.kind].samples
    if concurrency < 1 or (requests < concurrency and wanted != "none"):
        raise ConfigError(f"{name}: each entry of requests must be at least its concurrency, and that at least 1")
    fits = {
        "requests": True,
        "none": requests == 0,
        "an even number": requests % 2 == 0,
        "at least three": requests >= 3,
        "twice the concurrency": requests == 2 * concurrency,
        "concurrency times turns": requests == concurrency * scenario.turns,
        "the concurrency plus one": requests == concurrency + 1,
        "the concurrency and an even number": requests > concurrency and (requests - concurrency) % 2 == 0,
        "more than twice the concurrency": requests > 2 * concurrency,
    }
    if not fits[wanted]:
        raise ConfigError(f"{name}: requests of kind {scenario.kind!r} must be {wanted}, not {requests}")
    rounds = scenario.rounds
    if rounds < 0 or (rounds and (requests % rounds or requests // rounds < concurrency)):
        raise ConfigError(f"{name}: {requests} requests cannot be cut into {rounds} rounds of {concurrency} or more")


def read_plan(folder: Path, profile: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a profile. `overrides` replaces keys of the profile; None values are ignored."""
    profiles = read_toml(folder / "profiles.toml")
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
    if plan.asleep not in ASLEEP:
        raise ConfigError(f"{where}: asleep must be one of {', '.join(ASLEEP)}")
    if twice := [key for key, count in Counter(plan.systems).items() if count > 1]:
        raise ConfigError(f"{where}: {twice[0]!r} stands twice among the systems")
    return dataclasses.replace(plan, corpus={name: corpus[name] for name in sorted(used)})


def plan_from_record(raw: Mapping[str, Any]) -> Plan:
    """The plan in a run's plan.json. Raises `ConfigError` if this code reads another plan out of it than was run."""
    where = "plan.json"
    table = {key: value for key, value in raw.items() if key not in ("id", "schema")}
    try:
        scenarios = tuple(
            _build(Scenario, {**one, **({"slo": _build(Slo, one["slo"], where)} if "slo" in one else {})}, where)
            for one in table["scenarios"]
        )
        corpus = {name: tuple(passages) for name, passages in table["corpus"].items()}
        model = _build(ModelFile, table["model"], where)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where} is not a plan: {error!r}") from None
    plan = _build(Plan, {**table, "scenarios": scenarios, "corpus": corpus, "model": model}, where)
    if plan.id != raw.get("id"):
        raise ConfigError(f"{where}: this vLLama makes plan {plan.id} of it, but {raw.get('id')} was run")
    return plan


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
