"""Pulls that die at a step on the disk: the store has the old model or the new one, and the next pull does the rest.

A kill cannot run `finally` blocks or remove files, so the child process ends itself with SIGKILL.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.registry import Registry, digest_of, running_registry
from vllama.models.names import Name
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

OLD, NEW = b"old " * 50_000, b"new!" * 50_000

CHILD = """
import os, signal, sys
from pathlib import Path
from vllama.models.names import Name
from vllama.models.registry.limits import Limits
from vllama.models.registry.transfers import Transfers
from vllama.models.store import Store

root, name, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
events = {"os.rename", "os.remove", "os.truncate"}
def watch(event, args):
    global steps
    if event in events:
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
sys.addaudithook(watch)
transfers = Transfers(Store(root), limits=Limits(part_min=50_000, backoff_s=0.001))
for line in transfers.pull_blocking(Name.parse(name), insecure=True):
    pass
transfers.close()
"""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as found:
        found.add_model("library/tide", "latest", {"model": OLD, "system": b"Be brief."})
        yield found


def pulled(store: Store, name: Name) -> None:
    transfers = Transfers(store, limits=Limits(part_min=50_000, backoff_s=0.001))
    try:
        assert list(transfers.pull_blocking(name, insecure=True))[-1] == {"status": "success"}
    finally:
        transfers.close()


def test_killed_at_any_step(registry: Registry, tmp_path: Path) -> None:
    name = Name.parse(f"{registry.host}/library/tide")
    before = tmp_path / "before"
    pulled(Store(before), name)
    versions = {OLD: registry.manifests["library/tide", "latest"]}
    registry.add_model("library/tide", "latest", {"model": NEW, "system": b"Be quick."})
    versions[NEW] = registry.manifests["library/tide", "latest"]
    found = []
    for step in range(0, 100, 2):
        root = tmp_path / f"step{step}"
        shutil.copytree(before, root)
        command = [sys.executable, "-c", CHILD, str(root), name.full, str(step)]
        status = subprocess.run(command, check=False, timeout=60, capture_output=True).returncode
        assert status in (0, -signal.SIGKILL)
        found.append(checked(Store(root), name, versions))
        pulled(Store(root), name)
        assert checked(Store(root), name, versions) == NEW
        assert not [path for path in (root / "blobs").iterdir() if "partial" in path.name]
        if status == 0:
            break
    assert len(found) > 5
    assert found == sorted(found, key=[OLD, NEW].index)
    assert found[-1] == NEW


def checked(store: Store, name: Name, versions: dict[bytes, bytes]) -> bytes:
    """The weights of the model, which are whole, as is every blob."""
    model = store.find(name)
    assert model is not None
    assert model.gguf is not None
    weights = model.gguf.read_bytes()
    assert store.manifest_bytes(name) == versions[weights]
    for path in store.blobs.iterdir():
        if path.name.startswith("sha256-") and "partial" not in path.name:
            assert digest_of(path.read_bytes()) == path.name.replace("-", ":")
    return weights
