"""What every kind of load gets and gives, and the few things that most of them do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllama.bench.client import Connection, Exchange
from vllama.bench.load import Sent, records
from vllama.bench.plan import Cell, Plan, Scenario
from vllama.bench.results import Sample
from vllama.bench.systems.base import Later, System
from vllama.bench.systems.http import HttpSystem


class NotApplicable(Exception):
    """The system cannot do this kind of load; the text says why, in the server's own words where it said something."""


@dataclass(frozen=True, slots=True)
class Job:
    """One slot to drive. `prompts` as `Plan.prompts` gives them; `seed` names the slot for anything drawn by chance."""

    plan: Plan
    scenario: Scenario
    cell: Cell
    prompts: Sequence[str]
    seed: str


@dataclass(slots=True)
class Outcome:
    """What a slot gave. `later` parses the answers after the slot. `no_delay`: every socket had TCP_NODELAY.
    `extra` are numbers of the slot that are not in any request, named with their unit."""

    later: Later
    no_delay: bool = True
    extra: dict[str, float] = field(default_factory=dict)


class Drive(Protocol):
    """The one function of a kind: sends the job's requests and returns when the last one ended."""

    def __call__(self, system: System, job: Job, /) -> Coroutine[Any, Any, Outcome]:
        """May raise `NotApplicable`, and what the system raises."""


class Wire:
    """The connections of one slot to one system, and what was sent on them, in the order of sending."""

    def __init__(self, system: System, *, port: int = 0, keep_alive: bool = True) -> None:
        if not isinstance(system, HttpSystem):
            raise NotApplicable("it has no server")
        self.system = system
        self.port = port or system.port
        self.keep_alive = keep_alive
        self.sent: list[Sent] = []
        self._open: list[Connection] = []
        self._idle: list[Connection] = []
        self._no_delay: list[bool] = []

    def greedy(
        self, prompt: str, n_out: int, *, stream: bool = True, keys: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, bytes]:
        """(path, body) of a plain request; `options` replace the system's own, `keys` are put into the body."""
        path, body = self.system.completion(prompt, n_out, stream=stream, **options)
        return path, with_keys(body, keys or {})

    async def send(self, request: tuple[str, bytes], prompt: str, *, cancel_after: int | None = None) -> Sent:
        """One request on a connection that is free, or a new one."""
        sent = Sent(Exchange(), prompt)
        self.sent.append(sent)
        connection = self._idle.pop() if self._idle else Connection(self.port, keep_alive=self.keep_alive)
        self._open.append(connection)
        path, body = request
        sent.exchange = await connection.request(
            path, body, timeout=self.system.setup.timeout, cancel_after=cancel_after
        )
        if connection.is_open or not self.keep_alive:
            self._no_delay.append(connection.no_delay)
        self._open.remove(connection)
        self._idle.append(connection)
        return sent

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self._open, *self._idle):
            connection.close()
        self._open, self._idle = [], []

    def outcome(self, n_out: int, **extra: float) -> Outcome:
        """The outcome of the slot, the requests in the order in which they were sent."""
        sent, system = list(self.sent), self.system

        def later(slot: int, t0: int) -> list[Sample]:
            return system.complete(records(sent, slot, t0), [one.prompt for one in sent], n_out)

        return Outcome(later, all(self._no_delay), extra)


@contextlib.asynccontextmanager
async def wire(system: System, *, keep_alive: bool = True) -> AsyncIterator[Wire]:
    """A `Wire` that is closed at the end. Raises `NotApplicable` for a system without a server."""
    made = Wire(system, keep_alive=keep_alive)
    try:
        yield made
    finally:
        made.close()


def with_keys(body: bytes, keys: dict[str, Any]) -> bytes:
    """A JSON object with more keys."""
    if not keys:
        return body
    return json.dumps({**json.loads(body), **keys}, ensure_ascii=False).encode()


async def wait_for(done: Callable[[], Awaitable[bool]], seconds: float, every: float) -> int:
    """The time in ns at which `done` was first seen true; 0 if it was not within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if await done():
            return time.monotonic_ns()
        await asyncio.sleep(every)
    return 0
