"""Creating, copying and deleting that die at a step on the disk: the store has the old models or the new ones.

A kill cannot run `finally` blocks or remove files, so the child process ends itself with SIGKILL.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.registry import digest_of
from vllama.models.blobs import BlobWriter, import_file, remove_leftovers
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy

MakeGGUF = Callable[..., Path]

CHILD = """
import os, signal, sys
from pathlib import Path
from vllama.models.blobs import import_file
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy, delete

library, steps = Library(Path(sys.argv[1]), overlay=False), int(sys.argv[2])
# Every call that changes the disk: a file or directory made, renamed or removed.
events = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "tempfile.mkstemp"}
def watch(event, args):
    global steps
    if event in events or (event == "open" and args[1] and "w" in str(args[1])):
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        steps -= 1
sys.addaudithook(watch)
exec(sys.argv[3])
"""

WORKS = {
    "create": """
digest, *_ = import_file(library.store, Path(sys.argv[4]))
list(create(CreateRequest("new", files={"m.gguf": digest}, system="Be quick.", parameters={"seed": 1}), library))
""",
    "create over an old one": """
list(create(CreateRequest("old", from_="other", system="Be quick.", template="{{ .Prompt }}!"), library))
""",
    "copy": 'copy(library, "other", "new/copy:v2")',
    "copy over an old one": 'copy(library, "other", "old")',
    "delete": 'delete(library, "old")',
}


def state(root: Path) -> dict[str, tuple[str, str]]:
    """Name to what the model is, of every model; each can be read with all its blobs, and no blob is half."""
    library = Library(root, overlay=False)
    found = {}
    for model in library.models():
        assert model.gguf is not None
        assert model.metadata.architecture == "llama"
        found[model.name.shortest] = (model.digest, model.system)
    manifests = [path for path in (root / "manifests").glob("*/*/*/*") if not path.name.startswith(".")]
    assert len(manifests) == len(found), "a model cannot be read"
    for path in (root / "blobs").iterdir():
        if not path.name.startswith("."):
            assert digest_of(path.read_bytes()) == path.name.replace("-", ":")
    return found


@pytest.mark.parametrize("work", WORKS)
def test_killed_at_any_step(tmp_path: Path, make_gguf: MakeGGUF, work: str) -> None:
    root = tmp_path / "models"
    library = Library(root, overlay=False)
    for name, path in (("old", make_gguf("a.gguf")), ("other", make_gguf("b.gguf", general__name="Other"))):
        digest, *_ = import_file(library.store, path)
        list(create(CreateRequest(name, files={"m.gguf": digest}, system=f"I am {name}."), library))
    copy(library, "old", "twin")
    before = state(root)
    weights = make_gguf("c.gguf", general__name="New")

    def run(at: Path, step: int) -> int:
        command = [sys.executable, "-c", CHILD, str(at), str(step), WORKS[work], str(weights)]
        done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    done = tmp_path / "done"
    shutil.copytree(root, done)
    assert run(done, -1) == 0
    after = state(done)
    assert after != before
    found = []
    for step in range(60):
        at = tmp_path / f"step{step}"
        shutil.copytree(root, at)
        status = run(at, step)
        found.append(state(at))
        assert found[-1] in (before, after), f"step {step}"
        # What was left lying is no hindrance, and is swept up.
        remove_leftovers(Library(at, overlay=False).store, older_than=-10)
        assert not list(at.rglob(".vllama-*"))
        if status == 0:
            break
        if found[-1] == before:
            assert run(at, -1) == 0
        assert state(at) == after
    else:
        pytest.fail("the work never came to its end")
    assert found[0] == before
    assert found[-1] == after
    assert found == sorted(found, key=[before, after].index)


def test_leftovers_of_every_kind_are_swept_and_what_is_new_stays(tmp_path: Path) -> None:
    store = Library(tmp_path, overlay=False).store
    folder = store.blobs / ".vllama-quantizing"
    folder.mkdir(parents=True)
    (folder / "quantized.gguf").write_bytes(b"x")
    manifest = store.manifests / "host" / "me" / "tide" / ".vllama-abc"
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"{")
    with BlobWriter(store) as upload:
        upload.write(b"half")
        remove_leftovers(store)
        assert len(list(tmp_path.rglob(".vllama-*"))) == 3
        remove_leftovers(store, older_than=-10)
        assert list(tmp_path.rglob(".vllama-*")) == []
