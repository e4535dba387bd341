"""Two models that generate at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

from vllama.bench.loads.base import Job, NotApplicable, Outcome, wire, with_keys
from vllama.bench.loads.native import native
from vllama.bench.systems.base import System
from vllama.bench.systems.http import HttpSystem

SECOND = "bench-second:latest"
_NAME = b"general.name"


async def make_second(system: System) -> None:
    """Give the server a second model: the plan's file with one letter of its name changed, so that it is as much work
    and yet another model for everybody. Raises `NotApplicable` if the server does not take it."""
    http = native(system)
    data = await asyncio.to_thread(renamed, http.setup.gguf)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    await _must(http, f"/api/blobs/{digest}", data)
    files = {"model": SECOND, "files": {"second.gguf": digest}, "template": "{{ .Prompt }}", "stream": False}
    await _must(http, "/api/create", json.dumps(files).encode())


async def drive(system: System, job: Job) -> Outcome:
    """The first half of the prompts one after the other, by the two models in turn (role "alone"); then the second half
    at once (role "together"). The second model leaves afterwards."""
    http = native(system)
    await _keep(http, -1)
    half = len(job.prompts) // 2
    async with wire(http) as line:

        async def ask(index: int, role: str) -> None:
            prompt = job.prompts[index]
            keys = {"model": SECOND} if index % 2 else {}
            sent = await line.send(line.greedy(prompt, job.cell.n_out, keys=keys), prompt)
            sent.role, sent.extra["model"] = role, float(index % 2)

        for index in range(half):
            await ask(index, "alone")
        await asyncio.gather(*(ask(index, "together") for index in range(half, 2 * half)))
        outcome = line.outcome(job.cell.n_out)
    await _keep(http, 0)
    return outcome


def renamed(path: Path) -> bytes:
    """The bytes of a GGUF whose general.name ends in another letter. Raises `NotApplicable` if it has no name.

    After the key come the type of the value (4 bytes, 8 for a string), its length (8 bytes) and its bytes.
    """
    data = bytearray(path.read_bytes())
    key = data.find(_NAME)
    start = key + len(_NAME) + 12
    length = int.from_bytes(data[start - 8 : start], "little")
    if key < 0 or data[start - 12 : start - 8] != b"\x08\0\0\0" or not 0 < length < 1000:
        raise NotApplicable("the model's file has no name that could be changed")
    last = start + length - 1
    data[last] = ord("x") if data[last] != ord("x") else ord("y")
    return bytes(data)


async def _keep(http: HttpSystem, keep_alive: int) -> None:
    """Load the second model with the settings of the measured requests, or let it go."""
    _, body = http.completion("", 1, stream=False)
    await _must(http, "/api/generate", with_keys(body, {"model": SECOND, "keep_alive": keep_alive}))


async def _must(http: HttpSystem, path: str, body: bytes) -> None:
    exchange = await http.fetch(path, body)
    if exchange.error or exchange.status not in (200, 201):
        raise NotApplicable(f"{path} was answered {exchange.error or exchange.status}: {exchange.body[:200]!r}")
