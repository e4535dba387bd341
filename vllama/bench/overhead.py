"""What the gateway costs: CPU time per request and per chunk, above a bare ASGI application in the same run.

Both servers stream the same lines with the same pauses to the same client, slot about slot in ABBA order. The gateway
runs the scripted engine, so there is no model, and the engine's own bookkeeping counts as the gateway's. Two answer
lengths per slot separate the cost of a request from that of a chunk.

Variants: a plain chat; the same with a tool, so that every text is searched for calls; with a template that lets the
model think, so that every text is a thought; and 256 plain streams at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import json
import os
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from vllama.bench import probe
from vllama.bench.client import fetch
from vllama.bench.dialects import read_reply
from vllama.bench.load import closed_loop
from vllama.bench.stats import Estimate, paired_location, relative_spread, williams_order
from vllama.bench.systems.base import SystemFailed, free_port

BUDGET_REQUEST_US = 150.0
BUDGET_CHUNK_US = 10.0
SHORT, LONG = 1, 65
STEP_US = 500
READY_S = 30.0
MANY = 256

TEMPLATES = {
    "tools": "{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .Role }}: {{ .Content }}"
    '{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}'
    "</tool_call>{{ end }}\n{{ end }}",
    "thinking": "{{ range .Messages }}{{ .Role }}: {{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}\n{{ end }}assistant: <think>",
}
"""Variant -> template of its model: what the parsers look for is inferred from it."""

TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When the tide is high.",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
    },
}
VARIANTS = ("plain", *TEMPLATES, "many")


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time in microseconds: of a request with one token, and of each further chunk."""

    request_us: float
    chunk_us: float


@dataclass(frozen=True, slots=True)
class Server:
    """A started server and the path and body of a request for each answer length."""

    name: str
    port: int
    pid: int
    requests: dict[int, tuple[str, bytes]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `overhead`."""
    parser.add_argument("--pairs", type=int, default=10, help="slots of each server (default 10)")
    parser.add_argument("--requests", type=int, default=200, help="requests of each length in a slot (default 200)")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--only", choices=VARIANTS, help="one variant; all without it")
    parser.add_argument("--no-budget", action="store_true", help="print only; do not fail when a budget is missed")


def chat_request(n_out: int, variant: str = "plain") -> tuple[str, bytes]:
    """A streamed chat that the scripted engine answers with `n_out` tokens: the route that clients use most."""
    more = {"tools": [TOOL]} if variant == "tools" else {}
    body = {
        **more,
        "model": variant if variant in TEMPLATES else "plain",
        "messages": [
            {"role": "system", "content": "You answer in short sentences."},
            {"role": "user", "content": "Say something about rivers, bridges and the people who live near them."},
        ],
        "options": {"num_predict": n_out, "temperature": 0.7, "seed": 1},
    }
    return "/api/chat", json.dumps(body).encode()


async def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Measure and print both costs of each variant; 0 if within the budgets, 1 if not."""
    missed = 0
    with tempfile.TemporaryDirectory(prefix="vllama-overhead-") as name:
        scratch = Path(name)
        async with _gateway(scratch, root) as plain:
            await _make_models(plain.port)
            for variant in (args.only,) if args.only else VARIANTS:
                gateway = replace(plain, requests={n: chat_request(n, variant) for n in (SHORT, LONG)})
                many = variant == "many"
                concurrency = MANY if many else args.concurrency
                requests = max(args.requests, 2 * MANY) if many else args.requests
                answers = {f"/{n}": await _lines(gateway, n) for n in (SHORT, LONG)}
                async with _bare(scratch, root, answers) as bare:
                    costs = await _measure([gateway, bare], args.pairs, requests, concurrency)
                say(
                    f"{variant}: CPU time, {args.pairs} ABBA pairs of {requests} streamed chats of {SHORT} and of "
                    f"{LONG} tokens, c = {concurrency}, {STEP_US} us between tokens"
                )
                missed |= _print(costs, args, say)
    return missed


async def _make_models(port: int) -> None:
    """A model for each of `TEMPLATES` and one without: a GGUF without weights, for the scripted engine needs none.

    Models of the store, as those of real servers: a name that is in none is looked for everywhere, each time.
    """
    key, value = b"general.architecture", b"llama"
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    raw += struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    requests = [(f"/api/blobs/{digest}", raw)]
    for name, template in {"plain": "", **TEMPLATES}.items():
        body = {"model": name, "files": {"model.gguf": digest}, "template": template, "stream": False}
        requests.append(("/api/create", json.dumps(body).encode()))
    for path, sent in requests:
        answer = await fetch(port, path, sent)
        if answer.status not in (200, 201):
            raise SystemFailed(f"{path}: {answer.body[:300]!r}")


async def _measure(servers: Sequence[Server], pairs: int, requests: int, concurrency: int) -> dict[str, list[Cost]]:
    by_name = {server.name: server for server in servers}
    costs: dict[str, list[Cost]] = {name: [] for name in by_name}
    for server in servers:
        await _slot(server, concurrency * 4, concurrency)
    for order in williams_order(list(by_name), pairs, seed=1):
        for name in order:
            costs[name].append(await _slot(by_name[name], requests, concurrency))
    return costs


async def _slot(server: Server, requests: int, concurrency: int) -> Cost:
    used = {}
    for length in (SHORT, LONG):
        gc.collect()
        gc.disable()
        before = probe.cpu_seconds([server.pid])
        exchanges, _ = await closed_loop(server.port, [server.requests[length]] * requests, concurrency, 60.0)
        used[length] = (probe.cpu_seconds([server.pid]) - before) * 1e6 / requests
        gc.enable()
        for exchange in exchanges:
            reply = read_reply(exchange)
            if reply.error or reply.n_out != length:
                raise SystemFailed(f"{server.name}: {reply.error or f'{reply.n_out} tokens instead of {length}'}")
    chunk = (used[LONG] - used[SHORT]) / (LONG - SHORT)
    return Cost(used[SHORT], chunk)


async def _lines(gateway: Server, n_out: int) -> list[str]:
    """The gateway's own answer, to be repeated by the bare application."""
    path, body = gateway.requests[n_out]
    exchange = await fetch(gateway.port, path, body)
    reply = read_reply(exchange)
    if reply.error or reply.n_out != n_out:
        raise SystemFailed(f"the scripted engine answered {reply.error or reply.n_out}")
    return exchange.body.decode().splitlines(keepends=True)


@contextlib.asynccontextmanager
async def _gateway(scratch: Path, root: Path) -> AsyncIterator[Server]:
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))} | {
        "HOME": str(scratch),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(scratch / "models"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "VLLAMA_SCRIPTED_STEP_US": str(STEP_US),
        "VLLAMA_SCRIPTED_LENGTH": "100000",
    }
    argv = [sys.executable, "-m", "vllama", "serve", "--engine", "scripted"]
    async with child(argv, env, scratch, "gateway", port) as pid:
        yield Server("gateway", port, pid, {n: chat_request(n) for n in (SHORT, LONG)})


@contextlib.asynccontextmanager
async def _bare(scratch: Path, root: Path, answers: dict[str, list[str]]) -> AsyncIterator[Server]:
    script = scratch / "answers.json"
    script.write_text(json.dumps({"step_us": STEP_US, "answers": answers}), encoding="utf-8")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2 * MANY)
        port = listener.getsockname()[1]
        argv = [sys.executable, "-m", "vllama.bench.bare_asgi", str(listener.fileno()), str(script)]
        async with child(argv, dict(os.environ), scratch, "bare", port, listener.fileno()) as pid:
            requests = {n: (f"/{n}", chat_request(n)[1]) for n in (SHORT, LONG)}
            yield Server("bare", port, pid, requests)


@contextlib.asynccontextmanager
async def child(argv: list[str], env: dict[str, str], cwd: Path, name: str, port: int, *fds: int) -> AsyncIterator[int]:
    """A started server that answers `/`, ended with the block; its process id."""
    log = cwd / f"{name}.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=env,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=fds,
            start_new_session=True,
        )
        try:
            for _ in range(int(READY_S / 0.1)):
                if process.returncode is not None:
                    break
                if (await fetch(port, "/", timeout=5)).status == 200:
                    yield process.pid
                    return
                await asyncio.sleep(0.1)
            raise SystemFailed(f"{name} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _print(costs: dict[str, list[Cost]], args: argparse.Namespace, say: Callable[[str], None]) -> int:
    missed = False
    for what, budget in (("request", BUDGET_REQUEST_US), ("chunk", BUDGET_CHUNK_US)):
        gateway, bare = ([float(getattr(cost, f"{what}_us")) for cost in costs[name]] for name in ("gateway", "bare"))
        above = paired_location([a - b for a, b in zip(gateway, bare, strict=True)])
        within = above.value <= budget
        missed = missed or not within
        say(
            f"  per {what:<8} gateway {_us(gateway)}   bare {_us(bare)}   above {_interval(above)} us   "
            f"budget {budget:g} us: {'within' if within else 'MISSED'}"
        )
    return int(missed and not args.no_budget)


def _us(found: Sequence[float]) -> str:
    return f"{median(found):7.1f} us ±{relative_spread(found):.1%}"


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.1f} (n = {found.n}, range {min(found.values):.1f} to {max(found.values):.1f})"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
