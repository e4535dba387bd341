"""What an OpenAI-compatible deployment says it has: GET /v1/models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllama.engines.completions.client import Address, Client
from vllama.errors import ServerError

HEALTH_S = 10.0
"""Seconds that a deployment may take to list its models."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One model there. `context` in tokens, 0 if unknown; `created` in seconds since 1970; `vllm`: vLLM serves it."""

    id: str
    context: int = 0
    created: int = 0
    vllm: bool = False


async def catalog(url: str, key: str) -> tuple[Listed, ...]:
    """The models of a deployment. Raises `VllamaError`."""
    client = Client(Address(url, key, retries=0, title="the upstream"))
    try:
        return listed(await client.fetch("/v1/models", timeout=HEALTH_S))
    finally:
        await client.close()


def listed(reply: Any) -> tuple[Listed, ...]:
    """The entries of a model list. Raises `ServerError` for anything else."""
    rows = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(rows, list):
        raise ServerError("the upstream's /v1/models lists no models")
    return tuple(
        Listed(row["id"], _whole(row.get("max_model_len")), _whole(row.get("created")), row.get("owned_by") == "vllm")
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"]
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
