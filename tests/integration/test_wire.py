"""Answers recorded from a real Ollama, replayed against a live server with the same nine models' recipes.

`tests/golden/wire/wire.py` compares; this file chooses the cases of the routes that exist and knows which differ
on purpose. A case that begins to pass must leave `DIFFERENT`.
"""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from tests.compatibility import OTHER_FILE
from tests.integration.conftest import Server, start_server
from tests.integration.minilm import make_minilm
from vllama.models.overlay import Overlay

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(1800),
    # The comparer is a script that leaves its files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

GOLDEN = Path(__file__).parent.parent / "golden" / "wire"
ROUTES = {
    "/",
    "/api/version",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
}
GROUPS = {"http", "cors", "host", "blobs"}

DIFFERENT: dict[str, str] = json.loads((GOLDEN / "different.json").read_text())
"""Case id -> why our answer differs."""


def load_comparer() -> ModuleType:
    """wire.py is a script beside the data, not a module of the test package."""
    spec = importlib.util.spec_from_file_location("wire", GOLDEN / "wire.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chosen(case: dict[str, object]) -> bool:
    """Whether the case is about a route that exists already and needs nothing that is missing here."""
    path = str(case["path"]).split("?")[0].rstrip("/") or "/"
    group = str(case["group"]).split(".")[0]
    about = path in ROUTES or path.startswith("/v1/models") or group in GROUPS
    return about and case["id"] not in OTHER_FILE


def test_recorded_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wire = load_comparer()
    gguf = next(model.gguf for model in Overlay().models() if model.gguf is not None)
    server: Server = start_server(tmp_path)
    try:
        wire.cmd_setup(Namespace(url=server.url, gguf=str(gguf), embed_gguf=str(make_minilm(tmp_path))))
        golden = {record["id"]: record for record in wire.load_jsonl(str(GOLDEN / "golden"))}
        cases = [case for case in wire.load_jsonl(str(GOLDEN / "cases")) if chosen(case)]
        env = wire.env_of(Namespace(url=server.url, gguf=str(gguf)))
        failures: dict[str, list[str]] = {}
        for case in cases:
            errors = wire.compare(case, golden[case["id"]], wire.run_case(server.url, case, env))
            if errors:
                failures[case["id"]] = errors
    finally:
        server.stop()
    with capsys.disabled():
        print(f"\nwire: {len(cases) - len(failures)} of {len(cases)} recorded answers equal", end=" ")
    assert len(cases) > 1000
    surprising = {name: errors for name, errors in failures.items() if name not in DIFFERENT}
    assert not surprising, json.dumps(surprising, indent=1)
    healed = [name for name in DIFFERENT if name not in failures and name in {case["id"] for case in cases}]
    assert not healed, f"these pass now, take them out of different.json: {healed}"
    assert len(failures) <= len(cases) * 0.1
