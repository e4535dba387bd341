"""Ed25519 signatures (RFC 8032) on Python's integers, for the one signature that a registry's token costs.

Not constant in time: nobody but this user's own processes could measure it, and they can read the key.
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202

_Point = tuple[int, int, int, int]
"""X, Y, Z, T of x = X/Z, y = Y/Z, xy = T/Z."""
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def public_key(seed: bytes) -> bytes:
    """The 32 bytes of the public key that belongs to a private seed of 32 bytes."""
    return _encode(_times(_expand(seed)[0], _BASE))


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature, 64 bytes."""
    scalar, prefix = _expand(seed)
    public = _encode(_times(scalar, _BASE))
    nonce = _hash(prefix + message) % _ORDER
    commitment = _encode(_times(nonce, _BASE))
    answer = (nonce + _hash(commitment + public + message) * scalar) % _ORDER
    return commitment + answer.to_bytes(32, "little")


def _expand(seed: bytes) -> tuple[int, bytes]:
    if len(seed) != 32:
        raise ValueError("an ed25519 seed has 32 bytes")
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.sha512(data).digest(), "little")


def _add(left: _Point, right: _Point) -> _Point:
    x1, y1, z1, t1 = left
    x2, y2, z2, t2 = right
    a, b = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = 2 * _D * t1 * t2 % _P, 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    total: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _encode(point: _Point) -> bytes:
    x, y, z, _ = point
    inverse = pow(z, -1, _P)
    return (y * inverse % _P | (x * inverse % _P & 1) << 255).to_bytes(32, "little")
