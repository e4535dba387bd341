"""Batches of texts to vectors."""

from __future__ import annotations

from vllama.bench.client import Exchange
from vllama.bench.dialects import Reply, read_reply
from vllama.bench.loads.base import Job, NotApplicable, Outcome, wire
from vllama.bench.systems.base import System

REFUSALS = (400, 404, 405, 500, 501)


async def drive(system: System, job: Job) -> Outcome:
    """`requests` batches of `inputs` texts, one after the other. All vectors must be there."""
    inputs = job.scenario.inputs
    async with wire(system) as line:
        for start in range(0, len(job.prompts), inputs):
            texts = list(job.prompts[start : start + inputs])
            sent = await line.send(line.system.embedding(texts), "\n".join(texts))
            sent.n_asked = -1
            sent.read = _Reader(len(texts))
            sent.outcome = "" if sent.read(sent.exchange).error else "embedded"
            sent.extra["inputs"] = len(texts)
        return line.outcome(job.cell.n_out)


async def try_it(system: System) -> None:
    """One text. Raises `NotApplicable` with the server's words if it does not embed with this model."""
    async with wire(system) as line:
        sent = await line.send(line.system.embedding(["Can you do this?"]), "")
        if sent.exchange.status in REFUSALS:
            raise NotApplicable(f"HTTP {sent.exchange.status}: {sent.exchange.body.decode('utf-8', 'replace')[:200]}")


class _Reader:
    """Counts the vectors in a response; their values are not kept."""

    def __init__(self, expected: int) -> None:
        self._expected = expected

    def __call__(self, exchange: Exchange) -> Reply:
        reply = read_reply(exchange)
        if not reply.error and reply.vectors != self._expected:
            reply.error = f"{reply.vectors} vectors for {self._expected} texts"
        reply.n_out = 0
        return reply
