"""`vllama show`: what a model is, in Ollama's sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vllama.cli import humanize, options, reach
from vllama.cli.table import columns, print_json
from vllama.errors import ConfigError

TEXT_LINES = 2
"""How many lines of a long text its section shows."""


def show_model(model: str, parts: Sequence[str], verbose: bool, host: str | None, as_json: bool) -> None:
    """Prints the sections, or only the one part that was asked for."""
    if len(parts) > 1:
        raise ConfigError("only one of --license, --modelfile, --parameters, --template and --system can be given")
    with reach.server(host, needs_own_files=options.is_path(model)) as client:
        info = client.post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        print_json(info)
    elif parts:
        print(str(info.get(parts[0]) or "").rstrip("\n"))
    else:
        print("\n".join(sections(info, verbose=verbose)))


def sections(info: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines for a body of /api/show."""
    lines: list[str] = []

    def section(title: str, rows: Iterable[Sequence[str]]) -> None:
        listed = list(rows)
        if listed:
            lines.extend((f"  {title}", *columns(listed, "    "), ""))

    facts = info.get("model_info") or {}
    section("Model", _model_rows(info, facts))
    section("Capabilities", ((name,) for name in info.get("capabilities") or ()))
    section("Projector", _model_rows({"details": {}}, info.get("projector_info") or {}))
    section("Parameters", (line.split(None, 1) for line in (info.get("parameters") or "").splitlines() if line.strip()))
    if verbose:
        section("Metadata", ((key, _short(facts[key])) for key in sorted(facts)))
        tensors = info.get("tensors") or ()
        section("Tensors", ((t["name"], t["type"], "x".join(map(str, t["shape"]))) for t in tensors))
    section("System", _text_rows(info.get("system") or "", verbose))
    section("License", _text_rows(info.get("license") or "", verbose))
    return lines


def _model_rows(info: dict[str, Any], facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    details = info.get("details") or {}
    architecture = facts.get("general.architecture") or details.get("family") or ""
    if architecture:
        yield "architecture", str(architecture)
    count = facts.get("general.parameter_count")
    size = humanize.number(int(count)) if count else details.get("parameter_size")
    if size:
        yield "parameters", str(size)
    for title, key in (("context length", "context_length"), ("embedding length", "embedding_length")):
        value = facts.get(f"{architecture}.{key}")
        if value:
            yield title, str(int(value))
    if details.get("quantization_level"):
        yield "quantization", str(details["quantization_level"])
    if info.get("requires"):
        yield "requires", str(info["requires"])


def _text_rows(text: str, verbose: bool) -> Iterable[tuple[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = lines if verbose else lines[:TEXT_LINES]
    yield from ((line,) for line in shown)
    if len(lines) > len(shown):
        yield ("...",)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"[{', '.join(map(str, value[:3]))}, ...+{len(value) - 3} more]"
    return str(value)
