"""When the kernel received bytes, instead of when this process got round to reading them.

Linux stamps every TCP segment in the network stack and hands the stamp of the last byte over with the read
(`SO_TIMESTAMPNS`), also on loopback. A client that is kept from the CPU by a busy server then still knows when the text
arrived. The stamps are on the wall clock; each read measures the distance to the monotonic clock anew, so
a slewed clock does no harm and a stepped one is noticed.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Literal

Source = Literal["", "kernel", "loop", "mixed"]

_SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
_TIMESPEC = struct.Struct("@qq")
_CLOSE_NS = 20_000
"""Two clock readings further apart than this were interrupted; the distance is taken again."""

ANCILLARY_SIZE = socket.CMSG_SPACE(_TIMESPEC.size) if hasattr(socket, "CMSG_SPACE") else 0


def enable(sock: socket.socket) -> bool:
    """Ask for receive stamps; False where the system has none for TCP (macOS, Windows, 32-bit Linux)."""
    if sys.platform != "linux" or struct.calcsize("l") != 8:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def stamp(ancillary: list[tuple[int, int, bytes]], not_before: int, now: int) -> int:
    """The arrival on the monotonic clock (ns) from a read's ancillary data; 0 if there is none to be trusted.

    A stamp must lie between `not_before` (nothing can arrive before it was asked for) and `now`: one that does
    not was taken before the wall clock was set.
    """
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            arrival: int = seconds * 1_000_000_000 + nanoseconds - wall_offset()
            return arrival if not_before <= arrival <= now else 0
    return 0


def wall_offset() -> int:
    """ns by which the wall clock is ahead of the monotonic clock, right to some 100 ns."""
    best, width = 0, 1 << 62
    for _ in range(4):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if after - before < width:
            best, width = wall - (before + after) // 2, after - before
        if width < _CLOSE_NS:
            break
    return best
