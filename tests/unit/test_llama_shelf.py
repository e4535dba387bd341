"""Prefix cache on disk: what comes back is what was put there, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllama.engines.llama.shelf import SUFFIX, Shelf, identity_of

STATE = bytes(range(256)) * 4


def one(shelf: Shelf) -> Path:
    """Its only file."""
    [entry] = shelf.entries()
    return entry.path


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    assert shelf.entries() == []
    assert shelf.put([1, 2, 3], STATE) is not None
    assert shelf.holds([1, 2, 3])
    assert not shelf.holds([1, 2])
    [entry] = Shelf(tmp_path, "model", 1 << 20).entries()
    assert entry.tokens == [1, 2, 3]
    assert bytes(entry.read() or b"") == STATE


def test_another_identity_sees_nothing(tmp_path: Path) -> None:
    Shelf(tmp_path, "model", 1 << 20).put([1, 2, 3], STATE)
    assert Shelf(tmp_path, "model in q8_0", 1 << 20).entries() == []


def test_others_cannot_read_the_prompts(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    shelf.put([1], STATE)
    assert one(shelf).stat().st_mode & 0o077 == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.integers(0, 1100), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_removed_and_never_given(tmp_path: Path, at: int, flip: int, cut: bool) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    shelf.put([5, 6, 7], STATE)
    [entry] = shelf.entries()
    content = bytearray(entry.path.read_bytes())
    at %= len(content)
    content[at] ^= flip
    entry.path.write_bytes(content[:at] if cut else content)
    assert entry.read() is None
    assert not entry.path.exists()


@pytest.mark.parametrize("content", [b"", b"vllamaP1", os.urandom(2000), b"vllamaP1" + b"\xff" * 60])
def test_what_is_no_prefix_is_removed_at_the_first_look(tmp_path: Path, content: bytes) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    shelf.put([1], STATE)
    path = one(shelf)
    path.write_bytes(content)
    assert shelf.entries() == []
    assert not path.exists()


def test_the_least_recently_used_goes_first_whoever_it_belongs_to(tmp_path: Path) -> None:
    old, new = Shelf(tmp_path, "old", 3000), Shelf(tmp_path, "new", 3000)
    old.put([1], STATE)
    old.put([2], STATE)
    for age, entry in enumerate(old.entries()):
        os.utime(entry.path, ns=(age, age + (10 if entry.tokens == [1] else 0)))
    # [2] is the older one now.
    new.put([3], STATE)
    assert [entry.tokens for entry in old.entries()] == [[1]]
    assert [entry.tokens for entry in new.entries()] == [[3]]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*" + SUFFIX)) <= 3000


def test_reading_counts_as_a_use(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    shelf.put([1], STATE)
    os.utime(one(shelf), ns=(0, 0))
    [entry] = shelf.entries()
    entry.read()
    assert entry.path.stat().st_mtime_ns > 0


def test_what_is_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    assert Shelf(tmp_path, "model", 500).put([1], STATE) is None
    assert list(tmp_path.rglob("*" + SUFFIX)) == []


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shelf = Shelf(tmp_path / "file", "model", 1 << 20)
    assert shelf.put([1], STATE) is None
    assert shelf.entries() == []


def test_a_blob_is_known_by_its_digest_and_any_other_file_by_its_content(tmp_path: Path) -> None:
    blob = "sha256-" + "a" * 64
    assert identity_of(f"/nowhere/{blob}") == blob
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    first = identity_of(str(file))
    file.write_bytes(b"two")
    assert identity_of(str(file)) != first


def test_what_was_not_made_here_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    foreign = [tmp_path / name for name in ("mine.prefix", "pictures/a.prefix", "pictures/b.txt")]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
    shelf = Shelf(tmp_path, "model", 3000)
    for token in range(5):
        shelf.put([token], STATE)
    assert len(shelf.entries()) == 2
    beside = one_folder(tmp_path) / "notes.txt"
    beside.write_text("somebody's")
    assert len(shelf.entries()) == 2
    assert all(path.exists() for path in (*foreign, beside))


def one_folder(root: Path) -> Path:
    """The folder of the only identity."""
    [folder] = {path.parent for path in root.glob("*/*" + SUFFIX) if len(path.parent.name) == 32}
    return folder


def test_what_a_killed_writer_left_is_removed_after_a_while(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "model", 1 << 20)
    shelf.put([1], STATE)
    old, new = (one(shelf).with_suffix(f".{pid}") for pid in (7, 8))
    old.write_bytes(b"half")
    os.utime(old, ns=(0, 0))
    new.write_bytes(b"half")
    assert len(shelf.entries()) == 1
    assert [old.exists(), new.exists()] == [False, True]
