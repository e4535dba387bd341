"""`/metrics`: counters and gauges in Prometheus' text format. See docs/http.md for the list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vllama import __version__
from vllama.api.http import Endpoint, Receive, Scope, Send, send_json
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.core.counters import Counters
    from vllama.core.residency import Loaded
    from vllama.core.service import Service
    from vllama.engines.base import EngineStats

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

STATS_TIMEOUT_S = 2.0
"""A worker answers between two steps; a scrape does not wait for a long one, and leaves its gauges out."""

_Sample = tuple[str, dict[str, str], float]


def metrics(service: Service) -> Endpoint:
    """One scrape."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        loaded = service.residency.loaded()
        found = await asyncio.gather(*(_stats(row) for row in loaded))
        text = render(service.residency.counters, list(zip(loaded, found, strict=True)))
        await send_json(send, 200, text.encode(), CONTENT_TYPE)

    return endpoint


async def _stats(row: Loaded) -> EngineStats | None:
    if row.handle is None:
        return None
    try:
        return await asyncio.wait_for(row.handle.stats(), STATS_TIMEOUT_S)
    except (TimeoutError, VllamaError):
        return None


def render(counters: dict[str, Counters], loaded: list[tuple[Loaded, EngineStats | None]]) -> str:
    """The whole text. Families come in a fixed order, each with its help and type."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> None:
        rows = [f"{name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in samples]
        if rows:
            lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows))

    family("vllama_build_info", "gauge", "The version that runs.", [("", {"version": __version__}, 1)])
    known = sorted(counters.items())
    family(
        "vllama_requests_total",
        "counter",
        "Requests by how they ended.",
        [
            ("", {"model": model, "outcome": outcome}, count)
            for model, entry in known
            for outcome, count in sorted(entry.requests.items())
        ],
    )
    for name, text, field, scale in (
        ("vllama_prompt_tokens_total", "Tokens of prompts, cached ones included.", "prompt_tokens", 1),
        ("vllama_prompt_tokens_cached_total", "Tokens of prompts that came from the prefix cache.", "cached_tokens", 1),
        ("vllama_generation_tokens_total", "Tokens generated.", "output_tokens", 1),
        ("vllama_prompt_seconds_total", "Time from admission to the first token.", "prompt_ns", 1e-9),
        ("vllama_generation_seconds_total", "Time from the first token to the last.", "output_ns", 1e-9),
        ("vllama_model_loads_total", "Times the model was loaded.", "loads", 1),
        ("vllama_worker_crashes_total", "Times the model's worker died.", "crashes", 1),
    ):
        family(name, "counter", text, [("", {"model": m}, getattr(entry, field) * scale) for m, entry in known])
    rows = [({"model": row.model.name.shortest, "engine": row.engine}, row, stats) for row, stats in loaded]
    family("vllama_model_loaded", "gauge", "1 for each loaded model.", [("", labels, 1) for labels, _, _ in rows])
    family(
        "vllama_model_size_bytes",
        "gauge",
        "Weights and context of the loaded model.",
        [("", labels, row.size) for labels, row, _ in rows],
    )
    known_stats = [(labels, stats) for labels, _, stats in rows if stats is not None]
    for name, text, field in (
        ("vllama_num_requests_running", "Requests that are being computed.", "active"),
        ("vllama_num_requests_waiting", "Requests that wait for a sequence.", "waiting"),
        ("vllama_kv_cells", "Cells of the KV memory, one per token.", "kv_cells"),
        ("vllama_kv_cells_used", "Cells in use, prefix cache included.", "kv_used"),
        ("vllama_worker_resident_bytes", "Resident memory of the worker process.", "rss"),
    ):
        family(name, "gauge", text, [("", labels, getattr(stats, field)) for labels, stats in known_stats])
    family(
        "vllama_threads",
        "gauge",
        "Threads that the worker computes with just now.",
        [("", labels, stats.extra["threads"]) for labels, stats in known_stats if "threads" in stats.extra],
    )
    family(
        "vllama_kv_parked",
        "gauge",
        "Tokens of prefix cache kept outside the KV memory, in host memory or on disk.",
        [("", labels, stats.extra["kv_parked"]) for labels, stats in known_stats if "kv_parked" in stats.extra],
    )
    family(
        "vllama_decode_faults_total",
        "counter",
        "Decodes that the library refused or failed, since the model was loaded.",
        [("", labels, stats.extra["faults"]) for labels, stats in known_stats if "faults" in stats.extra],
    )
    for name, text, field in (
        ("vllama_step_tokens", "Tokens in one step of the batcher, since the model was loaded.", "step_tokens"),
        ("vllama_step_seconds", "Time of one step of the batcher, since the model was loaded.", "step_seconds"),
    ):
        family(name, "histogram", text, _histogram(known_stats, field))
    return "\n".join(lines) + "\n"


def _histogram(rows: list[tuple[dict[str, str], EngineStats]], field: str) -> list[_Sample]:
    samples: list[_Sample] = []
    for labels, stats in rows:
        if field not in stats.extra:
            continue
        bounds, counts, total = stats.extra[field]
        below = 0
        for bound, count in zip([*(f"{bound:g}" for bound in bounds), "+Inf"], counts, strict=True):
            below += count
            samples.append(("_bucket", {**labels, "le": bound}, below))
        samples.append(("_sum", labels, total))
        samples.append(("_count", labels, below))
    return samples


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.9g}"
