"""The store: Ollama's layout read and written, damage skipped, other people's files left alone."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vllama.errors import ModelNotFound, NotFoundError, RequestError
from vllama.models.blobs import BlobWriter, has_blob, remove_leftovers
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy, delete
from vllama.models.manifest import Manifest, ManifestError
from vllama.models.names import Name

MakeGGUF = Callable[..., Path]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "store", overlay=False)


def add(library: Library, path: Path, name: str, **fields: object) -> str:
    with BlobWriter(library.store) as writer:
        writer.write(path.read_bytes())
        digest = writer.commit()
    statuses = list(create(CreateRequest(name, files={"m.gguf": digest}, **fields), library))  # type: ignore[arg-type]
    assert statuses[-1] == {"status": "success"}
    return digest


def test_a_model_is_found_in_any_spelling(library: Library, make_gguf: MakeGGUF) -> None:
    add(library, make_gguf(), "Tide:7B", system="s", parameters={"stop": ["x"]}, messages=[("user", "hi")])
    for text in ("tide:7b", "TIDE:7B", "library/tide:7b", "registry.ollama.ai/library/Tide:7B", "tide:7b:local"):
        model = library.resolve(text)
        assert model.name.shortest == "Tide:7B"
    assert (model.system, model.params, model.messages) == ("s", {"stop": ["x"]}, (("user", "hi"),))
    assert model.tag_details["context_length"] == 512
    raw = library.store.manifest_path(Name.parse("Tide:7B")).read_bytes()
    assert model.digest == hashlib.sha256(raw).hexdigest()


def test_unknown_and_impossible_names(library: Library) -> None:
    with pytest.raises(ModelNotFound, match=r"^model 'nosuch' not found$"):
        library.resolve("nosuch")
    with pytest.raises(ModelNotFound, match=r"^model '' not found$"):
        library.resolve("")
    with pytest.raises(RequestError, match=r"^invalid model name$"):
        library.resolve("../etc/passwd")
    with pytest.raises(RequestError, match="not both"):
        library.resolve("a:local:cloud")
    with pytest.raises(ModelNotFound, match=r"^model 'nosuch:latest' not found$"):
        library.resolve_for_show("library/nosuch")


def test_the_index_sees_what_others_write(library: Library, make_gguf: MakeGGUF, tmp_path: Path) -> None:
    add(library, make_gguf(), "a")
    other = Library(tmp_path / "store", overlay=False)
    assert other.resolve("a").system == ""
    add(library, make_gguf(), "a", system="new")
    add(library, make_gguf(), "b")
    assert other.resolve("a").system == "new"
    assert other.resolve("b").name.model == "b"
    assert {m.name.model for m in other.models()} == {"a", "b"}
    delete(library, "a")
    with pytest.raises(ModelNotFound):
        other.resolve("a")
    assert [m.name.model for m in other.models()] == ["b"]


def test_lists_are_newest_first(library: Library, make_gguf: MakeGGUF) -> None:
    for age, name in enumerate(("c", "a", "b")):
        add(library, make_gguf(), name)
        path = library.store.manifest_path(Name.parse(name))
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    assert [m.name.model for m in library.models()] == ["c", "a", "b"]


def test_damage_is_skipped_and_told_once(
    library: Library, make_gguf: MakeGGUF, caplog: pytest.LogCaptureFixture
) -> None:
    add(library, make_gguf(), "good")
    bad = {
        "empty": b"",
        "text": b"not json",
        "shape": b'{"layers": 5}',
        "traversal": json.dumps(
            {"config": {"mediaType": "x", "digest": "sha256:../../../etc/passwd", "size": 1}, "layers": []}
        ).encode(),
        "no-config": json.dumps(
            {"config": {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 1}, "layers": []}
        ).encode(),
    }
    for name, raw in bad.items():
        path = library.store.manifest_path(Name.parse(name))
        path.parent.mkdir(parents=True)
        path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        assert [m.name.model for m in library.models()] == ["good"]
        assert [m.name.model for m in library.models()] == ["good"]
    assert len([r for r in caplog.records if "ignoring the model" in r.message]) == len(bad)
    for name in bad:
        with pytest.raises(ModelNotFound):
            library.resolve(name)


def test_a_damaged_gguf_does_not_break_lists(library: Library, make_gguf: MakeGGUF) -> None:
    digest = add(library, make_gguf(), "m")
    library.store.blob_path(digest).write_bytes(b"GGUFgarbage")
    fresh = Library(library.store.root, overlay=False)
    (model,) = fresh.models()
    assert model.tag_details["family"] == "llama"
    assert model.chat_template is None


def test_deleting_keeps_what_others_need(library: Library, make_gguf: MakeGGUF) -> None:
    digest = add(library, make_gguf(), "a", system="only a")
    copy(library, "a", "ns/b:v1")
    list(create(CreateRequest("c", from_="a", system="only c"), library))
    assert library.resolve("c").parent == "a:latest"
    delete(library, "A")
    assert has_blob(library.store, digest)
    assert library.resolve("ns/b:v1").system == "only a"
    delete(library, "ns/b:v1")
    delete(library, "c")
    assert list(library.store.blobs.iterdir()) == []
    assert list(library.store.manifests.iterdir()) == []


def test_an_unreadable_manifest_protects_all_blobs(library: Library, make_gguf: MakeGGUF) -> None:
    digest = add(library, make_gguf(), "a")
    path = library.store.manifest_path(Name.parse("broken"))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    delete(library, "a")
    assert has_blob(library.store, digest)


def test_errors_of_copy_and_delete(library: Library, make_gguf: MakeGGUF) -> None:
    add(library, make_gguf(), "a")
    with pytest.raises(NotFoundError, match=r'^model "nosuch" not found$'):
        copy(library, "nosuch", "b")
    for source in ("", "x y", "a:local:cloud"):
        with pytest.raises(RequestError, match=r"^source .* is invalid$"):
            copy(library, source, "b")
    with pytest.raises(RequestError, match=r'^destination "" is invalid$'):
        copy(library, "a", "")
    copy(library, "a", "A")
    assert [m.name.model for m in library.models()] == ["a"]
    for text, error in {
        "": "model is required",
        "x y": 'name "x y" is invalid',
        "nosuch": "model 'nosuch' not found",
    }.items():
        with pytest.raises((RequestError, NotFoundError)) as caught:
            delete(library, text)
        assert caught.value.text == error


def test_blobs_are_invisible_until_their_digest_is_right(library: Library) -> None:
    right = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    wrong = "sha256:" + "b" * 64
    with BlobWriter(library.store) as writer:
        writer.write(b"hel")
        writer.write(b"lo")
        assert not has_blob(library.store, right)
        with pytest.raises(RequestError, match=f'^digest mismatch, expected "{wrong}", got "{right}"$'):
            writer.commit(wrong)
    assert list(library.store.blobs.iterdir()) == []
    with BlobWriter(library.store) as writer:
        writer.write(b"hello")
        writer.commit(right.replace(":", "-"))
    assert has_blob(library.store, right)
    assert library.store.blob_path(right).stat().st_mode & 0o777 == 0o644
    for bad in ("nope", "sha256:12", "md5:" + "0" * 32, "sha256:../../x"):
        with pytest.raises(RequestError, match=r"^invalid digest format$"):
            has_blob(library.store, bad)


def test_leftovers_of_a_crash_are_removed(library: Library) -> None:
    writer = BlobWriter(library.store)
    writer.write(b"half")
    (leftover,) = library.store.blobs.iterdir()
    remove_leftovers(library.store)
    assert leftover.exists()
    os.utime(leftover, (1, 1))
    remove_leftovers(library.store)
    assert not leftover.exists()
    writer.abort()


def test_a_missing_store_is_an_empty_one(tmp_path: Path) -> None:
    library = Library(tmp_path / "none", overlay=False)
    assert library.models() == []
    assert not (tmp_path / "none").exists()


def test_a_path_is_a_model_only_where_allowed(library: Library, make_gguf: MakeGGUF) -> None:
    path = make_gguf("My Model.gguf")
    model = library.resolve(str(path), allow_path=True)
    assert (model.origin, model.gguf, model.name.shortest) == ("file", path, "My-Model:latest")
    assert model.digest == library.resolve(str(path), allow_path=True).digest
    with pytest.raises(RequestError, match="invalid model name"):
        library.resolve(str(path))
    with pytest.raises(ModelNotFound, match="cannot open"):
        library.resolve("/nowhere/x.gguf", allow_path=True)


def test_a_file_that_the_server_was_given_is_listed_and_has_a_name(library: Library, make_gguf: MakeGGUF) -> None:
    path = make_gguf("Given.gguf")
    model = library.resolve(str(path), allow_path=True)
    listed = library.listing()
    library.add_file(model)
    assert library.find(Name.parse("given")) is model
    assert sorted(m.name.shortest for m in library.listing()) == sorted(m.name.shortest for m in (*listed, model))
    with pytest.raises(RequestError, match="is a file that the server was started with"):
        delete(library, "given")
    assert path.exists()
    copy(library, "given", "kept")
    assert library.resolve("kept").origin == "store"
    # What the store has under that name hides it, in lists and for requests.
    copy(library, "kept", "given")
    assert library.resolve("given").origin == "store"
    assert [m.origin for m in library.listing() if m.name.model.lower() == "given"] == ["store"]
    delete(library, "given")
    assert library.resolve("given") is model


def test_manifest_shapes_are_checked() -> None:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256-" + "a" * 64, "size": 3}
    good = Manifest.parse(json.dumps({"config": layer, "layers": [layer]}).encode())
    assert good.layers[0].digest == "sha256:" + "a" * 64
    assert Manifest.parse(good.encode()) == good
    for change in ({"digest": 5}, {"size": -1}, {"size": "3"}, {"mediaType": None}, {"digest": "sha256:" + "a" * 65}):
        with pytest.raises(ManifestError):
            Manifest.parse(json.dumps({"config": layer, "layers": [layer | change]}).encode())
