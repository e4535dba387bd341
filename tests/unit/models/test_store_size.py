"""Lists of many models: what is looked at, counted; stores of others, and blobs that are damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.registry import running_registry
from vllama.errors import ModelLoadError, ServerError
from vllama.models.blobs import import_file, remove_leftovers
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy, delete
from vllama.models.names import Name

MakeGGUF = Callable[..., Path]
COUNT = 500


@pytest.fixture
def library(tmp_path: Path, make_gguf: MakeGGUF) -> Library:
    """One model."""
    library = Library(tmp_path / "models", overlay=False)
    digest, *_ = import_file(library.store, make_gguf())
    list(create(CreateRequest("first", files={"m.gguf": digest}, system="Hi."), library))
    return library


def aged(root: Path) -> None:
    """Everything is an hour old, as stores are."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (path.stat().st_mtime - 3600, path.stat().st_mtime - 3600))


def test_a_list_of_500_looks_once_at_each_directory_and_file(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = library.store.manifest_bytes(Name.parse("first"))
    for number in range(COUNT - 1):
        path = library.store.manifest_path(Name.parse(f"model{number}"))
        path.parent.mkdir(parents=True)
        path.write_bytes(raw)
    aged(library.store.manifests)
    assert len(library.models()) == COUNT
    listed = library.listing()
    seen: Counter[str] = Counter()
    real = os.stat

    def count(path: str | Path, **options: bool) -> os.stat_result:
        seen[str(path)] += 1
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", count)
    monkeypatch.setattr(Path, "open", None)
    monkeypatch.setattr(os, "scandir", None)
    assert library.listing() is listed
    assert set(seen.values()) == {1}
    # manifests/, its host and its namespace, hub/; a directory and a file for each model
    assert len(seen) == 4 + 2 * COUNT


def test_a_change_in_one_of_many_reads_that_one(library: Library) -> None:
    for number in range(20):
        copy(library, "first", f"model{number}")
    aged(library.store.manifests)
    assert len(library.models()) == 21
    before = library.store._tree.reads
    other = Library(library.store.root, overlay=False)
    delete(other, "model7")
    copy(other, "first", "model3:v2")
    assert len(library.models()) == 21
    assert {m.name.shortest for m in library.models()} >= {"model3:v2", "model3:latest"}
    assert library.store._tree.reads - before <= 6  # twice: what changed a moment ago is not believed


def test_a_manifest_written_in_place_is_noticed(library: Library) -> None:
    """As Ollama writes them: the directory stays as it was."""
    copy(library, "first", "second")
    aged(library.store.manifests)
    assert {m.system for m in library.models()} == {"Hi."}
    other = Library(library.store.root, overlay=False)
    list(create(CreateRequest("third", from_="first", system="New."), other))
    raw = other.store.manifest_bytes(Name.parse("third"))
    library.store.manifest_path(Name.parse("second")).write_bytes(raw)
    assert library.resolve("second").system == "New."
    assert sorted(m.system for m in library.models()) == ["Hi.", "New.", "New."]


def test_a_store_of_another_user_is_read_and_says_what_cannot_be_written(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not hold root back, who may run the tests: the calls that would write are refused instead."""
    root = library.store.root
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "chmod", "remove"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    fresh = Library(root, overlay=False)
    assert [m.name.model for m in fresh.models()] == ["first"]
    assert fresh.resolve("FIRST").metadata.architecture == "llama"
    remove_leftovers(fresh.store, older_than=-10)
    for change in (
        lambda: copy(fresh, "first", "second"),
        lambda: delete(fresh, "first"),
        lambda: list(create(CreateRequest("new", from_="first", system="x"), fresh)),
    ):
        with pytest.raises(ServerError, match="Permission denied"):
            change()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


_OTHER_USER = """
import os, sys
from pathlib import Path
from vllama.errors import VllamaError
from vllama.models.blobs import BlobWriter, remove_leftovers
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy, delete
from vllama.models.names import Name
from vllama.models.registry.transfers import Transfers

root = Path(sys.argv[1])
# What is imported late is imported now: nobody may not be able to read this Python's own files.
warm = Transfers(Library(Path(sys.argv[3]), overlay=False).store, key_path=Path(sys.argv[3]) / "key")
list(warm.pull_blocking(Name.parse(sys.argv[2]), insecure=True))
warm.close()
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
library = Library(root, overlay=False)
model = library.resolve("FIRST")
print(model.metadata.architecture, [m.name.model for m in library.models()], model.gguf.open("rb").read(4))
remove_leftovers(library.store, older_than=-10)
transfers = Transfers(library.store, key_path=root / "no" / "key")
for change in (
    lambda: copy(library, "first", "second"),
    lambda: delete(library, "first"),
    lambda: list(create(CreateRequest("new", from_="first", system="x"), library)),
    lambda: BlobWriter(library.store),
    lambda: list(transfers.pull_blocking(Name.parse(sys.argv[2]), insecure=True)),
):
    try:
        change()
    except VllamaError as error:
        print(error.text)
transfers.close()
"""


def test_a_process_of_another_user_reads_the_store_and_leaves_it_as_it_is(library: Library) -> None:
    """Truly: as nobody if the tests run as root, else without the permission to write."""
    with tempfile.TemporaryDirectory() as folder, running_registry() as registry:
        registry.add_model("library/tide", "latest", {"model": b"x" * 1000})
        os.chmod(folder, 0o755)
        root = Path(folder) / "models"
        shutil.copytree(library.store.root, root)
        found = {path: path.stat() for path in (root, *root.rglob("*"))}
        for path in found:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {path: path.stat().st_mtime_ns for path in found}
        try:
            command = [
                sys.executable,
                "-c",
                _OTHER_USER,
                str(root),
                f"{registry.host}/library/tide",
                f"{folder}/scratch",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            seen, *refused = done.stdout.splitlines()
            assert seen == "llama ['first'] b'GGUF'"
            assert len(refused) == 5, refused
            assert all("ermission denied" in line for line in refused), (refused, done.stderr)
            assert {path: path.stat().st_mtime_ns for path in (root, *root.rglob("*"))} == before
        finally:
            for path in found:
                path.chmod(0o755 if path.is_dir() else 0o644)


def test_truncation_at_any_offset_is_noticed_when_the_model_is_read(library: Library) -> None:
    path = library.resolve("first").gguf
    assert path is not None
    raw = path.read_bytes()
    for size in range(len(raw) - 16):  # the last tensor has 16 bytes, padded to 32
        path.write_bytes(raw[:size])
        os.utime(path, ns=(size, size))
        with pytest.raises(ModelLoadError):
            _ = library.resolve("first").metadata
    path.unlink()
    with pytest.raises(ModelLoadError, match="cannot open"):
        _ = library.resolve("first").metadata
    assert [m.name.model for m in library.models()] == ["first"]
