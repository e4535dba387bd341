"""The server's log file: where it is, how it is bounded, and `vllama logs`, which prints and follows it."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from vllama.config import Settings
from vllama.errors import NotFoundError

MAX_BYTES = 4 << 20
"""Size at which a log file is begun anew; the one before is kept as `.1`: a server keeps at most twice this."""
MAX_FILES = 10
"""Log files of other ports that are kept; the oldest go."""
POLL_S = 0.25
_ONLY_HERE = logging.getLogger("vllama.log_file")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """For the user alone: prompts are not logged, but names of models and paths are."""

    def _open(self) -> TextIOWrapper:
        file = super()._open()
        os.fchmod(file.fileno(), 0o600)
        return file


def log_file(settings: Settings) -> Path | None:
    """Where the server of these settings writes; None if it shall not."""
    if settings.log_dir == "off":
        return None
    if settings.log_dir:
        folder = Path(settings.log_dir).expanduser()
    else:
        from platformdirs import user_log_path

        folder = user_log_path("vllama", appauthor=False)
    return folder / f"serve-{settings.host.port}.log"


def keep_log(settings: Settings) -> None:
    """From now on every log line goes to the file as well; a folder that cannot be written is a warning, no error."""
    path = log_file(settings)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = _PrivateFile(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logging.getLogger("vllama.server").warning("no log file: %s: %s", path, error.strerror)
        return
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(handler)
    _ONLY_HERE.addHandler(handler)
    _ONLY_HERE.propagate = False
    _ONLY_HERE.setLevel(logging.INFO)
    _remove_old(path)


def note(text: str, *arguments: object) -> None:
    """A line for the file alone: what the user was told on standard error in other words."""
    if _ONLY_HERE.handlers:
        _ONLY_HERE.info(text, *arguments)


def _remove_old(own: Path) -> None:
    """Servers on ports that were free at the time leave a file each: only the newest stay."""
    dated = []
    for path in own.parent.glob("serve-*.log"):
        with contextlib.suppress(OSError):
            dated.append((path.stat().st_mtime, path))
    for _, path in sorted(dated, reverse=True)[MAX_FILES:]:
        for old in (path, path.with_name(path.name + ".1")):
            if path != own:
                with contextlib.suppress(OSError):
                    old.unlink()


def print_log(settings: Settings, lines: int, follow: bool) -> None:
    """The last lines of the log of the server at OLLAMA_HOST's port; with `follow` also what comes, until Ctrl+C.

    Raises NotFoundError if there is no log.
    """
    path = log_file(settings)
    if path is None:
        raise NotFoundError("the server keeps no log file: the setting log_dir is off")
    try:
        text, position = _last(path, lines)
    except FileNotFoundError:
        raise NotFoundError(f"there is no log at {path}: no server has run on port {settings.host.port}") from None
    sys.stdout.write(text)
    sys.stdout.flush()
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for piece in following(path, position):
                sys.stdout.write(piece)
                sys.stdout.flush()


def _last(path: Path, lines: int) -> tuple[str, tuple[int, int]]:
    """The last lines, of the file before as well if this one is short; and (inode, offset) of where they end."""
    kept: deque[str] = deque(maxlen=lines)
    with contextlib.suppress(FileNotFoundError), path.with_name(path.name + ".1").open(encoding="utf-8") as before:
        kept.extend(before)
    with path.open(encoding="utf-8") as file:
        kept.extend(file)
        position = os.fstat(file.fileno()).st_ino, file.tell()
    return "".join(kept), position


def following(path: Path, position: tuple[int, int]) -> Iterator[str]:
    """What is appended from then on, also when the file is begun anew; never ends."""
    inode, offset = position
    while True:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino != inode:
                # What was written to the old file after the last look is now in the one that was kept.
                rest = _rest(path.with_name(path.name + ".1"), inode, offset)
                inode, offset = os.stat(path).st_ino, 0
                if rest:
                    yield rest
            with path.open("rb") as file:
                file.seek(offset)
                # A character may be half written: whole lines only.
                whole = file.read().rpartition(b"\n")[0]
            if whole:
                offset += len(whole) + 1
                yield whole.decode("utf-8", "replace") + "\n"
        time.sleep(POLL_S)


def _rest(path: Path, inode: int, offset: int) -> str:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if os.fstat(file.fileno()).st_ino == inode:
            file.seek(offset)
            return file.read().decode("utf-8", "replace")
    return ""
