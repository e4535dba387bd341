"""A download in progress on disk, as Ollama keeps it: one sparse file, and a small file for each part of it.

blobs/sha256-<hex>-partial        the bytes
blobs/sha256-<hex>-partial-<N>    {"N":0,"Offset":0,"Size":100000000,"Completed":65536}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllama.models.registry.limits import Limits

_MAX_NOTE = 4096


@dataclass(slots=True)
class Part:
    """A range of a blob: `offset`, `size` and the `completed` bytes from its beginning."""

    number: int
    offset: int
    size: int
    completed: int = 0
    saved: int = -1

    @property
    def done(self) -> bool:
        """Whether all of it is there."""
        return self.completed >= self.size


class Partial:
    """The files of one unfinished blob. `acquire` first; all methods do file I/O and raise OSError."""

    def __init__(self, blob: Path, size: int, limits: Limits) -> None:
        self.blob = blob
        self.path = blob.with_name(blob.name + "-partial")
        self.size = size
        self.parts: list[Part] = []
        self.handle = -1
        self._limits = limits

    @property
    def completed(self) -> int:
        """Bytes that are there."""
        return sum(part.completed for part in self.parts)

    @property
    def prefix(self) -> int:
        """Bytes that are there without a gap from the blob's beginning."""
        at = 0
        for part in self.parts:
            at += part.completed
            if not part.done:
                break
        return at

    def acquire(self) -> bool:
        """Opens the file of the bytes and takes it for this process; False while another one has it.

        Then what an earlier download left is taken up, or thrown away if it does not fit together.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # The one who had it may have made it the blob, or have removed it, since we opened it.
            if not _lock(handle) or not _is_at(handle, self.path):
                os.close(handle)
                return False
            self.parts = self._found(os.fstat(handle).st_size)
            if not self.parts:
                self.forget_notes()
                self.parts = split(self.size, self._limits)
            os.ftruncate(handle, self.size)
            for part in self.parts:
                self.save(part)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(handle)
            raise
        self.handle = handle
        return True

    def release(self) -> None:
        """Lets go of the file. Twice is fine."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def noted(self) -> int:
        """Bytes that another process says are there."""
        return sum(part.completed for part in map(_read, self._notes()) if part is not None)

    def save(self, part: Part) -> None:
        """Writes down how far a part is, after its bytes."""
        if part.saved == part.completed:
            return
        path = self.note(part.number)
        temporary = path.with_name(f".vllama-{path.name}")
        data = {"N": part.number, "Offset": part.offset, "Size": part.size, "Completed": part.completed}
        temporary.write_text(json.dumps(data, separators=(",", ":")) + "\n")
        temporary.replace(path)
        part.saved = part.completed

    def write(self, part: Part, data: bytes | bytearray | memoryview) -> None:
        """Appends bytes to a part, and writes down how far it is now and then."""
        view, at = memoryview(data), part.offset + part.completed
        while view:
            written = os.pwrite(self.handle, view, at)
            view, at = view[written:], at + written
        part.completed += len(data)
        if part.completed - part.saved >= self._limits.save_step(part.size) or part.done:
            self.save(part)

    def note(self, number: int) -> Path:
        """The file about a part."""
        return self.path.with_name(f"{self.path.name}-{number}")

    def restart(self) -> None:
        """Forgets everything and makes the blob one part, for a registry that cannot send ranges."""
        self.forget_notes()
        self.parts = [Part(0, 0, self.size)]

    def sync(self) -> None:
        """Waits until the bytes are on the disk: a blob that a power cut empties would look whole."""
        os.fsync(self.handle)

    def commit(self) -> None:
        """Makes the bytes the blob. They must have been checked, and be on the disk."""
        os.replace(self.path, self.blob)
        self.forget_notes()

    def discard(self) -> None:
        """Removes all of it."""
        self.forget_notes()
        self.path.unlink(missing_ok=True)

    def forget_notes(self) -> None:
        """Removes the files about the parts."""
        for path in self._notes():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def forget_leftovers(self) -> None:
        """Removes what a process left that was killed when it had just made the bytes the blob."""
        if not self.path.exists():
            self.forget_notes()

    def _notes(self) -> Iterator[Path]:
        prefix = self.path.name + "-"
        for path in list(self.path.parent.glob(f"{prefix}*")):
            if path.name.removeprefix(prefix).isdecimal():
                yield path

    def _found(self, room: int) -> list[Part]:
        """The parts that were noted, if together they are the blob and `room` bytes hold what they say is there."""
        parts = []
        for path in self._notes():
            part = _read(path)
            if part is None:
                return []
            parts.append(part)
        parts.sort(key=lambda part: part.offset)
        at = 0
        for part in parts:
            if part.offset != at or (part.completed and part.offset + part.completed > room):
                return []
            at += part.size
        return parts if at == self.size and parts else []


def split(size: int, limits: Limits) -> list[Part]:
    """The parts of a new download, as many as there are streams unless they would be too small or too large."""
    step = min(max(size // limits.streams, limits.part_min), limits.part_max)
    return [Part(n, at, min(step, size - at)) for n, at in enumerate(range(0, size, step))]


def _lock(handle: int) -> bool:
    """An exclusive lock that ends with the process. Where there are none, everybody gets it: digests are checked."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _read(path: Path) -> Part | None:
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_NOTE))
        numbers = [data[name] for name in ("N", "Offset", "Size", "Completed")]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    number, offset, size, completed = numbers
    if completed > size or size == 0 or path.name.rpartition("-")[2] != str(number):
        return None
    return Part(number, offset, size, completed, saved=completed)
