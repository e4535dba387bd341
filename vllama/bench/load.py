"""Load shapes: how requests follow one another. What they say is the dialects' matter."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from vllama.bench.client import Connection, Exchange
from vllama.bench.dialects import Reply, read_reply
from vllama.bench.results import Sample


async def closed_loop(
    port: int, requests: Sequence[tuple[str, bytes]], concurrency: int, timeout: float
) -> tuple[list[Exchange], bool]:
    """Send (path, body) requests on `concurrency` keep-alive connections, each taking the next when its last one ended.

    Returns the exchanges in the order of `requests`, and whether every socket had TCP_NODELAY.
    """
    exchanges: list[Exchange | None] = [None] * len(requests)
    queue = iter(enumerate(requests))
    connections = [Connection(port) for _ in range(min(concurrency, len(requests)))]

    async def stream(connection: Connection) -> None:
        for index, (path, body) in queue:
            exchanges[index] = await connection.request(path, body, timeout=timeout)

    await asyncio.gather(*(stream(connection) for connection in connections))
    no_delay = all(connection.no_delay for connection in connections if connection.is_open)
    for connection in connections:
        connection.close()
    return [exchange for exchange in exchanges if exchange is not None], no_delay


@dataclass(slots=True)
class Sent:
    """One request that was sent, and what the record must know about it besides; see `results.Sample`.

    `t_sched` in ns on the monotonic clock, 0 = as soon as possible. `read` makes a `Reply` of the exchange. `judge`
    looks at the text after the slot and gives further numbers.
    """

    exchange: Exchange
    prompt: str
    role: str = ""
    t_sched: int = 0
    n_asked: int = 0
    outcome: str = ""
    reuses: bool = False
    loads: bool = False
    read: Callable[[Exchange], Reply] = read_reply
    judge: Callable[[str], dict[str, float]] | None = None
    extra: dict[str, float] = field(default_factory=dict)


def samples_of(exchanges: Sequence[Exchange], prompts: Sequence[str], slot: int, t0: int) -> list[Sample]:
    """Parse the exchanges of a slot that began at `t0`."""
    return records([Sent(exchange, prompt) for exchange, prompt in zip(exchanges, prompts, strict=True)], slot, t0)


def records(sent: Sequence[Sent], slot: int, t0: int) -> list[Sample]:
    """Parse what came back in a slot that began at `t0`, in the order of `sent`."""

    def since(t: int) -> int:
        return t - t0 if t else -1

    samples = []
    for index, one in enumerate(sent):
        exchange = one.exchange
        reply = one.read(exchange)
        judged = one.judge(reply.text) if one.judge is not None else {}
        samples.append(
            Sample(
                slot=slot,
                index=index,
                prompt_sha=hashlib.sha256(one.prompt.encode()).hexdigest()[:16],
                t_sent=since(exchange.t_sent),
                t_headers=since(exchange.t_headers),
                t_first_event=since(reply.t_first_event),
                t_end=since(exchange.t_end),
                status=exchange.status,
                reused=exchange.reused,
                n_prompt=reply.n_prompt,
                n_cached=reply.n_cached,
                n_out=reply.n_out,
                finish=reply.finish,
                received=exchange.received,
                text=reply.text,
                # A response that the client cut or the server refused, as it was meant to, is no failure.
                error="" if one.outcome else reply.error,
                reconnected=exchange.reconnected,
                native=reply.native,
                texts=[since(t) for t, _ in reply.texts],
                lengths=[len(text) for _, text in reply.texts],
                t_sched=since(one.t_sched),
                role=one.role,
                n_asked=one.n_asked,
                outcome=one.outcome,
                reuses=one.reuses,
                loads=one.loads,
                stamps=exchange.stamps,
                coalesced=len(exchange.coalesced),
                extra={**one.extra, **judged},
            )
        )
    return samples


class LagMeter:
    """Measures how late the client's own event loop wakes up while a slot runs: an error bound of its stamps."""

    def __init__(self, interval: float = 0.02) -> None:
        self._interval = interval
        self._late: list[int] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LagMeter:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            due = time.monotonic_ns() + round(self._interval * 1e9)
            await asyncio.sleep(self._interval)
            self._late.append(max(0, time.monotonic_ns() - due))

    @property
    def summary(self) -> list[int]:
        """[median, p99, max] in ns; empty if the slot was shorter than one tick."""
        if not self._late:
            return []
        late = sorted(self._late)
        return [late[len(late) // 2], late[min(len(late) - 1, len(late) * 99 // 100)], late[-1]]
