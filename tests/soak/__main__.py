"""Random requests for ten minutes: `python -m tests.soak [--seconds N] [--clients N] [--seed N]`.

Clients submit prompts of random lengths with random contexts, limits, formats and embeddings; they leave early, read
slowly, or wait. Exit status 1 when a request is lost (neither an end nor an error nor our own leaving), an answer is
not what was asked for, a worker died, something still runs at the end, or memory grew by more than 3 % after the first
third of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.integration.conftest import MODEL, Server, free_port

GROWTH = 0.03

JUDGED_S = 300.0
"""Seconds of a run from which its growth counts."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
WORDS = "the sea was calm and a boat went out before the sun came up over the hills of the old town".split()


class Soak:
    """Counts what happened; `wrong` lists what should not have."""

    def __init__(self, client: httpx.AsyncClient, draw: random.Random, ends: float) -> None:
        self.client = client
        self.draw = draw
        self.ends = ends
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.embeds = True

    async def run(self, clients: int) -> None:
        """Until the time is over and every request has ended."""
        await asyncio.gather(*(self._client() for _ in range(clients)))

    async def _client(self) -> None:
        while time.monotonic() < self.ends:
            work = self.draw.choices(
                (self._generate, self._leave, self._format, self._slow, self._embed, self._rest),
                (10, 5, 3, 1, 1, 2),
            )[0]
            try:
                await work()
            except httpx.HTTPError as error:
                self.wrong.append(f"{work.__name__}: lost: {type(error).__name__} {error}")

    def _body(self) -> dict[str, Any]:
        draw = self.draw
        prompt = " ".join(draw.choice(WORDS) for _ in range(draw.choice((3, 20, 150, 600))))
        if draw.random() < 0.4:
            prompt = "You are a sailor who tells stories. " * 15 + prompt
        options: dict[str, Any] = {
            "num_ctx": draw.choice((256, 1024, 2048, 4096)),
            "num_predict": draw.choice((1, 5, 20, 60)),
            "temperature": draw.choice((0, 0.8, 1.5)),
            "seed": draw.randrange(1 << 30),
        }
        if draw.random() < 0.2:
            options["repeat_penalty"] = 1.2
        if draw.random() < 0.1:
            options["stop"] = ["sea"]
        return {"model": MODEL, "prompt": prompt, "options": options}

    async def _generate(self) -> None:
        body = self._body()
        reply = await self.client.post("/api/generate", json=body | {"stream": False})
        answer = reply.json()
        if reply.status_code != 200 or not answer.get("done"):
            self.wrong.append(f"generate: {reply.status_code} {str(answer)[:200]}")
        elif answer["eval_count"] > body["options"]["num_predict"]:
            self.wrong.append(f"generate: {answer['eval_count']} tokens, {body['options']} asked for")
        self.counts["generate"] += 1

    async def _leave(self) -> None:
        body = self._body()
        body["options"]["num_predict"] = 500
        takes = self.draw.choice((0, 1, 3, 20))
        if not takes:
            task = asyncio.create_task(self.client.post("/api/generate", json=body | {"stream": False}))
            await asyncio.sleep(self.draw.random() * 0.3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            async with self.client.stream("POST", "/api/generate", json=body) as reply:
                async for line in reply.aiter_lines():
                    if "error" in json.loads(line):
                        self.wrong.append(f"leave: {line[:200]}")
                    takes -= 1
                    if takes <= 0:
                        break
        self.counts["leave"] += 1

    async def _format(self) -> None:
        body = self._body()
        body["options"]["num_predict"] = 100
        wanted = self.draw.choice(("json", SCHEMA))
        reply = await self.client.post("/api/generate", json=body | {"stream": False, "format": wanted})
        answer = reply.json()
        if reply.status_code != 200:
            self.wrong.append(f"format: {reply.status_code} {str(answer)[:200]}")
        elif answer["done_reason"] == "stop" and "stop" not in body["options"]:
            try:
                json.loads(answer["response"])
            except ValueError:
                self.wrong.append(f"format: no JSON: {answer['response'][:200]}")
        self.counts["format"] += 1

    async def _slow(self) -> None:
        last = ""
        async with self.client.stream("POST", "/api/generate", json=self._body()) as reply:
            async for line in reply.aiter_lines():
                last = line
                await asyncio.sleep(0.05)
        if not json.loads(last).get("done"):
            self.wrong.append(f"slow: {last[:200]}")
        self.counts["slow"] += 1

    async def _embed(self) -> None:
        if not self.embeds:
            return
        inputs = [" ".join(self.draw.choices(WORDS, k=self.draw.choice((3, 40, 120)))) for _ in range(4)]
        reply = await self.client.post("/api/embed", json={"model": MODEL, "input": inputs})
        if reply.status_code != 200:
            # Not there, or not for this kind of model.
            self.embeds = False
            self.counts[f"embed refused {reply.status_code}"] += 1
        elif len(reply.json()["embeddings"]) != 4:
            self.wrong.append("embed: not four vectors")
        else:
            self.counts["embed"] += 1

    async def _rest(self) -> None:
        await asyncio.sleep(self.draw.random())


def pss(server: Server) -> int:
    """Bytes of the whole tree, shared pages counted in parts."""
    total = 0
    for process in (psutil.Process(server.process.pid), *server.workers()):
        info = process.memory_full_info()
        total += getattr(info, "pss", info.uss)
    return total


async def soak(server: Server, seconds: float, clients: int, seed: int) -> int:
    """Exit status."""
    samples: list[tuple[float, int]] = []
    began = time.monotonic()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        work = Soak(client, random.Random(seed), began + seconds)
        running = asyncio.create_task(work.run(clients))
        while not running.done():
            await asyncio.wait({running}, timeout=min(5.0, seconds / 20))
            if server.workers():
                samples.append((time.monotonic() - began, pss(server)))
        await running
        for _ in range(100):
            text = (await client.get("/metrics")).text
            left = [line for line in text.splitlines() if line.startswith("vllama_num_requests_")]
            if all(line.endswith(" 0") for line in left):
                break
            await asyncio.sleep(0.1)
        else:
            work.wrong.append(f"still there: {left}")
    crashes = [line for line in text.splitlines() if line.startswith("vllama_worker_crashes_total")]
    if not crashes or not all(line.endswith(" 0") for line in crashes):
        work.wrong.append(f"a worker died: {crashes}\n{server.log.read_text()[-2000:]}")
    steady = [size for at, size in samples if at > seconds / 3]
    part = max(1, len(steady) // 4)
    first, last = statistics.median(steady[:part]), statistics.median(steady[-part:])
    growth = last / first - 1
    print(f"{dict(work.counts)}; PSS {first / 1e6:.0f} -> {last / 1e6:.0f} MB ({growth:+.1%})")
    # A short run is still filling its memory for the first time: it can only tell of lost requests.
    if growth > GROWTH and seconds >= JUDGED_S:
        work.wrong.append(f"memory grew by {growth:.1%}")
    for line in work.wrong[:20]:
        print("WRONG:", line)
    return 1 if work.wrong else 0


def start(directory: Path) -> Server:
    """The server with workers that check themselves."""
    import subprocess

    url = f"http://127.0.0.1:{free_port()}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "VLLAMA_"))}
    env = keep | {"OLLAMA_MODELS": str(directory / "models"), "OLLAMA_HOST": url}
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = start(Path(directory))
        try:
            return asyncio.run(soak(server, arguments.seconds, arguments.clients, arguments.seed))
        finally:
            server.stop(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
