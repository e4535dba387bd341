"""What was started and how it differs, and whose answers are the same."""

from __future__ import annotations

from collections.abc import Sequence

from vllama.bench.checks import agreement_matrix
from vllama.bench.report.blocks import Block, Bullets, Kind, Table, Text
from vllama.bench.report.numbers import title
from vllama.bench.results import Run

ALIASES = {
    "-m": "--model",
    "-c": "--ctx-size",
    "-np": "--parallel",
    "-t": "--threads",
    "-tb": "--threads-batch",
    "-b": "--batch-size",
    "-ub": "--ubatch-size",
    "-ngl": "--n-gpu-layers",
    "-fa": "--flash-attn",
    "--no-ui": "--no-webui",
}
"""llama-server's short options and their long names."""


def started(run: Run) -> tuple[Block, ...]:
    """Versions, command lines, environments and options of every system, and what could not be measured."""
    blocks: list[Block] = []
    for key, system in run.environment["systems"].items():
        blocks.append(Text(f"**{system['title']}** (`{key}`, lane {system['lane']}): {system['version']}"))
        lines = []
        if system["notes"]:
            lines.append("; ".join(system["notes"]))
        if system["argv"]:
            lines.append(f"`{' '.join(system['argv'])}`")
        lines += [f"child: `{' '.join(child)}`" for child in system["children"]]
        if system["env"]:
            lines.append(f"environment: `{' '.join(f'{k}={v}' for k, v in sorted(system['env'].items()))}`")
        if system["options"]:
            lines.append(f"options of each request: `{system['options']}`")
        if lines:
            blocks.append(Bullets(tuple(lines)))
    if missing := run.environment["missing"]:
        blocks.append(Text("Not measured:"))
        blocks.append(Bullets(tuple(f"`{key}`: {reason}" for key, reason in missing.items())))
    packages = ", ".join(f"{name} {number}" for name, number in run.environment["machine"]["packages"].items())
    blocks.append(Text(f"Python {run.environment['machine']['python']}; {packages}."))
    return tuple(blocks)


def options(argv: Sequence[str]) -> dict[str, str]:
    """A command line's options by their long name; "yes" for one without a value."""
    found: dict[str, str] = {}
    name = ""
    for word in argv[1:]:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            name = ALIASES.get(word, word)
            found[name] = "yes"
        elif name:
            found[name] = word if found[name] == "yes" else f"{found[name]} {word}"
    return found


def differences(run: Run) -> tuple[Block, ...]:
    """llama-server's options, system by system: the control's own, and those that a system gave its child."""
    lines: dict[str, dict[str, str]] = {}
    for key, system in run.environment["systems"].items():
        for argv in [system["argv"], *system["children"]]:
            if argv and argv[0].rpartition("/")[2].startswith("llama-server"):
                lines[key] = options(argv)
    if len(lines) < 2:
        return ()
    names = sorted({name for found in lines.values() for name in found} - {"--port", "--host"})
    rows = []
    kinds: dict[tuple[int, int], Kind] = {}
    for y, name in enumerate(names):
        cells = [found.get(name, "–") for found in lines.values()]
        if name == "--model":
            # The same file under other names: what counts is its content, which check W1 compares.
            digests = [run.environment["systems"][key]["model_sha256"][:12] for key in lines]
            cells = [f"sha256 {digest}" for digest in digests]
        rows.append((name, *cells))
        if len(set(cells)) > 1:
            kinds |= {(y, x + 1): "bad" for x in range(len(cells))}
    note = "Options of llama-server as each system starts it; – means that the option was not given."
    return (Text(note), Table(("option", *(title(run, key) for key in lines)), tuple(rows), kinds))


def agreement(run: Run) -> tuple[Block, ...]:
    """Equal texts at c = 1, greedy, each system against each: how many, and where the others first differ."""
    found = agreement_matrix(run)
    systems = [system for system in run.systems if any(one.n for pair, one in found.items() if system in pair)]
    if not systems:
        return ()
    rows = []
    kinds: dict[tuple[int, int], Kind] = {}
    for y, left in enumerate(systems):
        row = [title(run, left)]
        for x, right in enumerate(systems):
            one = found.get((left, right)) or found.get((right, left))
            if one is None or not one.n:
                row.append("·" if left == right else "–")
                continue
            row.append(f"{one.equal} of {one.n}" + ("" if one.first < 0 else f", else from character {one.first}"))
            kinds[(y, x + 1)] = "good" if one.equal == one.n else "weak" if one.equal else "bad"
        rows.append(tuple(row))
    note = (
        "Texts at c = 1 that are equal to the last character, and the median place of the first difference of the "
        "others. Nearly tied tokens may fall either way with the same weights; check L3 judges them by the raw engine."
    )
    return (Text(note), Table(("", *(title(run, system) for system in systems)), tuple(rows), kinds))
