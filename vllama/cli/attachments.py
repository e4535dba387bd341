"""Images that a message names by their paths: found, read, and taken out of the text."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vllama.errors import RequestError

MAX_BYTES = 100 << 20
"""Size of the largest file that is sent."""
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:\.{0,2}/|~/|\\)[\S\\ ]+?\.(?:jpe?g|png|webp|wav)\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([ ()\[\]{}$&;'*?~\\])")
_KINDS = (
    (b"\xff\xd8\xff", 0, "image"),
    (b"\x89PNG\r\n\x1a\n", 0, "image"),
    (b"WEBP", 8, "image"),
    (b"WAVE", 8, "audio"),
)


def attached(text: str, capabilities: Sequence[str], model: str) -> tuple[str, list[str], list[str]]:
    """The text without the paths of files that exist, those files in base64, and a line about each.

    Raises `RequestError` if the model cannot take one, or a file is not what its name says; nothing is sent then.
    """
    data, lines = [], []
    for written, path in named(text):
        kind, content = _read(path)
        needed = "vision" if kind == "image" else "audio"
        if needed not in capabilities:
            raise RequestError(f"{model} has no {needed}: it cannot take {path}. Nothing was sent")
        data.append(base64.b64encode(content).decode("ascii"))
        lines.append(f"Added {kind} '{path}'")
        for quoted in (f"'{written}'", f'"{written}"', written):
            text = text.replace(quoted, "")
    return (text.strip() if data else text), data, lines


def named(text: str) -> list[tuple[str, Path]]:
    """Paths of images in a text as they are written there, with the files that they mean; those that exist."""
    found = []
    for match in _PATH.finditer(text):
        written = match[0]
        # A path begins at a word's beginning; further right in "see the/x/y.png" there is none.
        if match.start() and text[match.start() - 1] not in " \t\n'\"(<[":
            continue
        path = Path(os.path.expanduser(_ESCAPED.sub(r"\1", written)))
        if path.is_file():
            found.append((written, path))
    return found


def _read(path: Path) -> tuple[str, bytes]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    for magic, offset, kind in _KINDS:
        if content[offset : offset + len(magic)] == magic:
            return kind, content
    raise RequestError(f"{path} is no JPEG, PNG, WebP or WAV file")
