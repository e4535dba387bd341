"""What the clients of the soak do, and what they find wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import httpx

from tests.integration.conftest import MODEL
from tests.integration.minilm import NAME

SCHEMAS: tuple[Any, ...] = (
    "json",
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    },
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 2, "maxItems": 6},
)
WORDS = "the sea was calm and a boat went out before the sun came up over the hills of the old town".split()

LONGEST = 600
"""Words of the longest prompts."""

LEFT_AFTER = 500
"""Tokens that a request may have which its client leaves early."""

OPENING = "You are a sailor who tells stories. " * 15
"""A beginning that many prompts have in common."""


class Traffic:
    """Counts what happened; `wrong` lists what should not have. `sent` and `settled` differ by what is lost."""

    def __init__(self, client: httpx.AsyncClient, draw: random.Random, *, embeds: bool) -> None:
        self.client = client
        self.draw = draw
        self.embeds = embeds
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.sent = 0
        self.settled = 0

    async def fill(self, sequences: int) -> None:
        """Nothing later needs more memory than this does.

        As many of the largest requests at once as sequences run, three times: the last ones stay in the KV memory,
        those before fill what host memory may hold of prefix cache. And one of each other kind, which loads the other
        model and makes the tables of grammars.
        """
        await self._embed()
        await self._format()
        for _ in range(3):
            await asyncio.gather(*(self._large() for _ in range(sequences)))

    async def _large(self) -> None:
        words = self.draw.choices(WORDS, k=LONGEST + len(OPENING.split()))
        options = {"num_ctx": 4096, "num_predict": 20, "seed": 1}
        body = {"model": MODEL, "prompt": " ".join(words), "options": options, "stream": False}
        reply = await self.client.post("/api/generate", json=body)
        reply.raise_for_status()

    async def run(self, clients: int, seconds: float) -> None:
        """Until the time is over and every request has ended."""
        ends = time.monotonic() + seconds
        await asyncio.gather(*(self._client(ends) for _ in range(clients)))

    async def _client(self, ends: float) -> None:
        while time.monotonic() < ends:
            work = self.draw.choices(
                (self._generate, self._leave, self._format, self._slow, self._embed, self._rest),
                (10, 5, 3, 1, 1, 2),
            )[0]
            self.sent += 1
            try:
                await work()
            except (httpx.HTTPError, ValueError) as error:
                self.wrong.append(f"{work.__name__}: lost: {type(error).__name__} {error}")
            self.settled += 1
            self.counts[work.__name__.strip("_")] += 1

    def _body(self) -> dict[str, Any]:
        draw = self.draw
        prompt = " ".join(draw.choice(WORDS) for _ in range(draw.choice((3, 20, 150, LONGEST))))
        if draw.random() < 0.4:
            prompt = OPENING + prompt
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

    async def _leave(self) -> None:
        body = self._body()
        body["options"]["num_predict"] = LEFT_AFTER
        takes = self.draw.choice((0, 1, 3, 20))
        if not takes:
            task = asyncio.create_task(self.client.post("/api/generate", json=body | {"stream": False}))
            await asyncio.sleep(self.draw.random() * 0.3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        async with self.client.stream("POST", "/api/generate", json=body) as reply:
            async for line in reply.aiter_lines():
                if "error" in json.loads(line):
                    self.wrong.append(f"leave: {line[:200]}")
                takes -= 1
                if takes <= 0:
                    break

    async def _format(self) -> None:
        body = self._body()
        body["options"]["num_predict"] = 100
        wanted = self.draw.choice(SCHEMAS)
        reply = await self.client.post("/api/generate", json=body | {"stream": False, "format": wanted})
        answer = reply.json()
        if reply.status_code != 200:
            self.wrong.append(f"format: {reply.status_code} {str(answer)[:200]}")
        elif answer["done_reason"] == "stop" and "stop" not in body["options"]:
            try:
                json.loads(answer["response"])
            except ValueError:
                self.wrong.append(f"format: no JSON: {answer['response'][:200]}")

    async def _slow(self) -> None:
        last = "{}"
        async with self.client.stream("POST", "/api/generate", json=self._body()) as reply:
            async for line in reply.aiter_lines():
                last = line
                await asyncio.sleep(0.05)
        if not json.loads(last).get("done"):
            self.wrong.append(f"slow: {last[:200]}")

    async def _embed(self) -> None:
        if not self.embeds:
            return
        inputs = [" ".join(self.draw.choices(WORDS, k=self.draw.choice((3, 40, 120)))) for _ in range(4)]
        reply = await self.client.post("/api/embed", json={"model": NAME, "input": inputs})
        if reply.status_code != 200 or len(reply.json()["embeddings"]) != 4:
            self.wrong.append(f"embed: {reply.status_code} {reply.text[:200]}")

    async def _rest(self) -> None:
        await asyncio.sleep(self.draw.random())
