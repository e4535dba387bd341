"""`vllama show`: what a model is, in Ollama's sections."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from vllama.cli import humanize, options, reach
from vllama.cli.ollama_table import CELL_WIDTH, table
from vllama.cli.table import print_json, width
from vllama.errors import ConfigError

TEXT_LINES = 2
"""How many lines of a long text its section shows."""
TEXT_WIDTH = 100
ARRAY_WIDTH = 10
"""Cells that the shown elements of an array may take."""


def show_model(model: str, parts: Sequence[str], verbose: bool, host: str | None, as_json: bool) -> None:
    """Prints the sections, or only the one part that was asked for."""
    if len(parts) > 1:
        raise ConfigError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )
    with reach.server(host, needs_own_files=options.is_path(model)) as client:
        info = client.post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        print_json(info)
    elif parts:
        # Ollama ends these two with no line of their own, so that what is piped on is the text and nothing else.
        bare = parts[0] in ("system", "template") and not sys.stdout.isatty()
        print(info.get(parts[0]) or "", end="" if bare else "\n")
    else:
        print("\n".join(sections(info, verbose=verbose)))


def show_engine(model: str, host: str | None) -> None:
    """Prints one line: the engine that the server gives the model, and why, or why none."""
    with reach.server(host, needs_own_files=options.is_path(model)) as client:
        print(client.header("X-vLLama-Engine", "/api/show", {"model": model}) or "the server does not say")


def sections(info: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines for a body of /api/show."""
    lines: list[str] = []

    def section(title: str, rows: Iterable[Sequence[str]], cell_width: int = CELL_WIDTH) -> None:
        lines.extend((f"  {title}", *table(list(rows), indented=True, cell_width=cell_width), ""))

    facts = info.get("model_info") or {}
    section("Model", _model_rows(info, facts))
    if capabilities := info.get("capabilities"):
        section("Capabilities", ((name,) for name in capabilities))
    if projector := info.get("projector_info"):
        section("Projector", _projector_rows(projector))
    if parameters := info.get("parameters"):
        section("Parameters", (line.split() for line in parameters.splitlines() if line))
    if verbose and facts:
        section("Metadata", ((key, _short(facts[key])) for key in sorted(facts)))
    if verbose and (tensors := info.get("tensors")):
        section("Tensors", ((t["name"], t["type"], f"[{' '.join(map(str, t['shape']))}]") for t in tensors))
    for title in ("System", "License"):
        if text := info.get(title.lower()):
            section(title, _text_rows(text), TEXT_WIDTH)
    return lines


def _model_rows(info: dict[str, Any], facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    details = info.get("details") or {}
    if info.get("remote_host"):
        yield "Remote model", str(info.get("remote_model", ""))
        yield "Remote URL", str(info["remote_host"])
    architecture = facts.get("general.architecture") or ("" if facts else details.get("family")) or ""
    if architecture:
        yield "architecture", str(architecture)
    count = facts.get("general.parameter_count")
    size = details.get("parameter_size") or (humanize.number(int(count)) if count else "")
    if size:
        yield "parameters", str(size)
    for title, key in (("context length", "context_length"), ("embedding length", "embedding_length")):
        value = facts.get(f"{architecture}.{key}")
        if isinstance(value, int | float):
            yield title, str(int(value))
    yield "quantization", str(details.get("quantization_level") or "")
    if info.get("requires"):
        yield "requires", str(info["requires"])


def _projector_rows(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    architecture = facts.get("general.architecture") or ""
    if architecture:
        yield "architecture", str(architecture)
    if count := facts.get("general.parameter_count"):
        yield "parameters", humanize.number(int(count))
    for title, key in (("embedding length", "embedding_length"), ("dimensions", "projection_dim")):
        for kind in ("vision", "audio"):
            if (value := facts.get(f"{architecture}.{kind}.{key}")) is not None:
                yield title, str(int(value))
                break


def _text_rows(text: str) -> Iterable[tuple[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    yield from ((line,) for line in lines[:TEXT_LINES])
    if len(lines) > TEXT_LINES:
        yield ("...",)


def _short(value: Any) -> str:
    """A value of the metadata as Go prints it; of an array what fits into a few cells."""
    if not isinstance(value, list):
        return _go(value)
    texts = [_go(item) for item in value]
    shown, taken = 0, 1
    for number, text in enumerate(texts):
        wide = width(text) + (2 if number else 0)
        if number and taken + wide > ARRAY_WIDTH:
            break
        taken += wide
        shown += 1
    more = f" ...+{len(texts) - shown} more" if shown < len(texts) else ""
    return f"[{' '.join(texts[:shown])}{more}]"


def _go(value: Any) -> str:
    """Numbers are floats to Ollama's client, and Go writes those from a million up with an exponent."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float) or value == 0:
        return str(value)
    number = Decimal(repr(float(value))).normalize()
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return f"{number:f}"
    digits = "".join(map(str, number.as_tuple().digits))
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
