"""`vllama list`, `ps` and `config`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from vllama.cli import humanize, reach
from vllama.cli.client import serves_vllama
from vllama.cli.ollama_table import table
from vllama.cli.table import print_columns, print_json
from vllama.config import Settings, load_settings

ID_DIGITS = 12


def list_models(prefix: str, host: str | None, as_json: bool) -> None:
    """NAME ID SIZE MODIFIED of every model whose name begins with the prefix."""
    models = None if host or as_json else models_without_server()
    if models is None:
        with reach.server(host, needs_own_files=False) as client:
            models = client.get("/api/tags").get("models") or []
    if as_json:
        print_json({"models": _wanted(models, prefix)})
    else:
        print("\n".join(model_rows(models, prefix)))


def models_without_server() -> list[dict[str, Any]] | None:
    """What a private server would list, read from the disk in a fifth of the time that it takes to start. None if a
    vLLama answers already, or if others' models belong to the list."""
    settings = load_settings()
    if settings.upstream or settings.models or serves_vllama(settings.host):
        return None
    from vllama.models.library import Library
    from vllama.models.show import list_entry

    library = Library(settings.models_dir, overlay=settings.packaged_models)
    return [list_entry(model) for model in library.models()]


def model_rows(models: Sequence[dict[str, Any]], prefix: str = "") -> list[str]:
    """The lines of `list` for the models of /api/tags."""
    rows = []
    for model in _wanted(models, prefix):
        modified = humanize.when(humanize.moment(model.get("modified_at", "")))
        size = "-" if model.get("remote_model") else humanize.size(model.get("size", 0))
        rows.append((model["name"], model["digest"][:ID_DIGITS], size, modified))
    return table(rows, ("NAME", "ID", "SIZE", "MODIFIED"))


def list_loaded(prefix: str, host: str | None, as_json: bool) -> None:
    """NAME ID SIZE PROCESSOR CONTEXT UNTIL of every loaded model whose name begins with the prefix."""
    with reach.running(host) as client:
        models = _wanted(client.get("/api/ps").get("models") or [], prefix)
    if as_json:
        print_json({"models": models})
        return
    rows = [
        (
            model["name"],
            model["digest"][:ID_DIGITS],
            humanize.size(model.get("size", 0)),
            processor(model.get("size", 0), model.get("size_vram", 0)),
            str(model.get("context_length", "")),
            until(model),
        )
        for model in models
    ]
    print("\n".join(table(rows, ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"))))


def _wanted(models: Sequence[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
    return [model for model in models if model["name"].lower().startswith(prefix.lower())]


def processor(size: int, on_gpu: int) -> str:
    """Where a model lies: "100% GPU", "100% CPU" or "48%/52% CPU/GPU"."""
    if on_gpu <= 0:
        return "100% CPU"
    if on_gpu == size:
        return "100% GPU"
    if on_gpu > size:
        return "Unknown"
    # Python rounds a half to the even neighbour, Go away from zero.
    cpu = int((size - on_gpu) / size * 100 + 0.5)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def until(model: dict[str, Any]) -> str:
    """When a loaded model goes, in words."""
    expires = humanize.moment(model.get("expires_at", ""))
    if expires is not None and expires < datetime.now(UTC):
        return "Stopping..."
    return humanize.when(expires)


def print_settings(settings: Settings, *, as_json: bool, docs: bool) -> None:
    """NAME VALUE SOURCE of every setting."""
    if docs:
        from vllama.config.settings import markdown

        print(markdown(), end="")
        return
    rows = settings.rows()
    if as_json:
        print_json([{"name": row.name, "value": row.value, "source": row.source} for row in rows])
        return
    print_columns(("NAME", "VALUE", "SOURCE"), [(row.name, row.value or '""', row.source) for row in rows])
