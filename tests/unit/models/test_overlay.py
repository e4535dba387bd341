"""Models that packages carry: found without importing them, checked, hidden by the user's own."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllama.errors import RequestError
from vllama.models.blobs import BlobWriter
from vllama.models.create import CreateRequest, create
from vllama.models.library import Library
from vllama.models.manage import copy, delete
from vllama.models.overlay import CARRIED, Carried, Overlay

MakeGGUF = Callable[..., Path]


@pytest.fixture
def row(tmp_path: Path, make_gguf: MakeGGUF, monkeypatch: pytest.MonkeyPatch) -> Carried:
    """An installed package whose import would fail."""
    site = tmp_path / "site"
    package, info = site / "tide_pkg", site / "tide_pkg-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tide-pkg\nVersion: 1.0\n")
    data = make_gguf().read_bytes()
    (package / "tide.gguf").write_bytes(data)
    monkeypatch.syspath_prepend(str(site))
    digest = hashlib.sha256(data).hexdigest()
    return Carried("tide-pkg", "1.0", "tide_pkg", "tide.gguf", digest, "tide:1m", {"stop": ["<x>"]}, ("MIT",))


def library(tmp_path: Path, *rows: Carried) -> Library:
    return Library(tmp_path / "store", overlay=Overlay(rows, tmp_path / "cache"))


def test_a_carried_model_is_found_without_an_import(tmp_path: Path, row: Carried) -> None:
    found = library(tmp_path, row)
    model = found.resolve("TIDE:1M")
    assert (model.origin, model.params, model.licenses) == ("package", {"stop": ["<x>"]}, ("MIT",))
    assert model.config.quantization_level == "F16"
    assert model.digest == library(tmp_path, row).resolve("tide:1m").digest
    assert [m.name.shortest for m in found.models()] == ["tide:1m"]
    assert "tide_pkg" not in sys.modules
    assert not (tmp_path / "store").exists()


def test_the_check_is_remembered(tmp_path: Path, row: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    library(tmp_path, row).resolve("tide:1m")

    def never(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", never)
    assert library(tmp_path, row).resolve("tide:1m")


def test_a_changed_file_is_refused(tmp_path: Path, row: Carried, caplog: pytest.LogCaptureFixture) -> None:
    path = library(tmp_path, row).resolve("tide:1m").gguf
    assert path is not None
    path.write_bytes(path.read_bytes() + b"!")
    with caplog.at_level(logging.WARNING):
        assert library(tmp_path, row).models() == []
    assert "sha256" in caplog.text


def test_other_versions_and_absent_packages_are_nothing(tmp_path: Path, row: Carried) -> None:
    other = Carried(row.distribution, "2.0", row.module, row.file, row.sha256, "a:b")
    absent = Carried("no-such-package", "1", "no_such_package", "x.gguf", "0" * 64, "c:d")
    assert library(tmp_path, other, absent).models() == []


def test_the_users_own_model_wins_and_can_be_deleted(tmp_path: Path, row: Carried) -> None:
    found = library(tmp_path, row)
    carried = found.resolve("tide:1m")
    assert carried.gguf is not None
    with BlobWriter(found.store) as writer:
        writer.write(carried.gguf.read_bytes())
        digest = writer.commit()
    list(create(CreateRequest("Tide:1m", files={"m.gguf": digest}, system="mine"), found))
    assert found.resolve("tide:1m").system == "mine"
    assert [m.system for m in found.models()] == ["mine"]
    delete(found, "tide:1m")
    assert found.resolve("tide:1m").origin == "package"
    with pytest.raises(RequestError, match="belongs to an installed Python package"):
        delete(found, "tide:1m")


def test_copying_and_building_on_it_brings_it_into_the_store(tmp_path: Path, row: Carried) -> None:
    found = library(tmp_path, row)
    copy(found, "tide:1m", "mine")
    statuses = list(create(CreateRequest("derived", from_="tide:1m", system="s"), found))
    assert statuses[-1] == {"status": "success"}
    for name in ("mine", "derived"):
        model = found.resolve(name)
        assert (model.origin, model.params, model.licenses) == ("store", {"stop": ["<x>"]}, ("MIT",))
    assert found.resolve("derived").system == "s"


def test_the_table_is_well_formed() -> None:
    for carried in CARRIED:
        assert len(carried.sha256) == 64
        assert int(carried.sha256, 16)
        assert ":" in carried.name
