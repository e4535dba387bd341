"""Conversations through the chat route: every turn sends all the turns before it again, as clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from vllama.bench.dialects import read_reply
from vllama.bench.loads.base import Job, Outcome, Wire, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """`concurrency` conversations at once, `turns` turns each, with the system's own answers in between.

    Roles "turn1", "turn2", ...; an answer may end by itself, because a chat template invites it to.
    """
    turns = job.scenario.turns
    async with wire(system) as line:
        await asyncio.gather(
            *(
                _converse(line, job.prompts[client * turns : (client + 1) * turns], job.cell.n_out)
                for client in range(job.cell.concurrency)
            )
        )
        return line.outcome(job.cell.n_out)


async def _converse(line: Wire, says: Sequence[str], n_out: int) -> None:
    messages: list[dict[str, str]] = []
    for turn, text in enumerate(says, 1):
        messages.append({"role": "user", "content": text})
        request = line.system.chat(messages, n_out, stream=True)
        sent = await line.send(request, json.dumps(messages, ensure_ascii=False))
        sent.role, sent.n_asked, sent.reuses = f"turn{turn}", -1, turn > 1
        # The next turn needs this answer, so it is parsed here: nobody's clock runs between two turns.
        reply = read_reply(sent.exchange)
        if reply.error:
            break
        messages.append({"role": "assistant", "content": reply.text})
