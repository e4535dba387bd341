"""`vllama doctor`: what works on this machine, what does not, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from vllama import __version__
from vllama.cli import humanize
from vllama.cli.table import columns, print_json
from vllama.config import Settings
from vllama.errors import VllamaError

Verdict = Literal["ok", "note", "bad"]
_SIGNS: dict[Verdict, str] = {"ok": "ok", "note": "--", "bad": "NO"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `bad` is something that is needed and broken; `note` only tells."""

    area: str
    verdict: Verdict
    name: str
    text: str


def examine(settings: Settings, *, as_json: bool) -> int:
    """Prints every finding; returns 1 if something that is needed is broken, else 0."""
    found = [*_machine(), *_engines(settings), *_models(settings), *_port(settings), *_settings(settings)]
    if as_json:
        print_json({"version": __version__, "findings": [asdict(finding) for finding in found]})
    else:
        for area in dict.fromkeys(finding.area for finding in found):
            print(f"{area}")
            rows = [(_SIGNS[f.verdict], f.name, f.text) for f in found if f.area == area]
            print("\n".join(columns(rows, "  ")))
    return 1 if any(finding.verdict == "bad" for finding in found) else 0


def _machine() -> list[Finding]:
    import platform

    from vllama.hardware import facts

    machine = facts()
    memory = (
        f"{humanize.binary_size(machine.memory_available)} available of {humanize.binary_size(machine.memory_total)}"
    )
    found = [
        Finding("Machine", "note", "vLLama", f"{__version__}, Python {platform.python_version()}"),
        Finding("Machine", "note", "system", f"{machine.os} {machine.arch}"),
        Finding("Machine", "note", "cores", f"{machine.physical_cores} ({machine.logical_cores} hardware threads)"),
        Finding("Machine", "note", "memory", memory),
    ]
    for gpu in machine.gpus:
        sizes = f", {humanize.binary_size(gpu.memory_free)} free of {humanize.binary_size(gpu.memory_total)}"
        found.append(Finding("Machine", "note", "GPU", gpu.name + (sizes if gpu.memory_total else "")))
    if not machine.gpus:
        found.append(Finding("Machine", "note", "GPU", "none found"))
    return found


def _engines(settings: Settings) -> list[Finding]:
    """At least one engine that the registry would choose must run; the others only tell why they do not."""
    from vllama.engines.llama.availability import openmp
    from vllama.engines.registry import all_engines, choose

    found = [Finding("Engines", "ok" if why.ok else "note", name, why.text) for name, why in all_engines()]
    try:
        choose("gguf", settings.engine)
    except VllamaError as error:
        found.append(Finding("Engines", "bad", "choice", error.text))
    if openmp():
        text = 'of llama by OpenMP; CMAKE_ARGS="-DGGML_OPENMP=OFF" builds it with its own, for a busy computer'
        found.append(Finding("Engines", "note", "threads", text))
    return found


def _models(settings: Settings) -> list[Finding]:
    from vllama.core.choosing import explained
    from vllama.models.library import Library

    try:
        models = Library(settings.models_dir, overlay=settings.packaged_models).models()
    except (VllamaError, OSError) as error:
        return [Finding("Models", "bad", str(settings.models_dir), str(error))]
    found = []
    for model in models:
        origin = {"store": str(settings.models_dir), "package": "an installed package"}.get(model.origin, model.origin)
        text = f"{humanize.size(model.size)}, from {origin}"
        verdict: Verdict = "ok"
        try:
            if model.gguf is not None:
                _ = model.metadata
            text = f"{text}, engine {explained(model, settings)}"
        except (VllamaError, OSError) as error:
            verdict, text = "bad", f"{text}: {error}"
        found.append(Finding("Models", verdict, model.name.shortest, text))
    if not found:
        found.append(Finding("Models", "note", "none", f"nothing in {settings.models_dir} or in installed packages"))
    return found


def _port(settings: Settings) -> list[Finding]:
    from vllama.cli import ports

    host = settings.host
    try:
        ports.bind(host).close()
    except VllamaError as error:
        who = ports.occupant(host)
        if who.startswith("vLLama"):
            return [Finding("Port", "ok", host.netloc, f"in use by {who}")]
        return [Finding("Port", "note", host.netloc, error.text)]
    return [Finding("Port", "ok", host.netloc, "free")]


def _settings(settings: Settings) -> list[Finding]:
    changed = [row for row in settings.rows() if row.source != "default"]
    found = [Finding("Settings", "note", row.name, f"{row.value} ({row.source})") for row in changed]
    found += [Finding("Settings", "note", "warning", line) for line in settings.warnings]
    return found or [Finding("Settings", "note", "all", "defaults")]
