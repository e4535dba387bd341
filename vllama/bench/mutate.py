"""Mutation test of the harness: each fault in the measured path must turn a check or the gate red.

Three golden servers, the control, its twin and the subject, each behind a proxy of the same make; the subject's
proxy (or the plan, or the keeping of the records) has the fault. The same slots, the same records, the same checks
and the same gate as in a run; they see the wire and the records, and no word about the fault. A fault that nobody sees
is a hole in the harness, and so is an alarm without a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllama.bench import faults, probe
from vllama.bench.checks import failures, judge_all
from vllama.bench.dialects import greedy_request
from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.bench.faults import Fault, Proxy
from vllama.bench.gate import judge_runs, overall
from vllama.bench.golden import GoldenServer, PlayedModel, golden_process
from vllama.bench.load import LagMeter, closed_loop, samples_of
from vllama.bench.policy import Policy, Rule
from vllama.bench.results import Run, Sample, Slot
from vllama.bench.stats import williams_order

CONTROL, TWIN, SUBJECT = "control", "control-twin", "subject"
SYSTEMS = (CONTROL, TWIN, SUBJECT)
CELL = "streaming/c1"
DELTA = 0.05
N_OUT = 16
REQUESTS = 2
TTFT_MS, GAP_MS = 20.0, 4.0
STRUCTURE = ("W3", "C1", "C1b", "C1c", "L1", "L3", "M3", "T1", "T1b", "T3", "K3", "A1", "A2", "A3")
"""Checks that no busy machine can turn red."""

TIMING = (*STRUCTURE, "T2", "N1")
_PASSAGE = "the river runs under the old bridge and the people who live near it hear the water all night long".split()

GATE = Policy(
    pairs=24,
    extend=24,
    split=(0.005, 0.005),
    rules=(Rule(CELL, "ttft", DELTA), Rule(CELL, "decode", DELTA), Rule(CELL, "e2e", DELTA)),
    system=SUBJECT,
    against=CONTROL,
    control=CONTROL,
    twin=TWIN,
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault and who must see it: ids of checks, or the gate. `prompts` breaks the plan, `keep` the record-keeping."""

    name: str
    seen_by: tuple[str, ...]
    fault: Callable[[], Fault] = Fault
    prompts: Callable[[int, int], str] | None = None
    keep: Callable[[list[Sample]], list[Sample]] | None = None
    gate: str = ""
    timing: bool = False


def fresh_prompt(block: int, index: int) -> str:
    """A nonce, then a passage; never twice."""
    return " ".join([hashlib.sha256(f"{block}/{index}".encode()).hexdigest()[:8], *_PASSAGE])


MUTATIONS = (
    Mutation("no fault", ()),
    Mutation("no fault, gated", (), gate="PASS", timing=True),
    Mutation("slower by 2 delta", (), lambda: faults.SlowDown(2 * DELTA), gate="FAIL", timing=True),
    Mutation("stream buffered", ("T2",), faults.Buffered, timing=True),
    Mutation("TCP_NODELAY missing", ("N1",), faults.DelayedAck, timing=True),
    Mutation("prompts reused by the plan", ("C1", "C1b"), prompts=lambda block, index: fresh_prompt(0, 0)),
    Mutation("prompts begin alike on the way", ("C1",), faults.SharedStart),
    Mutation("context truncated", ("W3",), faults.Truncated),
    Mutation("tokenised with a doubled start", ("W3",), faults.DoubledStart),
    Mutation("tokens counted twice", ("L1", "T3"), faults.ExtraTokens),
    Mutation("fewer tokens than asked for", ("L1",), faults.FewerTokens),
    Mutation("answers ended early", ("L1",), faults.EarlyEnd),
    Mutation("connections broken", ("A2",), faults.HangUp),
    Mutation("errors passed off as ends", ("T1b",), faults.SwallowedErrors),
    Mutation(
        "failed requests not recorded",
        ("A1",),
        faults.HangUp,
        keep=lambda found: [s for s in found if s.ok],
    ),
    Mutation("answers from a cache", ("C1c",), faults.CachedAnswer),
)


@dataclass(slots=True)
class Outcome:
    """What the checks and the gate said. `missed` are the checks that should have seen the fault and did not; `false`
    those that saw something on a system without one, or in a run without any."""

    mutation: Mutation
    red: list[str]
    word: str = ""
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Seen by all who should, and by nobody else's mistake."""
        return not self.missed and not self.false


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `mutate`."""
    parser.add_argument("--short", action="store_true", help="only the faults that no clock is needed for")
    parser.add_argument("--only", help="part of a fault's name")


async def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Try every fault; 0 if each was seen and nothing else was."""
    chosen = [m for m in MUTATIONS if (args.only or "") in m.name and not (args.short and m.timing)]
    bad = 0
    for mutation in chosen:
        outcome = await try_mutation(mutation, own_processes=not args.short)
        bad += not outcome.good
        say(describe(outcome))
    say(f"{len(chosen) - bad} of {len(chosen)} as it should be")
    return EXIT_MISSED if bad or not chosen else EXIT_OK


def describe(outcome: Outcome) -> str:
    """One line."""
    seen = ", ".join(outcome.red) or "nothing"
    gate = f"; gate {outcome.word}" if outcome.word else ""
    line = f"{'ok  ' if outcome.good else 'HOLE'} {outcome.mutation.name:<42} red: {seen}{gate}"
    if outcome.missed:
        line += f"; NOT SEEN BY {', '.join(outcome.missed)}"
    if outcome.false:
        line += f"; FALSE ALARM {', '.join(outcome.false)}"
    return line


async def try_mutation(mutation: Mutation, *, own_processes: bool) -> Outcome:
    """Measure with the fault and judge. Servers in processes of their own are for times that count."""
    gated = bool(mutation.gate)
    timed = own_processes
    run = await measure(mutation, GATE.pairs if gated else 4, own_processes=own_processes)
    return judge(mutation, run, TIMING if timed else (*STRUCTURE, *mutation.seen_by))


def judge(mutation: Mutation, run: Run, considered: Iterable[str]) -> Outcome:
    """What the checks among `considered` and the gate say of a run, against what they should say."""
    verdicts = judge_all(run)
    red = failures({check: verdicts[check] for check in verdicts if check in set(considered)})
    outcome = Outcome(mutation, red)
    outcome.missed = [check for check in mutation.seen_by if f"{check} ({SUBJECT})" not in red and check not in red]
    plan_broken = mutation.prompts is not None
    outcome.false = [
        text for text in red if not mutation.seen_by or (not text.endswith(f"({SUBJECT})") and not plan_broken)
    ]
    if mutation.gate:
        outcome.word = overall(judge_runs([run], GATE))
        if outcome.word != mutation.gate:
            outcome.missed.append(f"gate ({mutation.gate})")
    return outcome


async def measure(mutation: Mutation, pairs: int, *, own_processes: bool) -> Run:
    """A run of one cell, `pairs` slots of each system."""
    slots: list[Slot] = []
    samples: dict[int, list[Sample]] = {}
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for key in SYSTEMS:
            if own_processes:
                port = await stack.enter_async_context(
                    golden_process("--ttft-ms", str(TTFT_MS), "--gap-ms", str(GAP_MS))
                )
            else:
                port = (await stack.enter_async_context(GoldenServer(PlayedModel()))).port
            fault = mutation.fault() if key == SUBJECT else Fault()
            ports[key] = (await stack.enter_async_context(Proxy(port, fault))).port
        for key in SYSTEMS:
            await closed_loop(ports[key], [_request("warming up, nothing else")], 1, 60.0)
        for block, order in enumerate(williams_order(SYSTEMS, pairs, seed=1)):
            for place, key in enumerate(order):
                prompts = [(mutation.prompts or fresh_prompt)(block, index) for index in range(REQUESTS)]
                async with LagMeter() as lag:
                    began = time.monotonic_ns()
                    exchanges, no_delay = await closed_loop(ports[key], [_request(p) for p in prompts], 1, 60.0)
                    ended = time.monotonic_ns()
                index = len(slots)
                found = samples_of(exchanges, prompts, index, began)
                samples[index] = mutation.keep(found) if mutation.keep and key == SUBJECT else found
                slots.append(_slot(index, block, place, key, ended - began, lag.summary, began, no_delay=no_delay))
    return _run(pairs, slots, samples, {key: str(port) for key, port in ports.items()})


def _request(prompt: str) -> tuple[str, bytes]:
    return greedy_request("ollama", "golden", prompt, N_OUT, stream=True)


def _slot(
    index: int, block: int, place: int, key: str, wall: int, lag: list[int], began: int, *, no_delay: bool
) -> Slot:
    scenario, _, concurrency = CELL.partition("/c")
    return Slot(
        index=index,
        block=block,
        place=place,
        system=key,
        scenario=scenario,
        concurrency=int(concurrency),
        requests=REQUESTS,
        n_out=N_OUT,
        stream=True,
        t_start=began,
        wall_ns=wall,
        cpu_s=0.0,
        others_cpu_s=0.0,
        client_cpu_s=0.0,
        pss=0,
        lag_ns=lag,
        control_work_ns=1,
        steal=-1.0,
        foreign=-1.0,
        load1=0.0,
        no_delay=no_delay,
        lane="matched",
    )


def _run(pairs: int, slots: list[Slot], samples: dict[int, list[Sample]], ports: dict[str, str]) -> Run:
    plan: dict[str, Any] = {
        "id": "mutate",
        "title": "mutation test",
        "systems": list(SYSTEMS),
        "control": CONTROL,
        "pairs": pairs,
        "seed": 1,
        "ctx": 256,
        "confidence": 0.99,
    }
    environment: dict[str, Any] = {
        "state": "complete",
        "machine": probe.facts(),
        "threads": 0,
        "model": {"file": "invented words", "sha256": ""},
        "warmup_prompts": [hashlib.sha256(b"warming up, nothing else").hexdigest()[:16]],
        "systems": {key: {"title": key, "lane": "matched", "argv": ["--port", ports[key]]} for key in SYSTEMS},
        "missing": {},
    }
    return Run("mutate", plan, environment, slots, samples)


def planted_run(
    pairs: int, *, slower: float = 0.0, later: float = 0.0, buffered: bool = False, noise: float = 0.01, seed: int = 1
) -> Run:
    """Records as a run would have them, with times from a seeded generator instead of a clock.

    The subject is `slower` by that share, and each of its texts comes `later` (seconds) than the one before it would,
    or all at the end (`buffered`). The machine drifts, and each request has its own `noise` (log-normal). For tests,
    which must not trust a clock.
    """
    rng = random.Random(seed)
    slots: list[Slot] = []
    samples: dict[int, list[Sample]] = {}
    for block, order in enumerate(williams_order(SYSTEMS, pairs, seed=1)):
        drift = 1 + 0.1 * block / pairs
        for place, key in enumerate(order):
            index = len(slots)
            factor = drift * (1 + slower if key == SUBJECT else 1.0)
            extra = later if key == SUBJECT else 0.0
            found: list[Sample] = []
            sent = 0
            for number in range(REQUESTS):
                prompt = fresh_prompt(block, number)
                usual = [TTFT_MS, *(GAP_MS for _ in range(N_OUT - 1))]
                waits = [ms * factor * rng.lognormvariate(0, noise) + extra * 1e3 for ms in usual]
                texts = [sent + round(ms * 1e6) for ms in itertools.accumulate(waits)]
                if buffered and key == SUBJECT:
                    texts = [texts[-1]] * N_OUT
                found.append(_sample(index, number, prompt, sent, texts))
                sent = texts[-1] + 2
            samples[index] = found
            slots.append(_slot(index, block, place, key, sent, [0, 0, 0], 0, no_delay=True))
    return _run(pairs, slots, samples, {key: str(number) for number, key in enumerate(SYSTEMS, 1)})


def _sample(slot: int, index: int, prompt: str, sent: int, texts: Sequence[int]) -> Sample:
    words = PlayedModel()({"prompt": prompt, "options": {"num_predict": len(texts)}}).words
    return Sample(
        slot=slot,
        index=index,
        prompt_sha=hashlib.sha256(prompt.encode()).hexdigest()[:16],
        t_sent=sent,
        t_headers=sent + 1,
        t_first_event=texts[0],
        t_end=texts[-1] + 1,
        status=200,
        reused=index > 0,
        n_prompt=len(prompt.split()),
        n_cached=0,
        n_out=len(texts),
        finish="length",
        received=1000,
        text="".join(words),
        texts=list(texts),
        lengths=[len(word) for word in words],
    )
