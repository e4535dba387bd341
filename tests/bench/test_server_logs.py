"""What is kept of the servers' logs: bounded, compressed, and without the places of this machine."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path

import pytest

from vllama.bench import server_logs
from vllama.bench.probe import scrub
from vllama.bench.server_logs import KEPT_BYTES, seal


def kept(folder: Path, key: str) -> str:
    return gzip.decompress((folder / f"{key}.log.gz").read_bytes()).decode()


def test_a_log_is_compressed_and_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("one\ntwo\n")
    assert seal(tmp_path, tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.log.gz"]
    assert kept(tmp_path, "a") == "one\ntwo\n"


def test_a_long_log_keeps_whole_lines_of_both_ends_and_says_how_much_is_gone(tmp_path: Path) -> None:
    lines = [f"line {number:08d}" for number in range(4 * KEPT_BYTES // 14)]
    (tmp_path / "a.log").write_text("\n".join(lines) + "\n")
    seal(tmp_path, tmp_path)
    text = kept(tmp_path, "a")
    assert len(text) <= KEPT_BYTES
    head, mark, tail = text.partition("\n[")
    number, _, tail = tail.partition(" bytes left out]\n")
    assert mark
    assert head.splitlines() == lines[: len(head.splitlines())]
    assert tail.splitlines() == lines[-len(tail.splitlines()) :]
    assert len(head) + len(tail) + int(number) == 14 * len(lines)


def test_no_log_makes_a_folder_too_large_to_commit(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(3 * KEPT_BYTES)  # nothing that compresses, and no lines
    for number in range(12):
        (tmp_path / f"{number}.log").write_bytes(noise)
    seal(tmp_path, tmp_path)
    # Bytes that are no text become longer; a log of a server is text.
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 15_000_000


def test_the_places_of_this_machine_become_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, clone, logs = tmp_path / "home" / "ann", tmp_path / "home" / "ann" / "src" / "clone", tmp_path / "logs"
    for folder in (clone, logs):
        folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(clone)
    monkeypatch.setenv("HOME", str(home))
    # The folder of this test may lie in any of these: nox puts temporary files into the environment.
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/tmp")
    monkeypatch.setattr("sys.prefix", "/nowhere/venv")
    monkeypatch.setattr("sys.base_prefix", "/nowhere/python")
    (logs / "a.log").write_text(
        f"-I{home}/include ({home}) see {home}.\nopen {clone}/x.py; {tmp_path}/link/y.py\n{home}-2 {home}.old\n"
    )
    seal(logs, tmp_path / "link")
    assert kept(logs, "a") == f"-I~/include (~) see ~.\nopen ./x.py; ./y.py\n{home}-2 {home}.old\n"
    assert scrub(f"{home}/model.gguf", clone) == "~/model.gguf"


def test_a_resumed_run_goes_on_behind_what_was_sealed(tmp_path: Path) -> None:
    for text in ("first\n", "second\n"):
        (tmp_path / "a.log").write_text(text)
        seal(tmp_path, tmp_path)
    assert kept(tmp_path, "a") == "first\nsecond\n"
    for _ in range(3):
        (tmp_path / "a.log").write_text("more\n" * (KEPT_BYTES // 5))
        seal(tmp_path, tmp_path)
    assert len(kept(tmp_path, "a")) <= KEPT_BYTES
    assert kept(tmp_path, "a").startswith("first\nsecond\nmore\n")


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    written: list[bytes] = []
    for name in ("x", "y"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.log").write_text("same\n")
        os.utime(folder / "a.log", (1, len(written)))
        seal(folder, tmp_path)
        written.append((folder / "a.log.gz").read_bytes())
    assert written[0] == written[1]


def test_a_full_disk_leaves_the_log_as_it_was_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_text("one\n")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert seal(tmp_path, tmp_path) == [tmp_path / "a.log"]
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]
    assert server_logs.seal(tmp_path, tmp_path) == []
