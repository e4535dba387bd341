"""Deterministic gates: what the gateway does for a request and a chunk, and what a start imports. No clock is involved.

Counts from `gateway_calls` (Python-level calls, bytes and writes per request and per chunk, with the scripted
engine) and the modules that `vllama.cli.main` and the worker import, against scenarios/budgets.toml. On a noisy machine
these see a change of one call in a hot path, which no clock there can.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from vllama.bench.exits import EXIT_MISSED, EXIT_OK
from vllama.errors import ConfigError

Costs = dict[str, dict[str, float]]
"""Section -> name -> number. A section is a path of the API, "modules" (ours and other packages') or "stdlib"."""

STARTS = ("vllama.cli.main", "vllama.engines.llama.worker")
SLACK = {"calls": 0.10, "bytes": 0.05, "writes": 0.0, "modules": 0.10, "stdlib": 0.30}
"""By how much a budget that is written exceeds what was counted. Bytes differ by the digits of times, and how many
modules the standard library has for one purpose by Python's version."""

_IMPORT = """
import sys
before = set(sys.modules)
import {}
new = set(sys.modules) - before
own = [name for name in new if name.partition(".")[0] not in sys.stdlib_module_names]
print(len(own), len(new) - len(own))
"""
_HEAD = """\
# The most that the gateway may do for a request and for each further chunk (Python-level calls of vLLama's own
# functions, bytes of the body, writes), and the most modules that a start may import. Counted, not timed.
# Write it again after a deliberate change: python -m vllama.bench costs --write
"""


async def count() -> Costs:
    """Count everything, in processes of their own. Raises `ConfigError` where one fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "VLLAMA_"))}
    # No second answer may stop before the first: the length is the request's alone.
    clean |= {"VLLAMA_SCRIPTED_LENGTH": "100000", "PYTHONHASHSEED": "0"}
    found: Costs = json.loads(await _output(["-m", "vllama.bench.gateway_calls"], clean))
    found["modules"], found["stdlib"] = {}, {}
    for name in STARTS:
        own, standard = (await _output(["-c", _IMPORT.format(name)], clean)).split()
        found["modules"][name], found["stdlib"][name] = float(own), float(standard)
    return found


async def _output(arguments: list[str], env: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise ConfigError(f"{' '.join(arguments)} failed: {err.decode(errors='replace')[-1000:]}")
    return out.decode()


def read_budgets(path: Path) -> Costs:
    """The committed budgets. Raises `ConfigError` naming the file."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return {section: {name: float(n) for name, n in table.items()} for section, table in raw.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"cannot read {path.name}: {error}") from error


def budgets_for(found: Costs) -> Costs:
    """What was counted, with slack, rounded up."""
    return {
        section: {name: float(math.ceil(n * (1 + _slack(section, name)) - 1e-9)) for name, n in table.items()}
        for section, table in found.items()
    }


def _slack(section: str, name: str) -> float:
    return SLACK[section] if section in SLACK else SLACK[name.rpartition("_")[2]]


def render(budgets: Costs) -> str:
    """The budgets as TOML."""
    tables = [
        "\n".join([f'["{section}"]', *(f'"{name}" = {n:g}' for name, n in table.items())])
        for section, table in budgets.items()
    ]
    return _HEAD + "\n" + "\n\n".join(tables) + "\n"


def exceeded(found: Costs, budgets: Costs) -> list[str]:
    """What is above its budget or has none, and budgets of things that were not counted."""
    problems = []
    for section, table in found.items():
        for name, number in table.items():
            budget = budgets.get(section, {}).get(name)
            if budget is None:
                problems.append(f"{section} {name}: no budget")
            elif number > budget:
                problems.append(f"{section} {name}: {number:g} is above {budget:g}")
    for section, table in budgets.items():
        problems += [f"{section} {name}: not counted" for name in table if name not in found.get(section, {})]
    return problems


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `costs`."""
    parser.add_argument("--write", action="store_true", help="write scenarios/budgets.toml from what is counted now")


async def main(args: argparse.Namespace, root: Path, say: Callable[[str], None]) -> int:
    """Count, print beside the budgets; 0 if nothing is above."""
    path = root / "scenarios" / "budgets.toml"
    found = await count()
    if args.write:
        path.write_text(render(budgets_for(found)), encoding="utf-8")
    budgets = read_budgets(path)
    for section, table in found.items():
        say(section)
        for name, number in table.items():
            say(f"  {name:<28} {number:>10.2f}   budget {budgets.get(section, {}).get(name, math.nan):g}")
    problems = exceeded(found, budgets)
    for problem in problems:
        say(f"MISSED {problem}")
    return EXIT_MISSED if problems else EXIT_OK
