"""Standard base64 as Go reads it, with its error texts."""

from __future__ import annotations

import binascii

from vllama.api.godecoder import DecodeError


def decode_base64(text: str) -> bytes:
    """Standard base64 as Go reads it: line breaks are skipped, padding is a must. Raises DecodeError."""
    data = text.encode("utf-8")
    letters = data.translate(None, b"\r\n")
    decoded = strict_base64(letters)
    if decoded is not None:
        return decoded
    offset = _illegal_offset(data)
    if offset is not None:
        raise DecodeError(f"illegal base64 data at input byte {offset}")
    return binascii.a2b_base64(letters)


def strict_base64(letters: bytes) -> bytes | None:
    """The decoded bytes of base64 without line breaks, None unless it is plainly right."""
    # Python's strict mode lets padding follow a whole group.
    if len(letters) % 4 or letters[-3:-2] == b"=":
        return None
    try:
        return binascii.a2b_base64(letters, strict_mode=True)
    except binascii.Error:
        return None


_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _illegal_offset(data: bytes) -> int | None:
    """Where Go sees the fault, in bytes; it counts line breaks, and names a cut end by the start of its group."""
    letters = 0
    for pos, byte in enumerate(data):
        if byte in _BASE64:
            letters += 1
        elif byte not in b"\r\n":
            return _illegal_padding(data, pos, letters % 4)
    return len(data) - letters % 4 if letters % 4 else None


def _illegal_padding(data: bytes, pos: int, letters: int) -> int | None:
    if data[pos] != 0x3D or letters < 2:
        return pos
    pos = _skip_breaks(data, pos + 1)
    if letters == 2:
        if pos == len(data):
            return pos
        if data[pos] != 0x3D:
            return pos - 1
        pos = _skip_breaks(data, pos + 1)
    return pos if pos < len(data) else None


def _skip_breaks(data: bytes, pos: int) -> int:
    while data[pos : pos + 1] in (b"\r", b"\n"):
        pos += 1
    return pos
