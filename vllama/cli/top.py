"""`vllama top`: the loaded models with what they do just now, again and again."""

from __future__ import annotations

import re
import sys
import time

from vllama.cli import humanize, reach
from vllama.cli.client import Client
from vllama.cli.listing import until
from vllama.cli.table import columns, print_json

_SAMPLE = re.compile(r'^(vllama_\w+)\{model="((?:[^"\\]|\\.)*)"[^}]*\} (\S+)$', re.MULTILINE)
HEADER = ("NAME", "SIZE", "RUNNING", "WAITING", "TOK/S", "PROMPT TOK/S", "CONTEXT USED", "UNTIL")
Row = dict[str, object]


def watch(host: str | None, interval_s: float, as_json: bool) -> None:
    """Draws anew every interval until Ctrl+C; without a terminal, or as JSON, once after one interval."""
    with reach.running(host) as client:
        before, at = _samples(client), time.monotonic()
        while True:
            time.sleep(interval_s)
            now, later = _samples(client), time.monotonic()
            rows = table(client.get("/api/ps").get("models") or [], before, now, later - at)
            if as_json:
                print_json({"models": rows})
                return
            if not sys.stdout.isatty():
                print("\n".join(_lines(rows)))
                return
            print("\x1b[H\x1b[2J" + "\n".join(_lines(rows)), flush=True)
            before, at = now, later


def _samples(client: Client) -> dict[tuple[str, str], float]:
    return read_samples(client.text("/metrics"))


def read_samples(text: str) -> dict[tuple[str, str], float]:
    """(family, model) to value, of every sample whose first label is a model."""
    return {(name, model): float(value) for name, model, value in _SAMPLE.findall(text)}


def table(
    models: list[dict[str, object]],
    before: dict[tuple[str, str], float],
    now: dict[tuple[str, str], float],
    seconds: float,
) -> list[Row]:
    """A row for each loaded model; rates are tokens per second between the two readings."""

    def rate(family: str, name: str) -> float:
        grown = now.get((family, name), 0.0) - before.get((family, name), 0.0)
        return round(max(0.0, grown) / seconds, 1) if seconds > 0 else 0.0

    rows = []
    for model in models:
        name = str(model["name"])
        cells = now.get(("vllama_kv_cells", name), 0.0)
        rows.append(
            {
                "name": name,
                "size": model.get("size", 0),
                "running": int(now.get(("vllama_num_requests_running", name), 0)),
                "waiting": int(now.get(("vllama_num_requests_waiting", name), 0)),
                "tokens_per_s": rate("vllama_generation_tokens_total", name),
                "prompt_tokens_per_s": rate("vllama_prompt_tokens_total", name),
                "context_used": round(now.get(("vllama_kv_cells_used", name), 0.0) / cells, 3) if cells else 0.0,
                "until": until(model),
            }
        )
    return rows


def _lines(rows: list[Row]) -> list[str]:
    shown = [
        (
            str(row["name"]),
            humanize.size(int(str(row["size"]))),
            str(row["running"]),
            str(row["waiting"]),
            f"{row['tokens_per_s']}",
            f"{row['prompt_tokens_per_s']}",
            f"{float(str(row['context_used'])):.0%}",
            str(row["until"]),
        )
        for row in rows
    ]
    return columns([HEADER, *shown])
