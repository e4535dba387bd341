"""The client against the truth: a golden server in a process of its own says when it really sent what.

Two parts. *Exact*: texts, token counts, ends and errors of awkward streams come back to the letter, or it fails.
*Timing*: the distribution of the client's error, idle and beside two busy threads. The errors at the 99th
percentile are the published bound: differences of times smaller than that are not the servers'.

    truth of first text     last byte of the first text handed to the socket - request in the server's kernel
    truth of a gap          between the same moments of neighbouring texts
    arrival                 from that moment to the client's stamp; a bound of the errors of both

The server keeps the moments before and after each write. The one before is the truth here, so the cost of the write
itself counts as the client's error. Where the two lie far apart (the server lost the CPU in between) the truth
is not known; such events are left out and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vllama.bench.client import Connection, Exchange, fetch
from vllama.bench.dialects import Reply, read_reply
from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.bench.golden import NAGLE_S, Script, golden_process
from vllama.errors import ConfigError

SCHEMA = 1
GOAL_MS = 0.5
"""The 99th percentile of the error at eight streams, nothing else running."""

WORDS = ("Grüße", " 東京", " 🙂", " plain", ' "quoted"\n', " data: x", " 0\r\n\r\n", " …")
STREAMS = 8
EVENTS = 64
GAP_S = 0.004
TTFT_S = 0.004
SHORT_STREAMS = 700
"""Streams of two texts for the error of first texts: a 99th percentile needs 500, and some have no certain truth."""

UNCERTAIN_NS = 200_000
Load = Literal["idle", "busy"]

_BURN = """
import hashlib, sys, threading
def burn():
    block = bytes(1 << 22)
    while True:
        hashlib.sha256(block).digest()
for _ in range(2):
    threading.Thread(target=burn, daemon=True).start()
sys.stdin.read()
"""
"""Two threads that hold the CPU and not the interpreter's lock, as an engine's threads do."""


@dataclass(frozen=True, slots=True)
class Case:
    """A stream and what must come of it. `marks`: several of its events share one read, and the client must say so."""

    name: str
    script: Script
    error: str = ""
    finish: str = "length"
    keep_alive: bool = True
    cancel_after: int | None = None
    marks: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        """(prompt tokens, output tokens) that must be read; -1 where the server does not say."""
        if not self.script.usage or self.error or self.cancel_after is not None:
            return -1, -1
        return self.script.n_prompt, len(self.script.words) if self.script.n_out < 0 else self.script.n_out

    @property
    def words(self) -> tuple[str, ...]:
        """The texts that must be read."""
        ends = (self.script.fail_after, self.script.hang_up_after, self.cancel_after)
        return (
            self.script.words[: min(e for e in ends if e is not None)]
            if any(e is not None for e in ends)
            else (self.script.words)
        )


CUT = "closed in the middle"
CASES = (
    Case("ndjson", Script(WORDS)),
    Case("sse", Script(WORDS, "sse")),
    Case("sse with CRLF", Script(WORDS, "sse-crlf")),
    Case("ndjson until close", Script(WORDS, chunked=False)),
    Case("cut inside a character, ndjson", Script(WORDS, split="utf8", pause=0.002)),
    Case("cut inside a character, sse", Script(WORDS, "sse", split="utf8", pause=0.002)),
    Case("an object over three segments", Script(WORDS, split="segments", pause=0.002)),
    Case("byte by byte", Script(WORDS[:3], "sse-crlf", split="byte")),
    Case("seven bytes at a time", Script(WORDS, split="odd")),
    Case("role-only first chunk", Script(WORDS, "sse", role_chunk=True, gap=0.002)),
    Case("two events a write", Script(WORDS, split="pairs", gap=0.002), marks=True),
    Case("bursts and a stall", Script(WORDS, gaps=(0.0, 0.0, 0.060, 0.0, 0.0, 0.002))),
    Case("half an event held back 40 ms", Script(WORDS[:3], "sse", nagle=True)),
    Case("more tokens than chunks", Script(WORDS, "sse", n_out=19)),
    Case("no counts, sse", Script(WORDS, "sse", usage=False)),
    Case("no counts, ndjson", Script(WORDS, usage=False)),
    Case("ended by the model", Script(WORDS, finish="stop"), finish="stop"),
    Case("a fresh connection each", Script(WORDS), keep_alive=False),
    Case("an error line in the stream", Script(WORDS, fail_after=3), error="scripted failure", finish=""),
    Case("cut off, ndjson", Script(WORDS, hang_up_after=2), error=CUT, finish=""),
    Case("cut off, sse", Script(WORDS, "sse", hang_up_after=2), error=CUT, finish=""),
    Case("cut off without framing", Script(WORDS, hang_up_after=2, chunked=False), error="without a last", finish=""),
    Case("cancelled after three events", Script(WORDS, gap=0.02), cancel_after=3, finish=""),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Absolute errors in ms: how many, median, 99th percentile and greatest.

    With fewer than 500 errors `p99` is the greatest: there is no 99th percentile to speak of.
    """

    n: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, errors_ns: Sequence[int]) -> Spread:
        """From ns. Raises ValueError without any."""
        if not errors_ns:
            raise ValueError("no errors to summarise: nothing was measured")
        found = sorted(abs(error) / 1e6 for error in errors_ns)
        last = len(found) - 1
        p99 = found[-(-99 * len(found) // 100) - 1] if len(found) >= 500 else found[last]
        return cls(len(found), round(found[last // 2], 4), round(p99, 4), round(found[last], 4))


@dataclass(frozen=True, slots=True)
class Timing:
    """The client's errors under one load. `coalesced` is the share of reads that brought several texts at once.

    `lag` is how long arrived bytes waited to be read: what the loop's own clock would have been wrong by. With kernel
    stamps it is known, and no part of the errors. `uncertain` is the share of texts whose true time is not known.
    """

    load: Load
    concurrency: int
    stamps: str
    ttft: Spread
    gap: Spread
    arrival: Spread
    lag: Spread | None
    coalesced: float
    uncertain: float
    wrong_counts: int
    requests: int


@dataclass(slots=True)
class Found:
    """What the command found: the exact cases with what was wrong ("" = nothing), and the errors."""

    cases: dict[str, str] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)

    def timing(self, load: Load, concurrency: int) -> Timing | None:
        """The errors under one load with the client's best stamps."""
        fits = [t for t in self.timings if t.load == load and t.concurrency == concurrency]
        return min(fits, key=lambda t: t.stamps != "kernel") if fits else None

    @property
    def bound_ms(self) -> dict[str, float]:
        """Load -> the greatest 99th percentile of the errors of first texts and gaps, over all concurrencies."""
        bounds: dict[str, float] = {}
        for load in ("idle", "busy"):
            for concurrency in (1, STREAMS):
                if (found := self.timing(load, concurrency)) is not None:
                    bounds[load] = max(bounds.get(load, 0.0), found.ttft.p99, found.gap.p99)
        return bounds

    def document(self) -> dict[str, Any]:
        """For selfcheck.json."""
        timings = [dataclasses.asdict(timing) for timing in self.timings]
        return {"schema": SCHEMA, "bound_ms": self.bound_ms, "cases": self.cases, "timings": timings}


def read_bound(path: Path) -> dict[str, float] | None:
    """The published bound in ms by load ("idle", "busy"); None where no selfcheck was kept."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(load): float(bound) for load, bound in document["bound_ms"].items()}
    except (OSError, ValueError, KeyError):
        return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `selfcheck`."""
    parser.add_argument("--requests", type=int, default=40, help="streams per load and concurrency (default 40)")
    parser.add_argument("--short", action="store_true", help="the exact cases and a glance at the timing, in seconds")
    parser.add_argument(
        "--strict", action="store_true", help=f"fail above {GOAL_MS:g} ms (p99, {STREAMS} streams, idle) too"
    )
    parser.add_argument("--out", type=Path, help="where to keep the result (default results/selfcheck.json)")


async def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Check, print, keep; 0 if everything exact came back and, with --strict, the goal is met."""
    if args.requests < 1:
        raise ConfigError("--requests must be at least 1")
    found = await check(args.requests, short=args.short)
    path = args.out or root / "results" / "selfcheck.json"
    if not args.short or args.out:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.document(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report(found, say, strict=args.strict)


async def check(requests: int = 40, *, short: bool = False) -> Found:
    """Everything: the exact cases, then the timing. `short` has few requests and leaves the busy machine out."""
    found = Found()
    async with golden_process() as port:
        for case in CASES:
            found.cases[case.name] = await _exact(port, case)
        loads: tuple[Load, ...] = ("idle",) if short else ("idle", "busy")
        for load in loads:
            async with _busy() if load == "busy" else contextlib.nullcontext():
                for concurrency in (1, STREAMS):
                    counts = (concurrency, concurrency) if short else (requests, SHORT_STREAMS)
                    found.timings.append(await _timing(port, load, concurrency, counts, kernel_stamps=True))
                    if not short and found.timings[-1].stamps == "kernel":
                        found.timings.append(await _timing(port, load, concurrency, counts, kernel_stamps=False))
    return found


def report(found: Found, say: Callable[[str], None], *, strict: bool) -> int:
    """Print; the exit status."""
    bad = {name: why for name, why in found.cases.items() if why}
    say(f"exact: {len(found.cases) - len(bad)} of {len(found.cases)} streams came back to the letter")
    for name, why in bad.items():
        say(f"  WRONG {name}: {why}")
    say("errors in ms: median / p99 / greatest")
    for timing in found.timings:
        say(f"  {timing.load}, c = {timing.concurrency}, {timing.stamps} stamps, {timing.gap.n} gaps")
        errors = (("first text", timing.ttft), ("gap", timing.gap), ("arrival", timing.arrival))
        for name, spread in (*errors, ("read late", timing.lag)):
            if spread is not None:
                say(f"    {name:<11} {spread.p50:.3f} / {spread.p99:.3f} / {spread.max:.3f}   n = {spread.n}")
        say(
            f"    {timing.coalesced:.1%} of reads with several texts, {timing.uncertain:.1%} of true times unknown, "
            f"{timing.wrong_counts} of {timing.requests} token counts wrong"
        )
    for load, bound in found.bound_ms.items():
        say(f"bound, {load}: {bound:.3f} ms")
    wrong = sum(timing.wrong_counts for timing in found.timings)
    goal = found.timing("idle", STREAMS)
    missed = goal is None or max(goal.ttft.p99, goal.gap.p99) > GOAL_MS
    say(f"goal, {STREAMS} streams idle, p99 at most {GOAL_MS:g} ms: {'MISSED' if missed else 'met'}")
    return EXIT_MISSED if bad or wrong or (strict and missed) else EXIT_OK


def _request(script: Script) -> tuple[str, bytes]:
    body = {"model": "golden", "prompt": "p", "golden": dataclasses.asdict(script)}
    path = "/api/generate" if script.shape in ("ndjson", "json") else "/v1/chat/completions"
    return path, json.dumps(body).encode()


async def _exact(port: int, case: Case) -> str:
    """Two requests over one connection; what is wrong with them, or ""."""
    connection = Connection(port, keep_alive=case.keep_alive)
    try:
        for number in range(2):
            path, body = _request(case.script)
            exchange = await connection.request(path, body, timeout=20, cancel_after=case.cancel_after)
            reply = read_reply(exchange)
            served = (await _served(port))[-1]
            if wrong := _compare(case, exchange, reply, served):
                return f"request {number + 1}: {wrong}"
            cut = case.script.hang_up_after is not None or case.cancel_after is not None
            may_reuse = case.keep_alive and case.script.chunked and not cut
            if exchange.reused != (number == 1 and may_reuse):
                return f"request {number + 1}: connection {'reused' if exchange.reused else 'not reused'}"
    finally:
        connection.close()
    return ""


def _compare(case: Case, exchange: Exchange, reply: Reply, served: Mapping[str, Any]) -> str:
    texts = tuple(text for _, text in reply.texts)
    if texts != case.words:
        return f"texts {texts!r} instead of {case.words!r}"
    if (reply.n_prompt, reply.n_out) != case.counts:
        return f"counts {(reply.n_prompt, reply.n_out)} instead of {case.counts}"
    if reply.finish != case.finish:
        return f"finish {reply.finish!r} instead of {case.finish!r}"
    if (case.error not in reply.error) if case.error else reply.error:
        return f"error {reply.error!r} instead of {case.error!r}"
    if exchange.cancelled != (case.cancel_after is not None):
        return f"cancelled is {exchange.cancelled}"
    if case.script.role_chunk and reply.t_first_event >= reply.texts[0][0]:
        return "the role-only chunk passes for the first text"
    arrivals = [arrival for arrival, _ in reply.texts]
    if arrivals != sorted(arrivals):
        return "times run backwards"
    if early := [i for i, (a, s) in enumerate(zip(arrivals, served["sent"], strict=False)) if a <= s]:
        return f"text {early[0]} arrives before it was sent"
    if case.marks and not exchange.coalesced:
        return "several events in one read are not marked"
    if case.script.nagle and any(b - a < 0.9e9 * NAGLE_S for a, b in itertools.pairwise(arrivals)):
        return "a text counts as arrived before its second half"
    return ""


async def _served(port: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await fetch(port, "/served")).body)
    return found


async def _timing(port: int, load: Load, concurrency: int, counts: tuple[int, int], *, kernel_stamps: bool) -> Timing:
    """Closed loops of `counts` long streams and streams of two texts; their stamps against the server's log."""
    scripts: list[Script] = []
    for events, count in zip((EVENTS, 2), counts, strict=True):
        for _ in range(count):
            index = len(scripts)
            # Uneven gaps, so that the streams do not march in step.
            gaps = tuple(GAP_S * (0.5 + ((7 * index + 3 * step) % 11) / 11) for step in range(events))
            words = tuple(f" w{i}" for i in range(events))
            scripts.append(Script(words, ("ndjson", "sse")[index % 2], ttft=TTFT_S, gaps=gaps, n_prompt=index))
    pending = iter(enumerate(scripts))
    done: dict[int, Exchange] = {}

    async def stream() -> None:
        connection = Connection(port, kernel_stamps=kernel_stamps)
        try:
            for index, script in pending:
                done[index] = await connection.request(*_request(script), timeout=60)
        finally:
            connection.close()

    before = len(await _served(port))
    gc.collect()
    gc.disable()
    try:
        await asyncio.gather(*(stream() for _ in range(concurrency)))
    finally:
        gc.enable()
    served = {entry["body"]["golden"]["n_prompt"]: entry for entry in (await _served(port))[before:]}
    return _errors(load, concurrency, done, served)


def _errors(
    load: Load, concurrency: int, done: Mapping[int, Exchange], served: Mapping[int, Mapping[str, Any]]
) -> Timing:
    ttft: list[int] = []
    gap: list[int] = []
    arrival: list[int] = []
    lags: list[int] = []
    wrong = coalesced = reads = unknown = 0
    stamps = set()
    for index, exchange in done.items():
        reply, truth = read_reply(exchange), served[index]
        stamps.add(exchange.stamps)
        lags += exchange.lags
        coalesced += len(exchange.coalesced)
        reads += len(exchange.pieces)
        sent = truth["sent"]
        events = len(truth["body"]["golden"]["words"])
        if reply.error or len(reply.texts) != len(sent) or (reply.n_prompt, reply.n_out) != (index, events):
            wrong += 1
            continue
        known = [after - before <= UNCERTAIN_NS for before, after in zip(sent, truth["sent_after"], strict=True)]
        unknown += known.count(False)
        seen = [time for time, _ in reply.texts]
        late = [a - s for a, s in zip(seen, sent, strict=True)]
        arrival += itertools.compress(late, known)
        both = [all(pair) for pair in itertools.pairwise(known)]
        gap += itertools.compress((y - x for x, y in itertools.pairwise(late)), both)
        if known[0]:
            # Without a kernel stamp at the server: the request was on its way since the write, at the latest.
            ttft.append((seen[0] - exchange.t_sent) - (sent[0] - (truth["received"] or exchange.t_written)))
    return Timing(
        load,
        concurrency,
        stamps.pop() if len(stamps) == 1 else "mixed",
        Spread.of(ttft),
        Spread.of(gap),
        Spread.of(arrival),
        Spread.of(lags) if lags else None,
        round(coalesced / max(1, reads), 5),
        round(unknown / max(1, unknown + len(arrival)), 5),
        wrong,
        len(done),
    )


@contextlib.asynccontextmanager
async def _busy() -> AsyncIterator[None]:
    """Two threads of another process that never rest."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _BURN, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    try:
        await asyncio.sleep(0.3)
        yield
    finally:
        process.stdin.close()
        await process.wait()
