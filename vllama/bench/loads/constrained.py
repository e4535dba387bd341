"""Answers that must follow a JSON schema."""

from __future__ import annotations

import json
from typing import Any

from vllama.bench.loads.base import Job, Outcome, wire
from vllama.bench.systems.base import System


async def drive(system: System, job: Job) -> Outcome:
    """One after the other. The length is what the schema and the model make of it; `valid` is 1 for whole JSON with
    the keys that the schema demands."""
    schema = json.loads(job.scenario.json_schema)
    async with wire(system) as line:
        for prompt in job.prompts:
            messages = [{"role": "user", "content": f"{prompt}\nAnswer in JSON."}]
            request = line.system.constrained(messages, schema, job.cell.n_out, stream=True)
            sent = await line.send(request, prompt)
            sent.n_asked = -1
            sent.judge = lambda text: {"valid": float(_follows(text, schema))}
        return line.outcome(job.cell.n_out)


def _follows(text: str, schema: dict[str, Any]) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(schema.get("required", ())) <= set(value)
