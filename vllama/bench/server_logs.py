"""What the servers of a run printed, made fit to be kept beside its records: small, and without this machine's places.

While a run is under way each system appends to `server/KEY.log`. At its end every log becomes `server/KEY.log.gz`.
A log that is left as it was (the harness was killed, or the disk is full) is taken up by `--resume`.
"""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

from vllama.bench.probe import scrub

KEPT_BYTES = 1 << 20
"""Of one system's log, before it is compressed: half from its beginning (how it was set up), half from its end (why it
died). Twelve systems whose logs do not compress at all stay below 20 MB with their records."""

HALF = KEPT_BYTES // 2 - 64
"""With room for the mark between them, so that a log is not cut twice."""


def seal(folder: Path, root: Path) -> list[Path]:
    """Compress the logs in `folder`, scrubbed and bounded; the ones that could not be written, which stay as they are.

    What an earlier part of a resumed run has sealed comes first. `root` is the clone. The same text gives the same
    bytes.
    """
    failed = []
    for log in sorted(folder.glob("*.log")):
        sealed = log.with_suffix(".log.gz")
        new = sealed.with_suffix(".new")
        try:
            text = scrub(_ends(log).decode(errors="replace"), root).encode()
            before = gzip.decompress(sealed.read_bytes()) if sealed.exists() else b""
            new.write_bytes(gzip.compress(_bounded(before + text), mtime=0))
            new.replace(sealed)
            log.unlink()
        except (OSError, EOFError):
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            failed.append(log)
    return failed


def _ends(log: Path) -> bytes:
    """The log, or its two ends: a server may have printed more than fits into memory."""
    size = log.stat().st_size
    with log.open("rb") as file:
        if size <= KEPT_BYTES:
            return file.read()
        head = file.read(HALF)
        file.seek(size - HALF)
        return _joined(head, file.read(), size - 2 * HALF)


def _bounded(text: bytes) -> bytes:
    if len(text) <= KEPT_BYTES:
        return text
    return _joined(text[:HALF], text[-HALF:], len(text) - 2 * HALF)


def _joined(head: bytes, tail: bytes, left_out: int) -> bytes:
    """Both ends at whole lines, where they have lines, and a mark between them."""
    whole_head = head[: head.rfind(b"\n") + 1] or head
    whole_tail = tail[tail.find(b"\n") + 1 :] or tail
    left_out += len(head) - len(whole_head) + len(tail) - len(whole_tail)
    return whole_head + f"\n[{left_out} bytes left out]\n".encode() + whole_tail
